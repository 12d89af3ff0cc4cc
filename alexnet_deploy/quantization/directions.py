"""In which directions a layer's outputs lie over pictures: their principal components, and what is lost without the last ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_HELD_BACK = 4  # every fourth picture
_NOISE = 0.01  # of the outputs' variance, as if inputs were noisy: where samples are fewer than directions

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Directions:
    """Where the output of one layer lies over pictures.

    Attributes:
        mean: float32 (outputs,).
        axes: float32 (outputs, outputs), one direction a column, orthonormal, those with the most variance first.
        lost: float32 (outputs,): the share of variance that lies outside of the first 1, 2 ... of them, on pictures that they
            were not fitted to.
    """

    mean: Float32
    axes: Float32
    lost: Float32


def directions_of(samples: Float32, weights: Float32) -> Directions:
    """The directions of a layer's outputs.

    Args:
        samples: (pictures, samples of each, outputs).
        weights: (inputs, outputs) of the layer: where samples are few, they tell where outputs can go.
    """
    held_back = np.arange(len(samples)) % _HELD_BACK == _HELD_BACK - 1
    fitted, others = (samples[chosen].reshape(-1, samples.shape[-1]) for chosen in (~held_back, held_back))
    mean = fitted.mean(axis=0)
    spread = fitted - mean
    moments = spread.T @ spread
    noise = weights.T @ weights
    share = _NOISE * min(1.0, len(mean) / max(len(fitted), 1))
    noise *= share * np.trace(moments) / max(np.trace(noise), np.finfo(np.float32).tiny)
    _, axes = np.linalg.eigh(moments + noise)
    axes = np.ascontiguousarray(axes[:, ::-1])
    power = np.square((others - mean) @ axes).sum(axis=0, dtype=np.float64)
    lost = 1 - np.cumsum(power) / max(power.sum(), np.finfo(np.float64).tiny)
    return Directions(mean, axes, lost.astype(np.float32))
