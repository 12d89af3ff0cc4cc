"""One range for all channels of an activation, where each has a range of its own.

An activation is rounded in steps of one width, and the channel with the largest values decides it: one a tenth as large keeps
three bits fewer. So each channel is multiplied by a factor before it is rounded, and the layers that read it have the factor
taken out of their weights. A depthwise convolution, whose weights have a scale a channel too, gets that for nothing; in others
it moves the difficulty from activations to weights (SmoothQuant, arXiv:2211.10438), as far as both together get better by it.

Only tensors that something else than a layer's own Relu or Clip makes are balanced, such as those behind a hard-swish or a
squeeze and excitation: a factor needs an operation of its own, and layers behind one another would not fuse any more.
docs/decisions/0320 has what it gains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.quantization.layers import Layer, Wiring
from alexnet_deploy.quantization.weights import INT8_LIMIT, half_exact

Float32 = npt.NDArray[np.float32]
# Tensor -> what each channel is multiplied by, float32 (channels, 1, 1) or (features,): at least 1, and 1 for the widest.
Factors = Mapping[str, Float32]
NO_FACTORS: Factors = {}

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the difference between channels that is evened out
_WORTH_IT = 2.0  # times less noise, or a tensor stays as it is
_LARGEST_FACTOR = 32.0  # five bits; what was as narrow as that on some pictures may be wider on others
# Between two rounded tensors onnxruntime runs these in integers, with one scale for all channels.
_OF_ONE_SCALE = {"Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool"}
# Below these inputs the operator gives zero, or less than 0.003: what a convolution hands to it needs no steps there.
_FLOOR = {"HardSwish": -3.0, "Sigmoid": -8.0}


class Channels:
    """What each channel of one activation holds, over everything that was added.

    Attributes:
        low, high: the smallest and largest value, float32 (channels,), zero included.
        power: mean of squares, float64 (channels,).
    """

    def __init__(self) -> None:
        self.low = self.high = np.zeros(1, np.float32)
        self._squares, self._count = np.zeros(1), 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Takes a batch, (N, channels, ...)."""
        rest = (0, *range(2, values.ndim))
        self.low = np.minimum(self.low, values.min(axis=rest))
        self.high = np.maximum(self.high, values.max(axis=rest))
        self._squares = self._squares + np.square(values, dtype=np.float64).sum(axis=rest)
        self._count += values.size // values.shape[1]

    @property
    def power(self) -> npt.NDArray[np.float64]:
        return self._squares / max(self._count, 1)


def balanceable(model: ModelProto, layers: Sequence[Layer], observed: Sequence[str]) -> tuple[str, ...]:
    """Those of the `observed` tensors that can have a factor a channel."""
    wiring, weights = Wiring(model), edit.initialisers(model.graph)
    times_read = Counter(layer.weight for layer in layers)
    own = {name for name, count in times_read.items() if count == 1}
    planar = {layer.name for layer in layers if layer.op == "Gemm" or len(weights[layer.weight].dims) == 4}
    readers = _readers(layers)
    # A family of rearranged tensors shares one scale on the CPU.
    moved = {name for layer in layers if (name := wiring.root(layer.data)) != layer.data}
    absorbed = {wiring.activated(layer.output) for layer in layers}
    outputs = {layer.output for layer in layers if layer.weight in own and layer.name in planar}

    # What lies between a layer's data and its root is rounded as well, on the CPU.
    rounded = {*observed, *(name for layer in layers for node in wiring.path_from_root(layer.data) for name in node.input[:1])}

    def wants_one_scale(node: NodeProto) -> bool:
        return node.op_type in _OF_ONE_SCALE and node.output[0] in rounded

    def can(tensor: str) -> bool:
        maker = wiring.maker(tensor)
        if maker is not None and wants_one_scale(maker) and wiring.root(maker.input[0]) in rounded:
            return False
        if any(map(wants_one_scale, wiring.users_behind(tensor))):
            return False
        if tensor in readers:
            if tensor in absorbed or tensor in moved or wiring.root(tensor) != tensor or wiring.maker(tensor) is None:
                return False
            return all(layer.weight in own and layer.name in planar for layer in readers[tensor])
        return tensor in outputs

    return tuple(tensor for tensor in observed if can(tensor))


def choose_factors(model: ModelProto, layers: Sequence[Layer], channels: Mapping[str, Channels]) -> dict[str, Float32]:
    """The factors of those tensors for which the noise is predicted to fall by half.

    Args:
        channels: of tensors that are `balanceable`.
    """
    wiring, weights = Wiring(model), edit.initialisers(model.graph)
    readers = _readers(layers)
    factors = {}
    for tensor, seen in channels.items():
        if tensor in readers:
            read_by = [(layer, edit.array(weights[layer.weight])) for layer in readers[tensor]]
            factor = _for_readers(seen, read_by)
        else:
            floors = [_FLOOR.get(user.op_type, -np.inf) for user in wiring.users(tensor)]
            factor = _for_output(np.maximum(seen.high, -np.maximum(seen.low, max(floors, default=-np.inf))))
        if factor is not None:
            convolved = tensor not in readers or readers[tensor][0].op == "Conv"
            factors[tensor] = factor.reshape(-1, 1, 1) if convolved else factor
    return factors


def taken_out(values: Float32, layer: Layer, factor: Float32) -> Float32:
    """A layer's weights for data that is multiplied by `factor`."""
    if layer.op == "Conv":
        each = np.repeat(factor.reshape(layer.groups, -1), len(values) // layer.groups, axis=0)  # (outputs, inputs of a group)
        return np.asarray(values / each.reshape(*each.shape, *[1] * (values.ndim - 2)), values.dtype)
    return np.asarray(values / np.expand_dims(factor, layer.channel_axis), values.dtype)


def _readers(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.data, []).append(layer)
    return found


def _for_readers(seen: Channels, read_by: Sequence[tuple[Layer, Float32]]) -> Float32 | None:
    noise = {
        share: sum(_noise(seen, taken_out(values, layer, factor), layer, factor) for layer, values in read_by)
        for share, factor in _shared_out(np.maximum(seen.high, -seen.low))
    }
    best = min(noise, key=noise.__getitem__)
    if noise[0.0] < _WORTH_IT * noise[best]:
        return None
    return dict(_shared_out(np.maximum(seen.high, -seen.low)))[best]


def _for_output(widths: Float32) -> Float32 | None:
    """For a tensor whose channels are read one by one: all of the difference, where that halves the mean noise."""
    factor = dict(_shared_out(widths))[1.0]
    return factor if 1 / np.mean(1 / np.square(factor)) >= _WORTH_IT else None


def _shared_out(widths: Float32) -> Iterator[tuple[float, Float32]]:
    widest = float(widths.max()) or 1.0
    known = np.where(widths > 0, widths, widest)  # of a channel that was always zero nothing is known but that it can be wide
    ratio = np.minimum(widest / known, _LARGEST_FACTOR)
    return ((share, half_exact(ratio**share)) for share in _SHARES)


def _noise(seen: Channels, values: Float32, layer: Layer, factor: Float32) -> float:
    """Variance that rounding data and weights adds to one position of the layer's output, summed over its channels.

    A step of d adds d^2 / 12, as far as errors of rounding are even and know nothing of each other.
    """
    rows = np.moveaxis(values, layer.channel_axis, 0).reshape(values.shape[layer.channel_axis], -1)
    data_step = float((np.maximum(seen.high, -seen.low) * factor).max()) / INT8_LIMIT
    weight_steps = np.abs(rows).max(axis=1).reshape(layer.groups, -1) / INT8_LIMIT
    power = (seen.power * np.square(factor)).reshape(layer.groups, -1)
    taps = rows.shape[1] // power.shape[1]
    of_data = data_step**2 * float(np.square(rows).sum())
    of_weights = taps * float((np.square(weight_steps).sum(axis=1) * power.sum(axis=1)).sum())
    return (of_data + of_weights) / 12
