"""From a histogram to the range (low, high) that 8 bits shall cover.

minmax        everything that was seen
percentile    a share of all values, 99.99 % unless told; what is cut is split between the tails
entropy       least Kullback-Leibler divergence of the quantised distribution (Migacz, "8-bit Inference with TensorRT", GTC 2017)
mse           least mean squared error of rounding and clipping together

A range always contains zero, and is never empty. Ranges keep 12 significant bits, so that the last bits of a float
convolution, which depend on the batch size, do not show in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from alexnet_deploy.errors import InputError
from alexnet_deploy.quantization.histogram import Bins, Float64, Histogram

Range = tuple[float, float]

METHODS = ("minmax", "percentile", "entropy", "mse")
AUTO_CANDIDATES = ("minmax", "percentile-99.9", "percentile-99.99", "percentile-99.999", "entropy", "mse")

_SIGNIFICANT_BITS = 12
_KL_BINS = 2048
_KL_LEVELS = 128
_MSE_STEPS = 160
_MSE_DEEPEST_CLIP = 1 / 64


def choose_range(histogram: Histogram, method: str, levels: int = 127) -> Range:
    """The range that `method` chooses.

    Args:
        histogram: finite values, at least one.
        method: as `method_name` gives it.
        levels: quantisation steps between zero and the larger end of the range; only mse looks at it.

    Returns:
        (low, high) with low <= 0 <= high and low < high.
    """
    name, _, parameter = method.partition("-")
    bins = histogram.bins()
    chosen = {
        "minmax": lambda: (histogram.low, histogram.high),
        "percentile": lambda: percentile(bins, float(parameter)),
        "entropy": lambda: _inside(bins, entropy_threshold(bins)),
        "mse": lambda: _inside(bins, mse_threshold(bins, levels)),
    }[name]()
    return _usable(chosen)


def method_name(text: str) -> str:
    """A method as it is recorded: "percentile" becomes "percentile-99.99".

    Raises:
        InputError: no such method, or a percentile outside (50, 100].
    """
    if text == "percentile":
        return "percentile-99.99"
    share = re.fullmatch(r"percentile-(\d+(?:\.\d+)?)", text)
    if text in METHODS or (share and 50 < float(share[1]) <= 100):
        return text
    raise InputError(
        f"there is no calibration method {text!r}",
        expected="auto, minmax, percentile, percentile-99.9 (50 to 100), entropy or mse",
    )


def percentile(bins: Bins, share: float) -> Range:
    """The range that holds `share` percent of the values; each tail that is not at zero loses the same part of the rest.

    Right to within one bin, 0.8 % of the value.
    """
    tails = int(bins.low[0] < 0) + int(bins.high[-1] > 0)
    cut = (100.0 - share) / 100.0 / max(tails, 1)
    low = _quantile(bins, cut) if bins.low[0] < 0 else 0.0
    high = _quantile(bins, 1.0 - cut) if bins.high[-1] > 0 else 0.0
    return low, high


def mse_threshold(bins: Bins, levels: int) -> float:
    """The t for which rounding to `levels` steps in [0, t], and clipping beyond, costs least; signs are mirrored.

    The grid is geometric, from the largest magnitude down to 1/64 of it, then finer around the best.
    """
    largest = max(-bins.low[0], bins.high[-1])
    if largest <= 0:
        return 0.0
    values, weights = bins.points()
    values = np.abs(values)

    def cost(threshold: float) -> float:
        step = threshold / levels
        error = np.minimum(np.rint(values / step), levels) * step - values
        return float(weights @ (error * error))

    coarse = largest * np.geomspace(_MSE_DEEPEST_CLIP, 1.0, _MSE_STEPS)
    best = _least(cost, coarse)
    ratio = coarse[1] / coarse[0]
    fine = np.minimum(best * np.geomspace(1 / ratio, ratio, 17), largest)
    return _least(cost, fine)


def entropy_threshold(bins: Bins) -> float:
    """The clip of |x| whose 128-level version diverges least from the distribution (Kullback-Leibler, 2,048 linear bins).

    As in Migacz 2017: what is clipped is added to the last bin of the reference; the candidate spreads each level's
    count over those of its bins that are not empty. Exact zeros are left out: 8 bits always hold them exactly.
    """
    largest = max(-bins.low[0], bins.high[-1])
    if largest <= 0:
        return 0.0
    counts = _linear_counts(bins, largest, _KL_BINS)
    counts[0] -= min(counts[0], _zeros(bins))
    after = counts.sum() - np.cumsum(counts)

    def divergence(kept: int) -> float:
        reference = counts[:kept].copy()
        reference[-1] += after[kept - 1]
        level = (np.arange(kept) * _KL_LEVELS) // kept
        occupied = counts[:kept] > 0
        mass = np.bincount(level, counts[:kept], minlength=_KL_LEVELS)
        share = np.bincount(level, occupied, minlength=_KL_LEVELS)
        candidate = np.where(occupied, mass[level] / np.maximum(share[level], 1), 0.0)
        return _kl(reference, candidate)

    kept = np.arange(_KL_LEVELS, _KL_BINS + 1, 8)
    costs = np.array([divergence(int(k)) for k in kept])
    return float(largest * kept[int(np.argmin(costs))] / _KL_BINS)


def _kl(reference: Float64, candidate: Float64) -> float:
    if candidate.sum() <= 0 or reference.sum() <= 0:
        return math.inf
    p, q = reference / reference.sum(), candidate / candidate.sum()
    seen = p > 0
    # Where the candidate has nothing the divergence would be infinite; a small mass there makes it merely large.
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))).sum())


def _linear_counts(bins: Bins, largest: float, count: int) -> Float64:
    """|x| in `count` equal bins over [0, largest], each bin of the histogram spread evenly over its width."""
    edges = np.linspace(0.0, largest, count + 1)
    positive = np.diff(_cumulative(bins, edges))
    mirrored = Bins(-bins.high[::-1], -bins.low[::-1], bins.counts[::-1])
    negative = np.diff(_cumulative(mirrored, edges))
    return np.asarray(positive + negative)


def _cumulative(bins: Bins, at: Float64) -> Float64:
    """How many values lie below each of `at`, taking each bin as even."""
    corners = np.stack([bins.low, bins.high], axis=1).reshape(-1)
    ends = np.cumsum(bins.counts)
    heights = np.stack([ends - bins.counts, ends], axis=1).reshape(-1)
    return np.asarray(np.interp(at, corners, heights, left=0.0))


def _zeros(bins: Bins) -> float:
    """Values in the bin next to zero, which spans less than 1e-38: zeros for every purpose."""
    return float(bins.counts[(bins.low >= 0) & (bins.high < 1e-30)].sum())


def _quantile(bins: Bins, share: float) -> float:
    """The value below which `share` of all values lie, taking each bin as even."""
    ends = np.cumsum(bins.counts)
    wanted = share * ends[-1]
    index = min(int(np.searchsorted(ends, wanted)), len(ends) - 1)
    inside = (wanted - (ends[index] - bins.counts[index])) / bins.counts[index]
    return float(bins.low[index] + (bins.high[index] - bins.low[index]) * min(max(inside, 0.0), 1.0))


def _least(cost: Callable[[float], float], candidates: Float64) -> float:
    costs = [cost(float(c)) for c in candidates]
    return float(candidates[int(np.argmin(costs))])


def _inside(bins: Bins, threshold: float) -> Range:
    return max(float(bins.low[0]), -threshold), min(float(bins.high[-1]), threshold)


def _usable(chosen: Range) -> Range:
    low, high = min(_rounded(chosen[0]), 0.0), max(_rounded(chosen[1]), 0.0)
    return (low, high) if high - low > np.finfo(np.float32).tiny else (0.0, 1.0)  # a tensor that is always zero


def _rounded(value: float) -> float:
    """To 12 significant bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**_SIGNIFICANT_BITS), exponent - _SIGNIFICANT_BITS)
