"""Timing things against each other on a machine that others may use as well.

A round gives each of them its turn, in a new order: a rest, a call or two to warm up, then the timed ones. What is compared is
the ratio within a round, and the median of these ratios; rounds in which other processes took much CPU time are left out.
The system counts that time in hundredths of a second, so that short rounds stand or fall by the dozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet_deploy.neighbours import Neighbours

Call = Callable[[], object]
REST_SECONDS = 0.06  # onnxruntime's threads spin for some 40 ms after a call, and would slow down whoever is next
MOST_FOREIGN_CPUS = 0.15
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
    foreign: list[float] = []  # a round each, as far as it is known
    order = np.random.default_rng(0)
    for call in calls.values():
        call()
    neighbours = Neighbours()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        this: dict[str, list[float]] = {}
        for name in order.permutation(list(calls)):
            time.sleep(rest)
            for _ in range(warm):
                before()
                calls[name]()
            this[name] = [_milliseconds(calls[name], before) for _ in range(timed)]
        taken.append([this[name] for name in calls])
        if (others := neighbours.cpus()) is not None:
            foreign += [others] * (len(taken) - len(foreign))
            neighbours = Neighbours()
    last = foreign[-1] if foreign else 0.0  # after the last stretch that the system can tell of
    foreign += [last] * (len(taken) - len(foreign))
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
