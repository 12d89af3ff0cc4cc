"""Weights rounded so that the layer's answers stay, rather than each weight by itself.

Weights are rounded one input after the other, and what each rounding does to the output is made up for by the inputs still
to come, as far as they are correlated with it: GPTQ (Frantar et al. 2022, arXiv:2210.17323), which is Optimal Brain Quantization
(arXiv:2208.11580) in a fixed order. It needs the second moments of a layer's inputs, from a hundred pictures and without
labels. Scales and the cost at run time stay as they were. What it gains is in docs/decisions/0303.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from onnx import ModelProto, NodeProto

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.quantization.layers import Layer
from alexnet_deploy.quantization.weights import FP8, FP8_LIMIT, INT8_LIMIT, QuantisedWeight, quantise_weight
from alexnet_deploy.types import Precision

Float32 = npt.NDArray[np.float32]
Rounding = Callable[[Float32], Float32]

# Inputs further apart than this are taken as uncorrelated: a layer of 9,216 inputs would need 9,216^3 operations otherwise.
BLOCK = 1024
_POSITIONS = 48  # of a convolution or of tokens, taken from each picture, evenly spread
_DAMPING = 0.01  # of the mean second moment, added to the diagonal: there are fewer pictures than inputs
_LAZY = 32  # inputs whose effect on later ones is gathered into one matrix product


class Compensation(NamedTuple):
    """How the inputs of one block make up for each other.

    Attributes:
        order: int64 (n,), the inputs in the order of rounding: those with most power first, while there are most others left
            to make up for them.
        factor: float32 (n, n), upper triangular, in that order: row i says how later inputs make up for input i.
    """

    order: npt.NDArray[np.int64]
    factor: Float32


class Moments:
    """Sums of x x^T over the inputs x that one layer's weights see, in blocks along the diagonal; a group of a Conv apart.

    Attributes:
        blocks: for each group, its blocks, float32 (n, n).
    """

    def __init__(self, layer: Layer, node: NodeProto, dims: Sequence[int]) -> None:
        self._layer, self._node = layer, node
        self._dims = tuple(dims)
        self.blocks: list[list[Float32]] = []
        self._compensations: list[list[Compensation | None]] | None = None

    def add(self, data: Float32) -> None:
        """Takes the layer's data: (N, C, H, W) of a Conv, else (N, features) or (N, tokens, ..., features)."""
        seen = _patches(data, self._node, self._dims) if self._layer.op == "Conv" else _rows(data)[None]
        sums = [[part.T @ part for part in np.split(group, range(BLOCK, group.shape[1], BLOCK), axis=1)] for group in seen]
        if not self.blocks:
            self.blocks = sums
        else:
            for kept, new in zip(self.blocks, sums, strict=True):
                for total, part in zip(kept, new, strict=True):
                    total += part

    def compensations(self) -> list[list[Compensation | None]]:
        """For each group and block; None for a block that never saw anything. Once all sums are taken: they are let go of."""
        if self._compensations is None:
            self._compensations = [[_compensation(block) for block in group] for group in self.blocks]
            self.blocks = []
        return self._compensations

    def of_multiplied(self, factor: Float32) -> Moments:
        """Those of the data times `factor`, one for each channel or feature; once all sums are taken.

        With F for the factors on the diagonal, (F M F)^-1 = F^-1 M^-1 F^-1: a triangular factor of the inverse has its columns
        divided by them. (The damping, which is added to M, is multiplied as well.)
        """
        found = copy(self)
        factors = np.repeat(factor.reshape(len(self.compensations()), -1), math.prod(self._dims[2:]), axis=1)
        found._compensations = [
            [
                block and Compensation(block.order, block.factor / part[block.order])
                for block, part in zip(group, np.split(each, range(BLOCK, len(each), BLOCK)), strict=True)
            ]
            for group, each in zip(self.compensations(), factors, strict=True)
        ]
        return found


def can_refine(layer: Layer, node: NodeProto, dims: Sequence[int]) -> bool:
    """Whether the inputs of each weight can be cut out here: every Gemm and MatMul, and plain two-dimensional convolutions."""
    return layer.op != "Conv" or (len(dims) == 4 and edit.attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"))


def moments_of(model: ModelProto, layers: Sequence[Layer]) -> dict[str, Moments]:
    """Empty sums for every layer that can be refined, by the layer's name."""
    nodes = {node.name: node for node in model.graph.node}
    weights = edit.initialisers(model.graph)
    return {
        layer.name: Moments(layer, nodes[layer.name], weights[layer.weight].dims)
        for layer in layers
        if can_refine(layer, nodes[layer.name], weights[layer.weight].dims)
    }


def refine(values: Float32, axis: int, moments: Moments, precision: Precision, *, limit: int = INT8_LIMIT) -> QuantisedWeight:
    """One layer's weights rounded for least error of its output; the arguments otherwise as those of `quantise_weight`."""
    plain = quantise_weight(values, axis, precision, limit=limit)
    matrix = np.moveaxis(values, axis, 0)
    rows = matrix.reshape(len(matrix), -1)
    stored = np.empty(rows.shape, plain.values.dtype)
    rounding = _to_fp8 if precision is Precision.FP8 else _to_integers(limit)
    groups = moments.compensations()
    for group, blocks in zip(np.split(np.arange(len(rows)), len(groups)), groups, strict=True):
        scale = plain.scale[group, None]
        for number, block in enumerate(blocks):
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            scaled = rows[group, part] / scale
            stored[group, part] = rounding(scaled) if block is None else _compensated(scaled, block, rounding)
    return QuantisedWeight(np.ascontiguousarray(np.moveaxis(stored.reshape(matrix.shape), 0, axis)), plain.scale, axis)


def _compensation(moment: Float32) -> Compensation | None:
    power = np.diag(moment).astype(np.float64)
    if not power.any():
        return None
    order = np.argsort(-power, kind="stable")
    damped = moment[np.ix_(order, order)] + _DAMPING * power.mean() * np.eye(len(moment))
    return Compensation(order, np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32))


def _compensated(rows: Float32, block: Compensation, rounding: Rounding) -> Float32:
    """Rounds `rows`, (outputs, n), already divided by their scale, for least error under the inputs' moment."""
    order, factor = block
    left = np.ascontiguousarray(rows[:, order].T)  # (inputs, outputs): one input's weights lie side by side
    done = np.empty_like(left)
    for start in range(0, len(order), _LAZY):
        stop = min(start + _LAZY, len(order))
        errors = np.empty((stop - start, len(rows)), np.float32)
        for i in range(start, stop):
            done[i] = rounding(left[i])
            errors[i - start] = (left[i] - done[i]) / factor[i, i]
            left[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    result = np.empty_like(rows)
    result[:, order] = done.T
    return result


def _to_integers(limit: int) -> Rounding:
    return lambda scaled: np.clip(np.rint(scaled), -limit, limit)


def _to_fp8(scaled: Float32) -> Float32:
    return np.asarray(np.clip(scaled, -FP8_LIMIT, FP8_LIMIT).astype(FP8).astype(np.float32))


def _rows(data: Float32) -> Float32:
    """What the weights of a fully connected layer are multiplied by, (samples, features)."""
    tokens = data.reshape(len(data), -1, data.shape[-1])
    return tokens[:, _spread(tokens.shape[1])].reshape(-1, data.shape[-1])


def _spread(positions: int) -> npt.NDArray[np.int64]:
    """At most _POSITIONS of them, evenly."""
    return np.unique(np.linspace(0, positions - 1, _POSITIONS).round().astype(np.int64))


def _patches(data: Float32, node: NodeProto, dims: Sequence[int]) -> Float32:
    """What each weight of a convolution is multiplied by: (groups, samples, inputs), inputs ordered as the weights are."""
    strides, dilations = (edit.attribute(node, name, [1, 1]) for name in ("strides", "dilations"))
    top, left, bottom, right = edit.attribute(node, "pads", [0, 0, 0, 0])
    groups = edit.attribute(node, "group", 1)
    padded = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)))
    window = [(size - 1) * step + 1 for size, step in zip(dims[2:], dilations, strict=True)]
    views: npt.NDArray[Any] = sliding_window_view(padded, window, axis=(2, 3))
    views = views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    count, channels, height, width = views.shape[:4]
    chosen = _spread(height * width)
    picked = views[:, :, chosen // width, chosen % width]  # (N, C, positions, kh, kw)
    picked = picked.transpose(1, 0, 2, 3, 4).reshape(groups, channels // groups, count * len(chosen), -1)
    return np.ascontiguousarray(picked.transpose(0, 2, 1, 3)).reshape(groups, count * len(chosen), -1)
