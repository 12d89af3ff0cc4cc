"""Dynamic batching: rows of several requests share one call of the engine.

The engine never waits for the event loop: each instance has a thread that takes what waits as soon as its last call is over.
Rows go at once when the engine is idle and nobody else is on the way; `max_delay_s` is what they wait, at most, for requests
that are let in and still being prepared. Behind a call that runs, the next batch gathers by itself.

Work that could not be done in `max_wait_s` is refused before it costs anything, and batches are no longer than half of that,
so that whoever is let in keeps the latency.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
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
    """The queue before one engine. Made, used and closed in one event loop; only `_serve` and what it calls run in threads."""

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
        behind: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            run: the engine: (n, ...) to (n, classes), n <= max_batch; called in threads, `instances` at once.
            cost: how long that takes.
            record: told of every batch, in the event loop.
            behind: whether more comes than can be read, so that requests wait before they get here.
        """
        self._run = run
        self._cost = cost
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._max_wait_s = max_wait_s
        self._instances = instances
        self._record = record
        self._behind = behind
        self._loop = asyncio.get_running_loop()
        self._reserved_rows = 0
        self._changed = threading.Condition()  # guards what follows
        self._jobs: deque[_Job] = deque()
        self._queued_rows = 0
        self._on_their_way = 0
        self._closing = False
        self._threads = [threading.Thread(target=self._serve, name=f"alexnet-deploy-engine-{i}") for i in range(instances)]
        for thread in self._threads:
            thread.start()

    @property
    def reserved_rows(self) -> int:
        """Rows let in and not answered yet."""
        return self._reserved_rows

    async def answer(self, rows: int, prepare: Callable[[], Awaitable[Rows]]) -> Answers:
        """The engine's answers to the `rows` rows that `prepare` makes, in their order.

        A caller that is cancelled leaves the queue; nothing is computed for it.

        Raises:
            Overloaded: they would wait longer than `max_wait_s`; says when to ask again, and nothing is prepared.
            Whatever `prepare` or the engine raises.
        """
        if refusal := self._overload(rows, behind=False):
            raise refusal
        self._reserved_rows += rows
        try:
            jobs = await self._queued(rows, prepare)
            if len(jobs) == 1:
                return await jobs[0].answer
            return np.concatenate(await asyncio.gather(*(job.answer for job in jobs)))
        finally:
            self._reserved_rows -= rows

    def overload(self) -> Overloaded | None:
        """Why a request that begins now has no chance, before anything is spent on it."""
        return self._overload(1, behind=self._behind())

    def _overload(self, rows: int, *, behind: bool) -> Overloaded | None:
        wait_s = self._wait_s(self._reserved_rows)
        # A batch that runs and one that gathers are let in at any speed: else a slow engine would never see a full batch.
        too_long = wait_s > self._max_wait_s and self._reserved_rows >= 2 * self._instances * self._batch_limit()
        too_many = self._reserved_rows > 0 and self._reserved_rows + rows > max(_WAITING_ROWS, _WAITING_BATCHES * self._max_batch)
        if not (too_long or too_many or behind):
            return None
        found = "more requests come than can be read" if behind else f"{self._reserved_rows} pictures wait already"
        error = Overloaded(found, expected="fewer requests at a time", fix="ask again later")
        error.retry_after_s = wait_s
        return error

    async def close(self) -> None:
        """Computes what is queued, then ends. Nothing may be asked any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    async def _queued(self, rows: int, prepare: Callable[[], Awaitable[Rows]]) -> list[_Job]:
        """Prepares rows, and puts them into the queue; meanwhile others may wait for them."""
        jobs: list[_Job] = []
        with self._changed:
            self._on_their_way += 1
        try:
            prepared = await prepare()
            pieces = [prepared[start : start + self._max_batch] for start in range(0, rows, self._max_batch)]
            jobs = [_Job(piece, self._loop.create_future()) for piece in pieces]
        finally:
            with self._changed:
                self._on_their_way -= 1
                self._jobs.extend(jobs)
                self._queued_rows += sum(len(job.rows) for job in jobs)
                self._changed.notify()
        return jobs

    def _serve(self) -> None:
        while batch := self._next_batch():
            self._compute(batch)

    def _next_batch(self) -> list[_Job]:
        """Waits for jobs and for their company; none when the batcher closes."""
        with self._changed:
            while True:
                batch = self._take() if self._jobs and self._patience_s() <= 0 else []
                if batch or (self._closing and not self._jobs):
                    return batch
                self._changed.wait(self._patience_s() if self._jobs else None)

    def _patience_s(self) -> float:
        """How long the oldest job still waits for others."""
        if not self._on_their_way or self._queued_rows >= self._batch_limit() or self._closing:
            return 0.0
        return self._jobs[0].arrived + self._max_delay_s - time.perf_counter()

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
        if self._jobs:
            self._changed.notify()  # what is left is for another instance
        return batch

    def _compute(self, batch: list[_Job]) -> None:
        start = time.perf_counter()
        try:
            answers = self._run_together([job.rows for job in batch])
        except Exception as error:
            if len(batch) == 1:
                self._loop.call_soon_threadsafe(_fail, batch[0], error)
                return
            for job in batch:  # one request's rows must not fail another's
                self._compute([job])
            return
        self._loop.call_soon_threadsafe(self._deliver, batch, answers, start, time.perf_counter() - start)

    def _run_together(self, rows: list[Rows]) -> Answers:
        # A request's tensor may start anywhere in its body; engines want it aligned.
        together = np.require(rows[0], requirements=("C", "A")) if len(rows) == 1 else np.concatenate(rows)
        return self._run(together)

    def _deliver(self, batch: list[_Job], answers: Answers, start: float, seconds: float) -> None:
        position = 0
        for job in batch:
            if not job.answer.done():
                job.answer.set_result(answers[position : position + len(job.rows)])
            position += len(job.rows)
        self._cost.observe(len(answers), seconds)
        self._record(BatchRecord(len(answers), seconds, tuple(start - job.arrived for job in batch)))

    def _batch_limit(self) -> int:
        return min(self._max_batch, self._cost.rows_within(self._max_wait_s / 2))

    def _wait_s(self, rows: int) -> float:
        """How long `rows` rows keep the engine."""
        batch = self._batch_limit()
        return rows / batch * self._cost.seconds(batch) / self._instances


def _fail(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        known = isinstance(error, AlexnetDeployError)
        job.answer.set_exception(
            error if known else AlexnetDeployError(f"the engine failed: {error}", fix="alexnet-deploy doctor")
        )
