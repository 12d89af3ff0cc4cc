"""How activations are stored: a step and what zero becomes, from a range; for TensorRT and for the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.quantization.ranges import Range
from alexnet_deploy.quantization.weights import FP8, FP8_LIMIT, INT8_LIMIT, half_exact
from alexnet_deploy.types import Precision

UINT8_STEPS = 255
_EIGHT = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """How one activation is quantised: real = (stored - zero_point) * scale."""

    scale: float
    zero_point: npt.NDArray[Any]  # 0-d; its dtype is the stored one


def int8_steps(limits: Range, shifted: bool) -> tuple[float, int]:
    """How TensorRT's form stores an activation in int8: (scale, what zero is stored as)."""
    if not shifted:
        return symmetric(limits, Precision.INT8).scale, 0
    scale, offset = shifted_to_middle(limits)
    return scale.scale, -round(offset / scale.scale)


def symmetric(limits: Range, precision: Precision) -> Scale:
    """With zero point 0, in INT8 or FP8."""
    largest = max(-limits[0], limits[1])
    if precision == Precision.FP8:
        return Scale(float(half_exact(largest / FP8_LIMIT)), np.zeros((), FP8))
    return Scale(float(half_exact(largest / INT8_LIMIT)), np.zeros((), np.int8))


def shifted_to_middle(limits: Range) -> tuple[Scale, float]:
    """The scale of a tensor in the middle of int8, and what it is shifted by: whole steps, so that zero is met exactly.

    Both are float16 numbers: the scale keeps 7 significant bits, and steps are counted in eighths of a hundred and twenty-eight.
    """
    low, high = limits
    below = math.ceil(-low / (high - low) * UINT8_STEPS / _EIGHT) * _EIGHT  # steps under zero
    scale = max(high / (UINT8_STEPS - below), -low / below if below else 0.0)
    mantissa, exponent = math.frexp(scale)
    scale = math.ldexp(math.ceil(mantissa * 2**7), exponent - 7)
    return Scale(scale, np.zeros((), np.int8)), scale * (128 - below)


def asymmetric(limits: Range) -> Scale:
    """In uint8, its zero point wherever zero lies."""
    low, high = limits
    scale = np.float32((high - low) / UINT8_STEPS)
    return Scale(float(scale), np.array(round(float(np.clip(-low / scale, 0, UINT8_STEPS))), np.uint8))
