"""The queue before an engine: what it puts together, what it lets in, and what becomes of each request."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import BackendError, InputError, Overloaded
from alexnet_deploy.serving import backlog as backlog_module
from alexnet_deploy.serving import cost as cost_module
from alexnet_deploy.serving.backlog import Backlog
from alexnet_deploy.serving.batching import Batcher, BatchRecord
from alexnet_deploy.serving.cost import Cost
from tests.patience import PATIENCE_S


def double(rows: np.ndarray) -> np.ndarray:
    return (2 * rows).astype(np.float32)


def rows(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def run(
    use: Callable[[Batcher], Awaitable[Any]], engine: Callable[[np.ndarray], np.ndarray] = double, **options: Any
) -> list[BatchRecord]:
    """Runs `use` with a batcher, closes it, and gives the batches that the engine computed; nothing may go wrong unseen."""
    records: list[BatchRecord] = []
    unseen: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
        given = {"max_batch": 8, "max_delay_s": 0.02, "max_wait_s": 60.0, "record": records.append, **options}
        batcher = Batcher(engine, given.pop("cost", Cost(0.0, 1e-6)), **given)
        try:
            await use(batcher)
        finally:
            await batcher.close()

    asyncio.run(main())
    assert not unseen
    return records


async def submit(batcher: Batcher, values: np.ndarray, prepared: asyncio.Event | None = None) -> np.ndarray:
    async def prepare() -> np.ndarray:
        if prepared is not None:
            await prepared.wait()
        return values

    return await batcher.answer(len(values), prepare)


class Gate:
    """An engine that computes when it is told to."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.open = threading.Event()

    def __call__(self, values: np.ndarray) -> np.ndarray:
        self.called.set()
        assert self.open.wait(PATIENCE_S)
        return double(values)


def test_requests_that_come_while_the_engine_is_busy_share_its_next_call() -> None:
    engine = Gate()

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(submit(batcher, rows(7)))
        await asyncio.to_thread(engine.called.wait, PATIENCE_S)
        others = asyncio.gather(*(submit(batcher, rows(i)) for i in range(5)))
        await asyncio.sleep(0)
        engine.open.set()
        assert (await first).item() == 14
        assert [a.item() for a in await others] == [0, 2, 4, 6, 8]

    assert [record.rows for record in run(use, engine)] == [1, 5]


def test_a_lone_request_does_not_wait() -> None:
    assert run(lambda batcher: asyncio.wait_for(submit(batcher, rows(1)), PATIENCE_S), max_delay_s=3600)[0].rows == 1


def test_whoever_is_ready_waits_for_those_who_are_let_in_and_still_prepared() -> None:
    async def use(batcher: Batcher) -> None:
        prepared = asyncio.Event()
        slow = asyncio.create_task(submit(batcher, rows(1), prepared))
        await asyncio.sleep(0)
        quick = asyncio.create_task(submit(batcher, rows(2)))
        await asyncio.sleep(0.02)
        prepared.set()
        assert [a.item() for a in await asyncio.wait_for(asyncio.gather(slow, quick), PATIENCE_S)] == [2, 4]

    assert [record.rows for record in run(use, max_delay_s=3600)] == [2]


@pytest.mark.parametrize("ends", ["by the delay", "by a failure", "by leaving"])
def test_nobody_waits_longer_than_the_delay_or_for_rows_that_never_come(ends: str) -> None:
    async def use(batcher: Batcher) -> None:
        async def fail() -> np.ndarray:
            await prepared.wait()
            raise InputError("no picture")

        prepared = asyncio.Event()
        slow = asyncio.create_task(batcher.answer(1, fail))
        await asyncio.sleep(0)
        quick = asyncio.create_task(submit(batcher, rows(2)))
        await asyncio.sleep(0)
        if ends == "by a failure":
            prepared.set()
        elif ends == "by leaving":
            slow.cancel()
        assert (await asyncio.wait_for(quick, PATIENCE_S)).item() == 4
        prepared.set()
        await asyncio.gather(slow, return_exceptions=True)
        assert batcher.reserved_rows == 0

    (record,) = run(use, max_delay_s=0.05 if ends == "by the delay" else 3600)
    assert record.rows == 1
    assert ends != "by the delay" or record.waited_s[0] >= 0.045


def test_a_full_batch_does_not_wait() -> None:
    async def use(batcher: Batcher) -> None:
        never = asyncio.create_task(submit(batcher, rows(1), asyncio.Event()))
        await asyncio.sleep(0)
        await asyncio.wait_for(submit(batcher, rows(*range(8))), PATIENCE_S)
        never.cancel()

    assert [record.rows for record in run(use, max_delay_s=3600)] == [8]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 8))
def test_every_request_gets_its_own_rows_in_order(sizes: list[int], max_batch: int) -> None:
    async def use(batcher: Batcher) -> None:
        asked = [np.arange(n, dtype=np.float32)[:, None] + 100 * i for i, n in enumerate(sizes)]
        answers = await asyncio.gather(*(submit(batcher, values) for values in asked))
        for values, answer in zip(asked, answers, strict=True):
            np.testing.assert_array_equal(answer, 2 * values)

    records = run(use, max_batch=max_batch, max_delay_s=0.0)
    assert sum(record.rows for record in records) == sum(sizes)
    assert max(record.rows for record in records) <= max_batch


def test_rows_that_the_engine_fails_on_fail_their_own_request_only() -> None:
    def picky(values: np.ndarray) -> np.ndarray:
        if (values == 13).any():
            raise BackendError("thirteen")
        return double(values)

    async def use(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(submit(batcher, rows(i)) for i in (12, 13, 14)), return_exceptions=True)
        assert isinstance(answers[1], BackendError)
        assert [answers[0].item(), answers[2].item()] == [24, 28]

    run(use, picky)


def test_a_caller_that_leaves_is_not_computed_for() -> None:
    engine = Gate()

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(submit(batcher, rows(0)))
        await asyncio.to_thread(engine.called.wait, PATIENCE_S)
        leaving = asyncio.create_task(submit(batcher, rows(1)))
        staying = asyncio.create_task(submit(batcher, rows(2)))
        await asyncio.sleep(0)
        leaving.cancel()
        engine.open.set()
        assert (await staying).item() == 4
        assert (await first).item() == 0
        assert batcher.reserved_rows == 0

    assert [record.rows for record in run(use, engine)] == [1, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_that_leaves_while_it_is_computed_for_misses_nothing(fails: bool) -> None:
    engine = Gate()

    def computed(values: np.ndarray) -> np.ndarray:
        answers = engine(values)
        if fails:
            raise BackendError("the GPU is gone")
        return answers

    async def use(batcher: Batcher) -> None:
        leaving = asyncio.create_task(submit(batcher, rows(1)))
        await asyncio.to_thread(engine.called.wait, PATIENCE_S)
        leaving.cancel()
        await asyncio.wait([leaving])
        engine.open.set()

    run(use, computed)


def test_closing_computes_what_is_queued() -> None:
    answers = []

    async def use(batcher: Batcher) -> None:
        never = asyncio.create_task(submit(batcher, rows(2), asyncio.Event()))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(submit(batcher, rows(1)))
        await asyncio.sleep(0)
        await batcher.close()
        answers.append((await waiting).item())
        never.cancel()

    run(use, max_delay_s=3600)
    assert answers == [2]


def test_more_work_than_can_be_done_in_time_is_refused_and_says_when_to_come_back() -> None:
    free = threading.Event()

    def slow(values: np.ndarray) -> np.ndarray:
        free.wait(PATIENCE_S)
        return double(values)

    async def use(batcher: Batcher) -> None:
        accepted = []
        with pytest.raises(Overloaded) as refused:
            for i in range(100):
                if refusal := batcher.overload():
                    raise refusal
                accepted.append(asyncio.create_task(submit(batcher, rows(i))))
                await asyncio.sleep(0)
        assert 0.05 < refused.value.retry_after_s < 0.06
        # A batch of 8 rows takes 8 ms, so that 50 ms hold six of them and a bit.
        assert 48 <= len(accepted) <= 56
        free.set()
        assert [a.item() for a in await asyncio.gather(*accepted)] == [2 * i for i in range(len(accepted))]
        assert batcher.overload() is None

    run(use, slow, cost=Cost(0.0, 0.001), max_wait_s=0.05)


def test_an_engine_slower_than_the_wait_still_gets_a_batch_that_runs_and_one_that_gathers() -> None:
    async def use(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(submit(batcher, rows(i)) for i in range(4)), return_exceptions=True)
        assert [isinstance(a, Overloaded) for a in answers] == [False, False, True, True]

    run(use, cost=Cost(0.0, 10.0), max_wait_s=0.05)


def test_a_loop_that_is_behind_lets_some_in_and_refuses_the_rest_until_it_keeps_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast engine's queue stays empty while requests wait to be read."""
    cpu_s = [0.0]
    monkeypatch.setattr(backlog_module, "time", SimpleNamespace(thread_time=lambda: cpu_s[0]))

    async def use() -> None:
        backlog = Backlog(max_wait_s=0.24)
        batcher = Batcher(double, Cost(0.0, 1e-6), max_batch=8, max_delay_s=0, max_wait_s=0.24, behind=backlog.refuses)

        def refused_after(seconds: float) -> bool:
            cpu_s[0] += seconds
            return batcher.overload() is not None

        backlog.close()
        assert not refused_after(5.0)  # one long round is a burst, or the start of a model
        backlog._next_round()
        assert not refused_after(0.13)
        backlog._next_round()
        assert not refused_after(0.007)
        assert refused_after(0.001)
        assert "more requests come than can be read" in str(batcher.overload())
        assert (await submit(batcher, rows(1))).item() == 2  # what was let in before is not refused now
        cpu_s[0] += 0.05
        backlog._next_round()
        assert not refused_after(0.007)
        assert refused_after(0.001)
        backlog._next_round()  # short: it keeps up again
        assert not refused_after(0.1)
        await batcher.close()

    asyncio.run(use())


def test_batches_are_short_enough_for_the_wait() -> None:
    async def use(batcher: Batcher) -> None:
        await asyncio.gather(*(submit(batcher, rows(i)) for i in range(8)))

    records = run(use, lambda values: (time.sleep(0.01 * len(values)), double(values))[1], cost=Cost(0.0, 0.01), max_wait_s=0.1)
    assert max(record.rows for record in records) <= 5


def test_what_a_batch_really_takes_is_learnt_while_it_serves() -> None:
    cost = Cost(0.0, 1e-6)

    async def use(batcher: Batcher) -> None:
        for _ in range(3):
            await submit(batcher, rows(1))

    run(use, lambda values: (time.sleep(0.001), double(values))[1], cost=cost)
    assert cost.seconds(1) > 1e-5


def test_two_instances_compute_at_once() -> None:
    together = threading.Barrier(2, timeout=PATIENCE_S)

    def engine(values: np.ndarray) -> np.ndarray:
        together.wait()
        return double(values)

    async def use(batcher: Batcher) -> None:
        await asyncio.gather(submit(batcher, rows(1)), submit(batcher, rows(2)))

    assert len(run(use, engine, max_batch=1, instances=2)) == 2


def test_an_unexpected_failure_of_the_engine_reaches_its_caller() -> None:
    def broken(values: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("oh")

    async def use(batcher: Batcher) -> None:
        with pytest.raises(Exception, match="oh"):
            await submit(batcher, rows(1))

    run(use, broken)


def test_the_cost_of_a_call_is_not_taken_for_a_cost_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]

    def call(rows: int) -> None:
        now_s[0] += 0.02

    monkeypatch.setattr(cost_module, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    cost = Cost.measure(call, 16)
    assert cost.rows_within(0.03) >= 16
    assert cost.seconds(16) == pytest.approx(0.02)


def test_the_cost_follows_what_is_measured() -> None:
    cost = Cost(0.0, 0.001)
    for _ in range(50):
        cost.observe(10, 0.1)
    assert cost.seconds(10) == pytest.approx(0.1, rel=0.1)
    for _ in range(200):
        cost.observe(10, 0.001)
    assert cost.seconds(10) == pytest.approx(0.001, rel=0.1)


def test_settings_refuse_what_cannot_be() -> None:
    from alexnet_deploy.serving.settings import Settings

    for wrong in ({"max_batch": 0}, {"max_delay_s": -1}, {"token": "a b"}, {"tls_key": "key.pem"}):
        with pytest.raises(InputError):
            Settings(**wrong)  # type: ignore[arg-type]
