"""Weights to 8 bits, one scale an output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from alexnet_deploy.types import Precision

Float32 = npt.NDArray[np.float32]

INT8_LIMIT = 127
# U8S8 kernels without VNNI add two products of 8 bits in 16: 2 * 255 * 64 fits, 2 * 255 * 127 saturates.
REDUCED_LIMIT = 64
FP8_LIMIT = 448.0  # the largest E4M3 number
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """Weights as they are stored.

    Attributes:
        values: int8 or float8_e4m3fn, in the shape of the original.
        scale: float32 (output channels,); original ~ values * scale along `axis`.
        axis: the axis of output channels.
    """

    values: npt.NDArray[Any]
    scale: Float32
    axis: int

    def dequantised(self) -> Float32:
        return self.values.astype(np.float32) * _along(self.scale, self.axis, self.values.ndim)


def quantise_weight(values: Float32, axis: int, precision: Precision, *, limit: int = INT8_LIMIT) -> QuantisedWeight:
    """One layer's weights: symmetric, the largest magnitude of each channel at the end of the scale.

    Args:
        values: float32, any shape.
        axis: the axis of output channels.
        precision: INT8 or FP8.
        limit: the largest int8 magnitude to use.
    """
    others = tuple(i for i in range(values.ndim) if i != axis)
    top = FP8_LIMIT if precision == Precision.FP8 else limit
    scale = half_exact(np.abs(values).max(axis=others) / np.float32(top))
    scaled = values / _along(scale, axis, values.ndim)
    if precision == Precision.FP8:
        return QuantisedWeight(np.clip(scaled, -FP8_LIMIT, FP8_LIMIT).astype(FP8), scale, axis)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -top, top, out=scaled)
    return QuantisedWeight(scaled.astype(np.int8), scale, axis)


def half_exact(scale: npt.ArrayLike) -> Float32:
    """Scales rounded to what float16 can hold, so that storing them as such changes nothing; never zero."""
    rounded = np.asarray(scale, np.float32).astype(np.float16).astype(np.float32)
    return np.maximum(rounded, np.float32(_SMALLEST_HALF))


def _along(scale: Float32, axis: int, dimensions: int) -> Float32:
    return scale.reshape([-1 if i == axis else 1 for i in range(dimensions)])
