"""The benchmarks' rounds: everybody gets the same calls, and what is compared is the ratio within a round."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks import rounds
from benchmarks.rounds import Rounds, in_rounds


def test_each_round_warms_and_times_everybody() -> None:
    calls: Counter[str] = Counter()
    found = in_rounds({"a": lambda: calls.update("a"), "b": lambda: calls.update("b")}, 0.0, warm=2, timed=3, rest=0)
    assert calls == {"a": 1 + 5 * 5, "b": 1 + 5 * 5}
    kept = len(found.samples["a"])
    assert found.samples["b"].shape == (kept, 3)
    assert kept + found.left_out == 5


def test_rounds_that_are_too_short_to_be_judged_alone_are_kept_or_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([None, None, 0.05, None, 1.5, None, None, 0.01])  # after each round; None: not yet known

    class Watch:
        def cpus(self) -> float | None:
            found = next(told)
            if found == 0.01:
                monkeypatch.setattr(rounds.time, "perf_counter", lambda: float("inf"))  # the time is over
            return found

    monkeypatch.setattr(rounds, "Neighbours", Watch)
    found = in_rounds({"a": lambda: None}, 60.0, rest=0)
    assert (len(found.samples["a"]), found.left_out) == (6, 2)
    assert found.foreign == pytest.approx((3 * 0.05 + 3 * 0.01) / 6)


def test_a_ratio_is_that_within_a_round_whatever_the_machine_does_between_rounds() -> None:
    pace = np.array([1.0, 9.0, 2.0, 5.0, 30.0, 1.5])[:, None]  # a machine that is throttled, and freed again
    measured = Rounds({"base": pace * [1.0, 1.0], "twice": pace * [2.0, 2.0]}, 0, 0.0)
    assert measured.ratio("twice", "base") == (2.0, 2.0, 2.0)
    assert measured.difference_us("twice", "base") == pytest.approx(3500)


def test_measurements_of_the_same_are_put_together() -> None:
    one = Rounds({"a": np.array([[1.0], [2.0]]), "b": np.array([[2.0], [4.0]])}, left_out=1, foreign=0.1)
    two = Rounds({"a": np.array([[3.0]]), "b": np.array([[9.0]])}, left_out=0, foreign=0.3)
    both = Rounds.of_all([one, two])
    assert (both.samples["b"][:, 0].tolist(), both.left_out) == ([2.0, 4.0, 9.0], 1)
    assert both.foreign == pytest.approx(0.2)
    assert both.ratio("b", "a")[0] == 2
