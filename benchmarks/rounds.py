"""Timing things against each other on a machine that others may use as well.

A round gives each of them its turn, in a new order: a rest, a call or two to warm up, then the timed ones. What is compared is
the ratio within a round, and the median of these ratios; rounds in which other processes took much CPU time are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Call = Callable[[], object]
REST_SECONDS = 0.06  # onnxruntime's threads spin for some 40 ms after a call, and would slow down whoever is next
MOST_FOREIGN_CPUS = 0.15
_TICKS = 100.0
_RESAMPLES = 2000


@dataclass(frozen=True)
class Rounds:
    """What was measured.

    Attributes:
        samples: label -> milliseconds (rounds, calls of a round).
        left_out: rounds with too much foreign CPU time, which are not in `samples`; all are kept where all had too much.
        foreign: CPUs that other processes kept busy, mean of the rounds that are kept.
    """

    samples: dict[str, npt.NDArray[np.float64]]
    left_out: int
    foreign: float

    @classmethod
    def of_all(cls, several: Sequence[Rounds]) -> Rounds:
        """The rounds of several measurements of the same, as one."""
        samples = {label: np.concatenate([each.samples[label] for each in several]) for label in several[0].samples}
        return cls(samples, sum(each.left_out for each in several), float(np.mean([each.foreign for each in several])))

    def median(self, label: str) -> float:
        return float(np.median(self.samples[label]))

    def ratio(self, numerator: str, denominator: str) -> tuple[float, float, float]:
        """How many times longer `numerator` takes: the median over rounds, and its bootstrapped 95 % interval."""
        ratios = np.median(self.samples[numerator], axis=1) / np.median(self.samples[denominator], axis=1)
        drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
        low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
        return float(np.median(ratios)), float(low), float(high)

    def difference_us(self, label: str, base: str) -> float:
        return 1000 * float(np.median(np.median(self.samples[label], axis=1) - np.median(self.samples[base], axis=1)))


def in_rounds(
    calls: dict[str, Call],
    seconds: float,
    *,
    warm: int = 1,
    timed: int = 3,
    rest: float = REST_SECONDS,
    before: Call = lambda: None,
) -> Rounds:
    """Times `calls` in turns for about `seconds`, at least five rounds. `before` runs in front of each call, and is not timed."""
    taken: list[list[list[float]]] = []
    foreign: list[float] = []
    order = np.random.default_rng(0)
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        begun, all_before, mine_before = time.perf_counter(), _busy_seconds(), _own_seconds()
        this: dict[str, list[float]] = {}
        for name in order.permutation(list(calls)):
            time.sleep(rest)
            for _ in range(warm):
                before()
                calls[name]()
            this[name] = [_milliseconds(calls[name], before) for _ in range(timed)]
        taken.append([this[name] for name in calls])
        others = (_busy_seconds() - all_before) - (_own_seconds() - mine_before)
        foreign.append(others / (time.perf_counter() - begun))
    values, load = np.array(taken), np.array(foreign)
    quiet = load < MOST_FOREIGN_CPUS
    if quiet.sum() < 5:
        quiet[:] = True
    samples = {name: values[quiet, index] for index, name in enumerate(calls)}
    return Rounds(samples, int((~quiet).sum()), float(load[quiet].mean()))


def _milliseconds(call: Call, before: Call) -> float:
    before()
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def _busy_seconds() -> float:
    """CPU time of all processes, and what the hypervisor gave to others; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal = (float(t) for t in stat.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
