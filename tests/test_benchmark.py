"""Timing in turns: fair, warmed up, and counted right. The clock is a fake one, so that no test depends on the machine."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny import LABELS, SIZE, tiny_artifact, tiny_graph

from alexnet_deploy import benchmark as room
from alexnet_deploy.benchmark import LEAST_RUNS, WARM_UP_RUNS, benchmark, random_batch
from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph import adopt
from alexnet_deploy.runtime import Runtime


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Runtime, Runtime]]:
    one, two = tiny_artifact(tmp_path / "one.onnx"), tiny_artifact(tmp_path / "two.onnx", graph=tiny_graph(bias=1.0))
    with Runtime(one.path) as first, Runtime(two.path) as second:
        yield first, second


class Machine:
    """A machine whose calls take what they are told to take: each `call(name)` advances its clock."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.now, self.calls = seconds, 0.0, list[str]()

    def clock(self) -> float:
        return self.now

    def call(self, name: str) -> None:
        self.calls.append(name)
        self.now += self.seconds[name]

    def run(self, seconds: float, most_runs: int = 10_000) -> list[list[float]]:
        calls = [lambda name=name: self.call(name) for name in self.seconds]
        return room._in_turns(calls, seconds, most_runs, np.random.default_rng(0), self.clock, lambda done: None)


def test_every_artifact_is_warmed_up_before_any_is_timed() -> None:
    machine = Machine({"slow": 0.1, "fast": 0.01})
    machine.run(1.0)
    assert machine.calls[: 2 * WARM_UP_RUNS] == ["slow"] * WARM_UP_RUNS + ["fast"] * WARM_UP_RUNS


def test_turns_alternate_and_each_artifact_has_its_time() -> None:
    machine = Machine({"slow": 0.05, "fast": 0.03})
    slow, fast = machine.run(1.0)
    assert sum(slow) == pytest.approx(1.0, abs=0.06)
    assert sum(fast) == pytest.approx(1.0, abs=0.06)
    timed = "".join(name[0] for name in machine.calls[2 * WARM_UP_RUNS :])
    assert "sss" not in timed[: 2 * len(slow)], "nobody waits for two turns"
    assert slow == pytest.approx([0.05] * len(slow))


def test_a_turn_of_several_calls_leaves_out_the_first() -> None:
    """It is the one that finds the caches full of somebody else's weights."""
    machine = Machine({"only": 0.001})
    (taken,) = machine.run(0.1)
    assert len(machine.calls) - WARM_UP_RUNS > len(taken) >= 100


def test_threads_come_to_rest_before_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({"slow": 0.05, "fast": 0.03})
    monkeypatch.setattr(room, "sleep", lambda seconds: machine.calls.append(f"rest of {seconds}"))
    machine.run(1.0)
    timed = machine.calls[2 * WARM_UP_RUNS :]
    assert timed[::2] == [f"rest of {room.REST_SECONDS}"] * (len(timed) // 2)  # each turn is one such call
    assert {*timed[1::2]} == {"slow", "fast"}


def test_a_call_slower_than_the_time_allowed_is_still_made_often_enough() -> None:
    (taken,) = Machine({"huge": 10.0}).run(0.5)
    assert len(taken) == LEAST_RUNS


def test_the_number_of_runs_is_limited() -> None:
    (taken,) = Machine({"tiny": 1e-4}).run(100.0, most_runs=300)
    assert 300 <= len(taken) < 600


def test_garbage_collection_waits_until_the_timing_is_over() -> None:
    seen = []
    calls = [lambda: seen.append(gc.isenabled())]
    ticks = iter(range(10_000))
    room._in_turns(calls, 5.0, 10, np.random.default_rng(0), lambda: float(next(ticks)), lambda done: None)
    assert seen[WARM_UP_RUNS:]
    assert not any(seen[WARM_UP_RUNS:])
    assert gc.isenabled()


def test_figures_are_those_of_the_calls(pair: tuple[Runtime, Runtime]) -> None:
    found = benchmark(pair, (1, 4), seconds=0.02)
    assert [(t.ran.file, t.batch) for t in found.timings] == [("one.onnx", 1), ("two.onnx", 1), ("one.onnx", 4), ("two.onnx", 4)]
    for timing in found.timings:
        taken = np.array(timing.latencies_ms)
        assert timing.runs == len(taken) >= LEAST_RUNS
        assert timing.p50_ms == pytest.approx(np.median(taken), abs=1e-3)
        assert timing.min_ms <= timing.p50_ms <= timing.p90_ms <= timing.p99_ms
        assert timing.images_per_second == pytest.approx(1000 * timing.batch / timing.p50_ms)
    first, second = found.timings[:2]
    assert (first.speed_up, first.speed_up_interval) == (1.0, None)
    assert second.speed_up == pytest.approx(first.p50_ms / second.p50_ms)
    assert second.speed_up_interval is not None
    assert second.speed_up in second.speed_up_interval
    assert found.of("two.onnx", 4) is found.timings[3]
    assert found.of("two.onnx", 5) is None
    assert found.machine.cores >= 1
    assert "numpy" in found.machine.packages


def test_each_has_taken_its_memory_before_any_is_timed(pair: tuple[Runtime, Runtime], monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the largest batch, and in large pages where it will have them."""
    seen: list[tuple[Runtime, int | str]] = []
    logits = Runtime.logits
    monkeypatch.setattr(Runtime, "logits", lambda own, batch: seen.append((own, len(batch))) or logits(own, batch))
    monkeypatch.setattr(Runtime, "settle", lambda own: seen.append((own, "settled")))
    benchmark(pair, (1, 4), seconds=0.01)
    assert sorted(seen[:4], key=lambda each: pair.index(each[0])) == [(own, step) for own in pair for step in (4, "settled")]
    assert "settled" not in [step for _, step in seen[4:]]


def test_one_file_under_two_names_is_timed_once(tmp_path: Path) -> None:
    """As a plan whose twin runs in its stead, beside that twin."""
    path = tiny_artifact(tmp_path / "one.onnx").path
    with Runtime(path) as first, Runtime(path) as second:
        found = benchmark([first, second], (1,), seconds=0.01)
    assert found.timings[0].latencies_ms == found.timings[1].latencies_ms


def test_one_file_with_two_numbers_of_threads_is_timed_twice(tmp_path: Path) -> None:
    path = tiny_artifact(tmp_path / "one.onnx").path
    with Runtime(path, threads=1) as first, Runtime(path, threads=2) as second:
        found = benchmark([first, second], (1,), seconds=0.01)
    assert found.timings[0].latencies_ms != found.timings[1].latencies_ms


def test_a_batch_is_what_the_artifact_takes(pair: tuple[Runtime, Runtime]) -> None:
    batch = random_batch(pair[0], 3)
    assert batch.shape == (3, *pair[0].manifest.preprocess.input_shape)
    assert batch.dtype == np.float32
    assert (batch == random_batch(pair[0], 3)).all()


def test_a_batch_for_an_artifact_of_pictures_is_pictures(tmp_path: Path) -> None:
    plain = tiny_artifact(tmp_path / "plain.onnx")
    with Runtime(adopt(plain.path, plain.manifest.preprocess, pixels_in=True).path) as runtime:
        batch = random_batch(runtime, 3)
        assert (batch.dtype, batch.shape) == (np.uint8, (3, SIZE, SIZE, 3))
        assert runtime.logits(batch).shape == (3, len(LABELS))


@pytest.mark.parametrize("arguments", [{"batches": ()}, {"batches": (0,)}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_nothing_to_time_is_refused(pair: tuple[Runtime, Runtime], arguments: dict[str, object]) -> None:
    with pytest.raises(InputError):
        benchmark(pair[0], **arguments)  # type: ignore[arg-type]


def test_no_artifact_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to time"):
        benchmark([])


def test_progress_ends_at_its_total(pair: tuple[Runtime, Runtime]) -> None:
    told: list[tuple[int, int]] = []
    benchmark(pair, (1, 2), seconds=0.01, progress=lambda task, done, total, note="": told.append((done, total)))
    assert told[-1] == (200, 200)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
