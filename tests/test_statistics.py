"""Intervals and tests against published values, exact enumeration and their own definitions."""

from __future__ import annotations

import itertools
from math import comb, exp, log
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.statistics import Interval, mcnemar, paired_difference, rate, ratio_of_medians, wilson

pairs = st.tuples(*[st.integers(0, 400)] * 4).filter(lambda cells: sum(cells) > 0)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_values_published_by_newcombe(count: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    found = wilson(count, total)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors(case: tuple[int, int]) -> None:
    count, total = case
    found, mirrored = wilson(count, total), wilson(total - count, total)
    assert 0 <= found.low <= count / total <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-12)
    assert found.high - found.low > 0


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_proportion_is_refused(count: int, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        rate(count, total)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_binomial_test(lost: int, gained: int) -> None:
    n = lost + gained
    at_least_as_uneven = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(lost - gained))
    assert mcnemar(lost, gained) == pytest.approx(at_least_as_uneven / 2**n)


def test_mcnemar_agrees_with_scipy_where_it_is_installed() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is no dependency; the enumeration above needs none")
    for lost, gained in [(0, 1), (5, 15), (59, 6), (121, 89)]:
        assert mcnemar(lost, gained) == pytest.approx(stats.binomtest(lost, lost + gained).pvalue)


def test_mcnemar_does_not_take_long_for_a_large_set() -> None:
    """A tenth of a second; with each binomial coefficient by itself it was minutes."""
    assert mcnemar(20_200, 19_800) == pytest.approx(2 * NormalDist().cdf(-(400 - 1) / 200), rel=1e-3)


def test_the_paired_interval_is_the_published_one() -> None:
    """Airway hyper-responsiveness before and after transplantation, 1 1 7 12: Fagerland et al. 2014, BMC Med. Res. Methodol."""
    found = paired_difference(both=1, lost=1, gained=7, neither=12)
    assert found.drop == pytest.approx(-0.286, abs=5e-4)
    assert found.interval.low == pytest.approx(-0.507, abs=5e-4)
    assert found.interval.high == pytest.approx(-0.026, abs=5e-4)
    assert found.p_value == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize(
    ("cells", "correlation"),
    [((0, 20, 20, 0), -1.0), ((500, 0, 0, 500), 1 - 500 / 250_000), ((10, 10, 10, 10), 0.0), ((12, 8, 8, 12), 60 / 400)],
)
def test_the_more_the_models_are_right_together_the_narrower_the_paired_interval(
    cells: tuple[int, int, int, int], correlation: float
) -> None:
    """Where both are right on a half, both Wilson intervals are one, and square and add is width^2 (2 - 2 correlation).

    Newcombe takes half the number of pictures from a positive covariance, but not more than there is.
    """
    total = sum(cells)
    width = wilson(total // 2, total).high - 0.5
    found = paired_difference(*cells).interval
    assert found.high == pytest.approx(width * (2 - 2 * correlation) ** 0.5)
    assert found.low == pytest.approx(-found.high)


def test_a_model_that_is_always_right_is_correlated_with_none() -> None:
    found = paired_difference(both=30, lost=10, gained=0, neither=0)
    always, often = wilson(40, 40), wilson(30, 40)
    assert found.interval.low == pytest.approx(0.25 - ((1 - always.low) ** 2 + (often.high - 0.75) ** 2) ** 0.5)
    assert found.interval.high == pytest.approx(0.25 + (0.75 - often.low))


def test_the_paired_difference_of_one_picture_has_an_interval() -> None:
    assert 0 in paired_difference(1, 0, 0, 0).interval


@pytest.mark.parametrize("cells", [(0, 0, 0, 0), (-1, 1, 1, 1), (1, 1, 1, -1)])
def test_what_is_no_table_of_pairs_is_refused(cells: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no table of pairs"):
        paired_difference(*cells)


@given(pairs)
def test_swapping_the_models_turns_the_sign_of_the_drop(cells: tuple[int, int, int, int]) -> None:
    both, lost, gained, neither = cells
    found = paired_difference(both, lost, gained, neither)
    swapped = paired_difference(both, gained, lost, neither)
    assert found.drop == -swapped.drop
    assert found.interval.low == pytest.approx(-swapped.interval.high, abs=1e-12)
    assert found.p_value == swapped.p_value
    assert found.drop in found.interval


@pytest.mark.parametrize("chances", [(0.90, 0.03, 0.02, 0.05), (0.80, 0.10, 0.05, 0.05), (0.55, 0.05, 0.05, 0.35)])
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(chances: tuple[float, float, float, float]) -> None:
    """Every outcome of 40 pictures, each with its exact probability: what 95 % means, with no sampling."""
    total, truth, covered = 40, chances[1] - chances[2], 0.0
    for lost, gained in itertools.product(range(total + 1), repeat=2):
        for neither in range(total + 1 - lost - gained):
            both = total - lost - gained - neither
            ways = comb(total, lost) * comb(total - lost, gained) * comb(total - lost - gained, neither)
            likely = ways * chances[0] ** both * chances[1] ** lost * chances[2] ** gained * chances[3] ** neither
            if likely > 1e-9 and truth in paired_difference(both, lost, gained, neither).interval:
                covered += likely
    assert covered > 0.94


def test_no_difference_in_any_answer_still_leaves_a_width() -> None:
    found = paired_difference(both=950, lost=0, gained=0, neither=50)
    assert found.p_value == 1
    assert found.interval.low < 0 < found.interval.high
    assert found.interval.high < 0.005


@given(st.floats(0.1, 10), st.integers(5, 200))
def test_a_ratio_of_medians_scales_with_its_numerator(factor: float, count: int) -> None:
    samples = np.random.default_rng(count).lognormal(size=count).tolist()
    ratio, interval = ratio_of_medians([factor * s for s in samples], samples)
    assert ratio == pytest.approx(factor)
    assert ratio in interval


def test_the_ratio_of_medians_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        slow = (2.0 * generator.lognormal(sigma=0.4, size=60)).tolist()
        fast = generator.lognormal(sigma=0.3, size=40).tolist()
        hits += 2.0 in ratio_of_medians(slow, fast)[1]
    assert 0.91 < hits / 400 < 0.995


@pytest.mark.parametrize(
    ("count", "rank", "outside"), [(5, 1, 1 / 32), (10, 2, 11 / 1024), (12, 3, 79 / 4096), (100, 40, 0.017600100108852438)]
)
def test_the_ratio_of_medians_is_that_of_price_and_bonett(count: int, rank: int, outside: float) -> None:
    """The nearest rank to (n + 1) / 2 - sqrt(n), and what a fair coin leaves below it (scipy's binom.cdf(39, 100, 0.5))."""
    samples = [1.1**step for step in range(count)]  # each logarithm is a step from the next
    steps = count + 1 - 2 * rank
    variance = (steps * log(1.1) / (2 * NormalDist().inv_cdf(1 - outside))) ** 2
    ratio, interval = ratio_of_medians(samples, samples[::-1], confidence=0.9)
    assert ratio == 1
    assert interval.high == pytest.approx(exp(NormalDist().inv_cdf(0.95) * (2 * variance) ** 0.5))
    assert interval.low == pytest.approx(1 / interval.high)


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_samples_that_are_not_positive_have_no_ratio(wrong: float) -> None:
    sound = [1.0] * 12
    for samples in ((sound, [wrong, *sound]), ([wrong, *sound], sound)):
        with pytest.raises(ValueError, match="above 0"):
            ratio_of_medians(*samples)


def test_too_few_samples_for_a_ratio_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        ratio_of_medians([1.0] * 4, [1.0] * 10)


def test_an_interval_says_what_it_holds() -> None:
    assert all(value in Interval(0.4, 0.6) for value in (0.4, 0.5, 0.6))
    assert 0.7 not in Interval(0.4, 0.6)
