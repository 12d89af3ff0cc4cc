"""Pixels are integers already: in an INT8 graph for the CPU the first convolution reads them as they come.

A graph that takes uint8 (see `onnx_graph/raw_input.py`) makes float32 of its pixels and normalises them, which quantising would
round to 8 bits again. Channel c of the normalised picture is gain[c] * (p - zero[c]), where zero[c] is the pixel that becomes 0.
So the pixels p can be the data and the gain their scale. What the channels' gains differ by goes into the weights before these
are rounded, as a factor of `balance` does, and what the zeros come to goes into the bias:

    Cast, Transpose, Mul, Add, Q, DQ, Conv   ->   Pad, Max, Transpose, DQ, Conv

Where the convolution pads, it would do so with one number for all channels. Pad and Max put a border around the picture in which
each channel has a zero of its own, to the nearest whole pixel: nothing else is rounded. docs/decisions/0523 has what it gains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.raw_input import PREFIX
from alexnet_deploy.quantization.balance import Factors
from alexnet_deploy.quantization.connected import bias_of
from alexnet_deploy.quantization.layers import Layer, Wiring

Float64 = npt.NDArray[np.float64]

_SAME = 1e-5  # relative: what float32 may make of equal numbers
_INT32_MOST = 2.0**31 - 1
_ARITHMETIC: dict[str, Callable[[Float64, Float64, Float64], tuple[Float64, Float64]]] = {
    "Mul": lambda gain, offset, value: (gain * value, offset),
    "Div": lambda gain, offset, value: (gain / value, offset),
    "Add": lambda gain, offset, value: (gain, offset + gain * value),
    "Sub": lambda gain, offset, value: (gain, offset - gain * value),
}


class Picture(NamedTuple):
    """How a float32 tensor (N, C, H, W) comes from a uint8 input of the graph.

    Attributes:
        source: the input.
        shape: of the input; None for what is open.
        perm: of the Transpose from its layout to (N, C, H, W).
        order: for each channel, which one of the input's it is, int64 (C,).
        gain: what a channel's pixels are multiplied by, float64 (C,), above zero.
        zero: the pixel that becomes 0, float64 (C,), seldom a whole one.
    """

    source: str
    shape: tuple[int | None, ...]
    perm: list[int]
    order: npt.NDArray[np.int64]
    gain: Float64
    zero: Float64


class Border(NamedTuple):
    """What a picture is surrounded by, in the layout of the graph's input.

    Attributes:
        pads: as Pad takes them, int64 (8,).
        pixels: uint8, of one padded picture: 0 inside, the channels' zeros around it.
    """

    pads: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]


class Stored(NamedTuple):
    """What a DequantizeLinear reads: the integers' name, their scale and zero point, one of each or one a channel."""

    integers: str
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[Any]


def equal_steps(model: ModelProto, layers: Sequence[Layer], balanced: Collection[str] = ()) -> Factors:
    """Factors with which a pixel's step is as wide in every channel of a float32 graph's picture, for `read_pixels` later.

    Empty where the gains are equal already, or where `read_pixels` will find nothing to do.

    Args:
        balanced: tensors that have other factors.
    """
    nodes, weights = {node.name: node for node in model.graph.node}, edit.initialisers(model.graph)
    wiring, times_read = Wiring(model), Counter(layer.weight for layer in layers)
    factors = {}
    for layer in layers:
        alone = times_read[layer.weight] == 1 and [user.name for user in wiring.users(layer.data)] == [layer.name]
        if layer.op != "Conv" or not alone or layer.data in balanced:
            continue
        picture = _picture(model.graph, layer.data, weights[layer.weight].dims[1])
        if picture is not None and _fits(nodes[layer.name], picture) and np.ptp(picture.gain) > 0:
            factors[layer.data] = (picture.gain.max() / picture.gain).astype(np.float32).reshape(-1, 1, 1)
    return factors


def read_pixels(model: ModelProto) -> bool:
    """Rewrites what sees normalised pixels in a graph of the CPU form, in place. Returns whether there was anything."""
    rewritten = [_rewrite(model.graph, node) for node in list(edit.nodes_of(model.graph, "Conv"))]
    while any(rewritten) and edit.drop_unused(model.graph):
        pass
    return any(rewritten)


def _rewrite(graph: GraphProto, conv: NodeProto) -> bool:
    stored, made_by = edit.initialisers(graph), edit.producers(graph)
    data, weight = (_stored(made_by.get(name), stored) for name in conv.input[:2])
    if data is None or weight is None or weight.integers not in stored or weight.zero_point.any() or weight.scale.ndim != 1:
        return False
    rounding = made_by.get(data.integers)
    if rounding is None or rounding.op_type != "QuantizeLinear":
        return False
    kernel = edit.array(stored[weight.integers])  # int8 (outputs, channels, height, width)
    picture = _picture(graph, rounding.input[0], kernel.shape[1])
    bias = bias_of(graph, conv) if len(conv.input) > 2 else np.zeros(len(kernel), np.float32)
    if picture is None or bias is None or not _fits(conv, picture):
        return False
    # What a pixel's step is to the weights: Q divides each channel by a scale of its own, DQ multiplies all by one.
    steps = data.scale.reshape(-1) * picture.gain / edit.array(stored[rounding.input[1]]).reshape(-1)
    step = np.float32(steps[0])
    zero_point, border = _outside(conv, picture, kernel.shape[2:])
    taken = np.einsum("ochw,c->o", kernel.astype(np.float64), picture.zero - zero_point)
    scale = step * weight.scale
    integers = np.rint(bias / scale - taken)
    if not np.allclose(steps, step, rtol=_SAME, atol=0) or np.abs(integers).max() > _INT32_MOST:
        return False

    name = conv.name or conv.output[0]
    chains = (
        _data(graph, picture, border, step, zero_point),
        _constant(graph, f"{name}.weight", kernel[:, np.argsort(picture.order)], weight.scale),
        _constant(graph, f"{name}.bias", integers.astype(np.int32), scale),
    )
    if border is not None:
        edit.set_attribute(conv, "pads", [0, 0, 0, 0])
    conv.input[:] = [chain.last for chain in chains]
    at = next(index for index, node in enumerate(graph.node) if node is conv)
    for chain in chains:
        chain.insert(at)
    return True


def _data(graph: GraphProto, picture: Picture, border: Border | None, step: np.float32, zero_point: int) -> edit.Chain:
    """From the graph's input to the data of the convolution."""
    chain = edit.Chain(graph, picture.source, PREFIX)
    if border is not None:
        chain.then("Pad", "padded", chain.constant("pads", border.pads, np.int64), chain.constant("outside", 0, np.uint8))
        chain.then("Max", "bordered", chain.constant("border", border.pixels, np.uint8))
    if picture.perm != sorted(picture.perm):
        chain.then("Transpose", "planes", perm=picture.perm)
    chain.then("DequantizeLinear", "dequantised", chain.constant("step", step), chain.constant("zero", zero_point, np.uint8))
    return chain


def _constant(graph: GraphProto, prefix: str, integers: npt.NDArray[Any], scale: npt.NDArray[np.float32]) -> edit.Chain:
    """Stored integers with a scale an output channel, as floats."""
    chain = edit.Chain(graph, edit.add_initialiser(graph, edit.fresh_name(graph, f"{prefix}.integers"), integers), prefix)
    zeros = chain.constant("zero_point", np.zeros(len(scale)), integers.dtype)
    chain.then("DequantizeLinear", "dequantised", chain.constant("scale", scale), zeros, axis=0)
    return chain


def _stored(node: NodeProto | None, constants: dict[str, TensorProto]) -> Stored | None:
    if node is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
        return None
    if any(name not in constants for name in node.input[1:]):
        return None
    scale, zero_point = (edit.array(constants[name]) for name in node.input[1:])
    return Stored(node.input[0], scale, zero_point)


def _fits(conv: NodeProto, picture: Picture) -> bool:
    """Whether the convolution can read pixels: it sees all channels, and what it pads with is a pixel."""
    pads = edit.attribute(conv, "pads", [])
    is_plain = edit.attribute(conv, "group", 1) == 1 and edit.attribute(conv, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    return is_plain and (not any(pads) or bool((np.rint(picture.zero) == np.clip(np.rint(picture.zero), 0, 255)).all()))


def _outside(conv: NodeProto, picture: Picture, window: Sequence[int]) -> tuple[int, Border | None]:
    """What the convolution pads with: a zero point for all channels; or, where each needs its own, a border."""
    pads, zeros = edit.attribute(conv, "pads", []), np.rint(picture.zero)
    if not any(pads):
        return 0, None
    if np.ptp(zeros) == 0:
        return int(zeros[0]), None
    strides, dilations = (edit.attribute(conv, name, [1, 1]) for name in ("strides", "dilations"))
    margins = np.zeros((4, 2), np.int64)  # before and after each axis of (N, C, H, W)
    for axis, (stride, dilation, taps) in enumerate(zip(strides, dilations, window, strict=True)):
        size, before, after = picture.shape[picture.perm[axis + 2]] or 0, pads[axis], pads[axis + 2]
        span = dilation * (taps - 1) + 1
        steps = (size + before + after - span) // stride + 1
        # As far as the last window, in whole strides: then `width_to_channels` needs no Pad of its own.
        reach = stride * (steps - 1) + -(-span // stride) * stride
        margins[axis + 2] = before, max(reach - size - before, 0)
    planes = [1, len(zeros), *(picture.shape[axis] or 0 for axis in picture.perm[2:])]
    in_order = zeros[np.argsort(picture.order)].reshape(1, -1, 1, 1)
    outside = np.pad(np.zeros(planes, bool), margins, constant_values=True)
    layout = np.argsort(picture.perm)
    return 0, Border(margins[layout].T.reshape(-1), (in_order * outside).astype(np.uint8).transpose(layout))


def _picture(graph: GraphProto, tensor: str, channels: int) -> Picture | None:
    """How `tensor` comes from pixels, read from its end; None where it does not, or by more than a normalisation."""
    stored, made_by = edit.initialisers(graph), edit.producers(graph)
    perm, order, is_float = [0, 1, 2, 3], np.arange(channels), True
    gain, offset = np.ones(channels), np.zeros(channels)
    while (node := made_by.get(tensor)) is not None:
        operand = edit.array(stored[node.input[1]]) if len(node.input) == 2 and node.input[1] in stored else None
        if node.op_type == "Transpose" and len(edit.attribute(node, "perm", ())) == len(perm):
            perm = [edit.attribute(node, "perm")[axis] for axis in perm]
        elif node.op_type == "Gather" and operand is not None and edit.attribute(node, "axis", 0) == perm[1]:
            if operand.ndim != 1 or sorted(operand) != list(range(channels)):
                return None
            order = operand[order]
        elif node.op_type == "Cast" and is_float and edit.attribute(node, "to") == TensorProto.FLOAT:
            is_float = False
        elif node.op_type == "DequantizeLinear" and _is_pair(made_by.get(node.input[0]), node):
            node = made_by[node.input[0]]
        elif node.op_type in _ARITHMETIC and operand is not None and is_float:
            values = _of_channels(operand, perm[1], channels)
            if values is None:
                return None
            # Of gain * (x op value) + offset, where x is the node's data: what becomes of gain and offset.
            gain, offset = _ARITHMETIC[node.op_type](gain, offset, values[order])
        else:
            return None
        tensor = node.input[0]
    given = next((each for each in graph.input if each.name == tensor), None)
    shape = edit.dims(given.type) if given is not None else None
    if is_float or shape is None or given is None or given.type.tensor_type.elem_type != TensorProto.UINT8:
        return None
    if len(shape) != len(perm) or None in shape[1:] or shape[perm[1]] != channels or not (gain > 0).all():
        return None
    return Picture(tensor, shape, perm, order, gain, -offset / gain)


def _is_pair(rounding: NodeProto | None, back: NodeProto) -> bool:
    """Whether the two give back what they are given, but for rounding."""
    return rounding is not None and rounding.op_type == "QuantizeLinear" and rounding.input[1:] == back.input[1:]


def _of_channels(operand: npt.NDArray[Any], axis: int, channels: int) -> Float64 | None:
    """The second operand of arithmetic on a tensor of four axes, one value a channel; None where it differs within a channel."""
    if operand.ndim > 4:
        return None
    operand = operand.reshape([1] * (4 - operand.ndim) + list(operand.shape))
    rows = np.moveaxis(operand, axis, 0).reshape(operand.shape[axis], -1)
    if len(rows) not in (1, channels) or (rows != rows[:, :1]).any():
        return None
    return np.broadcast_to(rows[:, 0].astype(np.float64), channels)
