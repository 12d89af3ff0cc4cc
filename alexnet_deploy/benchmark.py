"""How fast is it? Latency and throughput of one runtime, or of several side by side.

Several artifacts are timed in turns, batch size by batch size: a turn is a few runs of one artifact (about TURN_SECONDS),
then the next has its turn, in a new order every round. A machine that throttles, or that a neighbour slows down, so hits all
alike, and ratios hold even where milliseconds do not. What is timed is `Runtime.logits` on a preprocessed batch that is
in memory: the engine and Runtime's own checks, as an application calls it; not the reading of pictures.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import InputError
from alexnet_deploy.machine import Machine
from alexnet_deploy.neighbours import Neighbours, complaints
from alexnet_deploy.preprocess import Batch, Pixels, normalise
from alexnet_deploy.ran import Ran
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.statistics import Interval, ratio_of_medians
from alexnet_deploy.types import Progress, silent

BATCHES = (1, 8, 32)
TURN_SECONDS = 0.02
REST_SECONDS = 0.005  # between turns: thread pools go on spinning after a call, and would slow down whoever is next
WARM_UP_RUNS = 3
LEAST_RUNS = 5

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One artifact at one batch size.

    Attributes:
        ran: what was timed.
        batch: pictures in a call.
        runs: calls timed, after the warm-up.
        p50_ms, p90_ms, p99_ms, min_ms, mean_ms: of one call. p99 of fewer than 100 runs is their slowest but a little.
        images_per_second: batch / p50.
        speed_up: p50 of the first artifact at this batch size divided by this one's; 1 for the first.
        speed_up_interval: 95 %, of the ratio of the medians; None for the first.
        latencies_ms: every call, in the order in which they ran.
    """

    ran: Ran
    batch: int
    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    images_per_second: float
    speed_up: float
    speed_up_interval: Interval | None
    latencies_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """Timings of one or several artifacts, measured in turns on one machine.

    Attributes:
        machine: where, with which versions, and when.
        threads: CPU threads that a runtime was allowed, None where the backend chose.
        seconds: asked for each artifact and batch size.
        timings: by batch size, then in the order of the artifacts.
        others_cpus: CPUs that other processes kept busy meanwhile, on average; None where the system does not tell, or not in so
            short a time.
        warnings: a sentence where that was so much that the figures are theirs as well.
    """

    machine: Machine
    threads: int | None
    seconds: float
    timings: tuple[Timing, ...]
    others_cpus: float | None = None
    warnings: tuple[str, ...] = ()

    def of(self, file: str, batch: int) -> Timing | None:
        """The timing of the artifact called `file` at this batch size."""
        return next((t for t in self.timings if t.ran.file == file and t.batch == batch), None)


def benchmark(
    runtimes: Runtime | Sequence[Runtime],
    batches: Sequence[int] = BATCHES,
    *,
    seconds: float = 2.0,
    most_runs: int = 2000,
    threads: int | None = None,
    seed: int = 0,
    clock: Clock = perf_counter,
    progress: Progress = silent,
) -> BenchmarkReport:
    """Times one runtime, or several in turns.

    Args:
        batches: batch sizes; larger ones than an artifact takes are chunked by Runtime, which is then what is timed.
        seconds: of timed calls for each artifact and batch size; at least LEAST_RUNS calls are made whatever they take.
        most_runs: no more calls than this.
        threads: only recorded; Runtime was made with it.
        seed: of the input's pixels.

    Raises:
        InputError: no runtime, a batch size below 1, or no time.
    """
    each = [runtimes] if isinstance(runtimes, Runtime) else list(runtimes)
    if not each:
        raise InputError("there is nothing to time", expected="at least one artifact")
    if not batches or min(batches) < 1:
        raise InputError(f"batch sizes {list(batches)}", expected="whole numbers from 1 up")
    if not seconds > 0:
        raise InputError(f"{seconds} seconds to time in", expected="more than 0")
    sizes = list(dict.fromkeys(batches))
    # A plan's twin and that twin itself are one thing to time: the first stands for both.
    distinct = {_identity(runtime): runtime for runtime in reversed(each)}
    for runtime in distinct.values():
        _call(runtime, max(sizes), seed)()  # takes the memory that it works in
        runtime.settle()
    timings: list[Timing] = []
    neighbours = Neighbours()
    for number, batch in enumerate(sizes):

        def inner(done: float, number: int = number) -> None:
            progress("benchmark", round(100 * (number + done)), 100 * len(sizes))

        calls = [_call(runtime, batch, seed) for runtime in distinct.values()]
        latencies = _in_turns(calls, seconds, most_runs, np.random.default_rng(seed), clock, inner)
        measured = dict(zip(distinct, latencies, strict=True))
        timings += _timings([Ran.of(runtime) for runtime in each], batch, [measured[_identity(r)] for r in each])
    machine, others = Machine.here(), neighbours.cpus()
    return BenchmarkReport(
        machine=machine,
        threads=threads,
        seconds=seconds,
        timings=tuple(timings),
        others_cpus=others,
        warnings=complaints(others, machine.cores),
    )


def random_batch(runtime: Runtime, batch: int, seed: int = 0) -> Batch | Pixels:
    """Random pixels as the artifact's own input, (batch, *input): float32 preprocessed, or uint8 where it takes pictures.

    Speed does not depend on what is in them.
    """
    recipe = runtime.manifest.preprocess
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, recipe.height, recipe.width, 3), np.uint8)
    return pixels if runtime.manifest.input.dtype == "uint8" else normalise(pixels, recipe)


def _identity(runtime: Runtime) -> tuple[Path, str, str, int | None]:
    return runtime.running.path, runtime.backend, runtime.device, runtime.threads


def _call(runtime: Runtime, batch: int, seed: int) -> Callable[[], object]:
    pictures = random_batch(runtime, batch, seed)
    return lambda: runtime.logits(pictures)


def _in_turns(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    most_runs: int,
    generator: np.random.Generator,
    clock: Clock,
    progress: Callable[[float], None],
) -> list[list[float]]:
    """Seconds of every timed call, for each of `calls`, measured in turns until each has had its time."""
    for call in calls:
        for _ in range(WARM_UP_RUNS):
            call()
    latencies: list[list[float]] = [[] for _ in calls]
    spent = [0.0] * len(calls)

    def done(i: int) -> float:
        """The share of its time, or of its runs, that a call has had."""
        return min(len(latencies[i]) / LEAST_RUNS, max(spent[i] / seconds, len(latencies[i]) / most_runs))

    with _no_garbage_collection():
        while any(done(i) < 1 for i in range(len(calls))):
            for i in generator.permutation(len(calls)):
                if done(i) < 1:
                    sleep(REST_SECONDS)
                    taken = _turn(calls[i], clock)
                    latencies[i] += taken
                    spent[i] += sum(taken)
            progress(sum(min(done(i), 1.0) for i in range(len(calls))) / len(calls))
    return latencies


def _turn(call: Callable[[], object], clock: Clock) -> list[float]:
    """One turn: calls until TURN_SECONDS are over, at least one. The first of several only warms the caches again."""
    taken: list[float] = []
    while sum(taken) < TURN_SECONDS:
        start = clock()
        call()
        taken.append(clock() - start)
    return taken[1:] if len(taken) > 2 else taken


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a call would be counted as the engine's time."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _timings(each: Sequence[Ran], batch: int, latencies: Sequence[Sequence[float]]) -> list[Timing]:
    milliseconds: list[npt.NDArray[np.float64]] = [np.array(taken) * 1000 for taken in latencies]
    timings = []
    for number, (ran, taken) in enumerate(zip(each, milliseconds, strict=True)):
        p50, p90, p99 = (float(p) for p in np.percentile(taken, (50, 90, 99)))
        ratio, interval = (1.0, None) if number == 0 else ratio_of_medians(milliseconds[0].tolist(), taken.tolist())
        timings.append(
            Timing(
                ran=ran,
                batch=batch,
                runs=len(taken),
                p50_ms=p50,
                p90_ms=p90,
                p99_ms=p99,
                min_ms=float(taken.min()),
                mean_ms=float(taken.mean()),
                images_per_second=batch / (p50 / 1000),
                speed_up=ratio,
                speed_up_interval=interval,
                latencies_ms=tuple(round(float(t), 4) for t in taken),
            )
        )
    return timings
