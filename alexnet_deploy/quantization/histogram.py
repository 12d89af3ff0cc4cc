"""How often each value occurred, in a fixed amount of memory, whatever comes and in whatever order.

The bins are the bfloat16 numbers: a float32 falls into the bin of its upper 16 bits (sign, exponent, 7 bits of mantissa). So
every float32 has its bin before any data was seen: nothing grows, nothing is rescaled, two histograms add up exactly, and the
result is the same for every batch size and order. A bin is at most 1/128 of its value wide, which near the top of an
8-bit range is the width of one quantisation step, and below it ever finer: a far outlier costs no resolution anywhere else.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_BINS = 1 << 16
_SIGN = 1 << 15
_UPPER = 1 if sys.byteorder == "little" else 0
_AT_ONCE = 1 << 17  # values; bincount makes int64 of them, and these stay in the cache
_INFINITY = 0x7F80  # the upper half of +inf; codes from here on are inf and NaN


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """The bins of a histogram that hold something, from the most negative to the most positive.

    Attributes:
        low, high: float64 (bins,), the edges of each; the outermost are moved in to the smallest and largest value seen.
        counts: float64 (bins,).
    """

    low: Float64
    high: Float64
    counts: Float64

    @property
    def total(self) -> float:
        return float(self.counts.sum())

    def points(self, per_bin: int = 4) -> tuple[Float64, Float64]:
        """Evenly spread values inside each bin, and the share of all values that each stands for; shapes (bins * per_bin,)."""
        inside = (np.arange(per_bin) + 0.5) / per_bin
        values = self.low[:, None] + (self.high - self.low)[:, None] * inside
        weights = np.repeat(self.counts / (self.total * per_bin), per_bin)
        return values.reshape(-1), weights


class Histogram:
    """Counts of float32 values, in 512 KiB.

    Attributes:
        counts: int64 (65536,), by the upper 16 bits of the value.
        low, high: the smallest and largest value seen; 0.0 where nothing was.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.low = 0.0
        self.high = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Counts every element of an array of any shape; it is taken as float32."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        first = not self.total
        self.low = low if first else min(self.low, low)
        self.high = high if first else max(self.high, high)
        upper = flat.view(np.uint16)[_UPPER::2]
        for start in range(0, len(upper), _AT_ONCE):
            self.counts += np.bincount(upper[start : start + _AT_ONCE], minlength=_BINS)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def finite(self) -> bool:
        """Whether neither NaN nor infinity was seen."""
        return not (self.counts[_INFINITY:_SIGN].any() or self.counts[_SIGN + _INFINITY :].any())

    def bins(self) -> Bins:
        """Raises ValueError where nothing finite was counted."""
        codes = np.concatenate([np.arange(_SIGN + _INFINITY - 1, _SIGN - 1, -1), np.arange(_INFINITY)])
        codes = codes[self.counts[codes] > 0]
        if not codes.size:
            raise ValueError("an empty histogram has no bins")
        towards_zero = _upper_half(codes)
        away = np.where(
            codes & ~_SIGN == _INFINITY - 1, np.copysign(np.finfo(np.float32).max, towards_zero), _upper_half(codes + 1)
        )
        low, high = np.minimum(towards_zero, away), np.maximum(towards_zero, away)
        low[0], high[-1] = max(low[0], self.low), min(high[-1], self.high)
        return Bins(low, high, self.counts[codes].astype(np.float64))


def _upper_half(codes: npt.NDArray[np.int64]) -> Float64:
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
