"""Dynamic batching: rows of several requests share one call of the engine.

A row waits at most `max_delay_s` for company while the engine is idle, and not at all behind a batch that runs: the next
one gathers meanwhile. Work that could not be done in `max_wait_s` is refused before it costs anything, and batches are no
longer than half of that, so that whoever is let in keeps the latency.

All of it runs in one event loop; only the engine and the copying of rows run in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import AlexnetDeployError, Overloaded
from alexnet_deploy.serving.cost import Cost

Rows = npt.NDArray[Any]
Answers = npt.NDArray[np.float32]

# However fast the engine is, no more rows wait than this, or so many batches: memory is bounded too.
_WAITING_ROWS = 1024
_WAITING_BATCHES = 16


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One call of the engine: how many rows, how long it took, and how long each of its requests had waited, in seconds."""

    rows: int
    seconds: float
    waited_s: tuple[float, ...]


@dataclass(eq=False, slots=True)
class _Job:
    rows: Rows
    answer: asyncio.Future[Answers]
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """The queue before one engine. Made, used and closed in one event loop."""

    def __init__(
        self,
        run: Callable[[Rows], Answers],
        cost: Cost,
        *,
        max_batch: int,
        max_delay_s: float,
        max_wait_s: float,
        instances: int = 1,
        record: Callable[[BatchRecord], None] = lambda record: None,
    ) -> None:
        """
        Args:
            run: the engine: (n, ...) to (n, classes), n <= max_batch; called in threads, `instances` at once.
            cost: how long that takes.
            record: told of every batch.
        """
        self._run = run
        self._cost = cost
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._max_wait_s = max_wait_s
        self._instances = instances
        self._record = record
        self._jobs: deque[_Job] = deque()
        self._queued_rows = 0
        self._reserved_rows = 0
        self._changed = asyncio.Event()
        self._closing = False
        self._threads = ThreadPoolExecutor(instances, "alexnet-deploy-engine")
        self._loops = [asyncio.create_task(self._serve()) for _ in range(instances)]

    @property
    def reserved_rows(self) -> int:
        """Rows let in and not answered yet."""
        return self._reserved_rows

    @contextmanager
    def admitted(self, rows: int) -> Iterator[None]:
        """Holds room for `rows` rows while the block prepares and submits them.

        Raises:
            Overloaded: they would wait longer than `max_wait_s`; says when to ask again.
        """
        self.check(rows)
        self._reserved_rows += rows
        try:
            yield
        finally:
            self._reserved_rows -= rows

    def check(self, rows: int = 1) -> None:
        """Raises Overloaded where `admitted` would."""
        wait_s = self._wait_s(self._reserved_rows)
        # A batch that runs and one that gathers are let in at any speed: else a slow engine would never see a full batch.
        too_long = wait_s > self._max_wait_s and self._reserved_rows >= 2 * self._instances * self._batch_limit()
        too_many = self._reserved_rows > 0 and self._reserved_rows + rows > max(_WAITING_ROWS, _WAITING_BATCHES * self._max_batch)
        if too_long or too_many:
            error = Overloaded(
                f"{self._reserved_rows} pictures wait already", expected="fewer requests at a time", fix="ask again later"
            )
            error.retry_after_s = wait_s
            raise error

    async def submit(self, rows: Rows) -> Answers:
        """The engine's answers to `rows`, in their order; to be called within `admitted`.

        A caller that is cancelled leaves the queue; nothing is computed for it.
        """
        pieces = [rows[start : start + self._max_batch] for start in range(0, len(rows), self._max_batch)]
        jobs = [_Job(piece, asyncio.get_running_loop().create_future()) for piece in pieces]
        self._jobs.extend(jobs)
        self._queued_rows += len(rows)
        self._changed.set()
        if len(jobs) == 1:
            return await jobs[0].answer
        return np.concatenate(await asyncio.gather(*(job.answer for job in jobs)))

    async def close(self) -> None:
        """Computes what is queued, then ends. Nothing may be submitted any more."""
        self._closing = True
        self._changed.set()
        await asyncio.gather(*self._loops)
        self._threads.shutdown(wait=False)

    async def _serve(self) -> None:
        while True:
            while not self._jobs:
                if self._closing:
                    return
                await self._change()
            await self._gather()
            batch = self._take()
            if batch:
                await self._compute(batch)

    async def _change(self, timeout_s: float | None = None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _gather(self) -> None:
        """Waits until a batch is full, or its oldest row has waited long enough."""
        limit = self._batch_limit()
        while self._jobs and self._queued_rows < limit and not self._closing:
            left_s = self._jobs[0].arrived + self._max_delay_s - time.perf_counter()
            if left_s <= 0:
                return
            await self._change(left_s)

    def _take(self) -> list[_Job]:
        """The jobs of the next batch, the oldest first; those whose caller has gone are dropped."""
        limit = self._batch_limit()
        batch: list[_Job] = []
        rows = 0
        while self._jobs and (not batch or rows + len(self._jobs[0].rows) <= limit):
            job = self._jobs.popleft()
            self._queued_rows -= len(job.rows)
            if not job.answer.done():
                batch.append(job)
                rows += len(job.rows)
        return batch

    async def _compute(self, batch: list[_Job]) -> None:
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        try:
            answers = await loop.run_in_executor(self._threads, self._run_together, [job.rows for job in batch])
        except Exception as error:
            await self._blame(batch, error)
            return
        seconds = time.perf_counter() - start
        rows = len(answers)
        self._cost.observe(rows, seconds)
        self._record(BatchRecord(rows, seconds, tuple(start - job.arrived for job in batch)))
        position = 0
        for job in batch:
            _answer(job, answers[position : position + len(job.rows)])
            position += len(job.rows)

    async def _blame(self, batch: list[_Job], error: Exception) -> None:
        """One request's rows must not fail another's: each of a failed batch is computed alone."""
        if len(batch) == 1:
            if not batch[0].answer.done():
                wrapped = (
                    error
                    if isinstance(error, AlexnetDeployError)
                    else AlexnetDeployError(f"the engine failed: {error}", fix="alexnet-deploy doctor")
                )
                batch[0].answer.set_exception(wrapped)
            return
        for job in batch:
            await self._compute([job])

    def _run_together(self, rows: list[Rows]) -> Answers:
        # A request's tensor may start anywhere in its body; engines want it aligned.
        together = np.require(rows[0], requirements=("C", "A")) if len(rows) == 1 else np.concatenate(rows)
        return self._run(together)

    def _batch_limit(self) -> int:
        return min(self._max_batch, self._cost.rows_within(self._max_wait_s / 2))

    def _wait_s(self, rows: int) -> float:
        """How long `rows` rows keep the engine."""
        batch = self._batch_limit()
        return rows / batch * self._cost.seconds(batch) / self._instances


def _answer(job: _Job, answers: Answers) -> None:
    if not job.answer.done():
        job.answer.set_result(answers)
