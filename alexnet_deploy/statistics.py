"""How sure a figure is: intervals for rates and paired differences, and the paired test. Standard library only.

Two models are compared on the same pictures, so the pictures that both get right (or wrong) say nothing about the
difference: only the discordant ones do. That is what makes a difference of 0.3 points on 1,000 pictures measurable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import exp, log, sqrt
from statistics import NormalDist, median

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds that hold the true value with the confidence asked for (95 % unless said otherwise)."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `total`, as a fraction with its Wilson interval; 0 of 0 is refused by `rate`."""

    count: int
    total: int
    fraction: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much one model loses against another on the same pictures.

    Attributes:
        lost: pictures that only the reference gets right.
        gained: pictures that only the candidate gets right.
        drop: (lost - gained) / total, a fraction; positive where the candidate is worse.
        interval: of `drop`.
        p_value: exact McNemar test of "neither model is better", two-sided.
    """

    lost: int
    gained: int
    drop: float
    interval: Interval
    p_value: float


def rate(count: int, total: int, confidence: float = CONFIDENCE) -> Rate:
    """`count` of `total` with its Wilson interval. Raises ValueError unless 0 <= count <= total and total >= 1."""
    interval = wilson(count, total, confidence)
    return Rate(count, total, count / total, interval)


def wilson(count: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Newcombe 1998, Stat. Med. 17:857, method 3).

    Right for rates near 0 and 1, where the textbook interval (p +- z sqrt(pq/n)) has no width.

    Raises:
        ValueError: unless 0 <= count <= total and total >= 1.
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"{count} of {total} is no proportion")
    z = _z(confidence)
    centre = count + z * z / 2
    spread = z * sqrt(count * (total - count) / total + z * z / 4)
    weight = total + z * z
    low = 0.0 if count == 0 else (centre - spread) / weight  # exact at the ends, where rounding would cross them
    high = 1.0 if count == total else (centre + spread) / weight
    return Interval(low, high)


def mcnemar(lost: int, gained: int) -> float:
    """The exact two-sided McNemar test: p of a split at least this uneven if each discordant picture were a fair coin.

    Computed in integers, so exact for any count (McNemar 1947; the binomial form of Cochran 1950).
    """
    return float(min(Fraction(1), 2 * _heads_below(min(lost, gained) + 1, lost + gained)))


def paired_difference(both: int, lost: int, gained: int, neither: int, confidence: float = CONFIDENCE) -> PairedDifference:
    """The drop from reference to candidate, with its interval and the paired test.

    The interval is Newcombe's square-and-add from the two Wilson intervals, correlated (Newcombe 1998, Stat. Med.
    17:2635, method 10): it keeps its coverage where both models are right nearly always, which is the case here.

    Args:
        both, lost, gained, neither: pictures that both get right, the reference only, the candidate only, and none.

    Raises:
        ValueError: no picture at all, or fewer than none of a kind.
    """
    total = both + lost + gained + neither
    if total < 1 or min(both, lost, gained, neither) < 0:
        raise ValueError(f"{both}, {lost}, {gained}, {neither} is no table of pairs")
    reference, candidate = rate(both + lost, total, confidence), rate(both + gained, total, confidence)
    drop = (lost - gained) / total
    phi = _correlation(both, lost, gained, neither)
    below = _square_and_add(reference.fraction - reference.interval.low, candidate.interval.high - candidate.fraction, phi)
    above = _square_and_add(reference.interval.high - reference.fraction, candidate.fraction - candidate.interval.low, phi)
    return PairedDifference(lost, gained, drop, Interval(drop - below, drop + above), mcnemar(lost, gained))


def ratio_of_medians(
    numerator: Sequence[float], denominator: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, Interval]:
    """median(numerator) / median(denominator), with its interval: how many times faster.

    Distribution-free, from order statistics (Price and Bonett 2002, J. Stat. Comput. Simul. 72:119): latencies are skewed
    and have outliers, so nothing that supposes a normal distribution will do. Takes the samples as independent.

    Raises:
        ValueError: fewer than 5 samples of either, or one that is not positive.
    """
    if min(len(numerator), len(denominator)) < 5:
        raise ValueError("a ratio of medians needs at least 5 samples of each")
    if min(*numerator, *denominator) <= 0:
        raise ValueError("a ratio of medians needs samples above 0")
    ratio = median(numerator) / median(denominator)
    spread = _z(confidence) * sqrt(_variance_of_log_median(numerator) + _variance_of_log_median(denominator))
    return ratio, Interval(ratio * exp(-spread), ratio * exp(spread))


def _variance_of_log_median(samples: Sequence[float]) -> float:
    """Price and Bonett's estimate: the width between two order statistics about the median, in units of its own z."""
    ordered, count = sorted(samples), len(samples)
    rank = max(1, round((count + 1) / 2 - sqrt(count)))
    z = -NormalDist().inv_cdf(float(_heads_below(rank, count)))  # of P(the median is below ordered[rank - 1])
    return float(((log(ordered[count - rank]) - log(ordered[rank - 1])) / (2 * z)) ** 2)


def _heads_below(limit: int, tosses: int) -> Fraction:
    """The chance of fewer than `limit` heads among `tosses` of a fair coin."""
    ways, sum_of_ways = 1, 0
    for heads in range(limit):
        sum_of_ways += ways
        ways = ways * (tosses - heads) // (heads + 1)  # from one binomial coefficient to the next: each by itself takes minutes
    return Fraction(sum_of_ways, 2**tosses)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _correlation(both: int, lost: int, gained: int, neither: int) -> float:
    """Newcombe's phi: the correlation of the two models' answers, its numerator shrunk towards 0 by n/2."""
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    numerator: float = both * neither - lost * gained
    if numerator > 0:
        numerator = max(0.0, numerator - (both + lost + gained + neither) / 2)
    return numerator / sqrt(margins)


def _square_and_add(a: float, b: float, correlation: float) -> float:
    return sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))
