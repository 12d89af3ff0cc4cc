"""Fully connected layers with 4-bit weights, for the CPU: an eighth of FP32's bytes, and half of INT8's.

At batch 1 a fully connected layer takes as long as its weights take to come from memory, and those of AlexNet are 96 % of
the model. Weights become int4 in blocks along the input channels, with one scale a block; activations are quantised by the
engine, block by block, as they come. Written as onnxruntime's MatMulNBits, which OpenVINO reads too. (Standard ONNX,
a blocked DequantizeLinear before a MatMul, would do: onnxruntime 1.32 fuses only the last of a chain of three.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, helper

from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.manifest import Artifact
from alexnet_deploy.onnx_graph import edit, load_graph, save_graph
from alexnet_deploy.quantization.width_to_channels import width_to_channels

BLOCK = 32
BLOCKS = (16, 32, 64, 128, 256)
DOMAIN = "com.microsoft"
LARGEST, SMALLEST = 7, -8
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
_ROWS_AT_ONCE = 256

Float32 = npt.NDArray[np.float32]


def to_four_bit(model: Artifact, output: str | Path, *, block: int = BLOCK) -> Artifact:
    """Writes a graph whose fully connected layers have 4-bit weights.

    All else computes the same numbers; an INT8 convolution of pictures is written as onnxruntime runs it faster (see
    `width_to_channels`).

    Args:
        model: an FP32 graph, or an INT8 one in the CPU form, whose 8-bit weights are rounded once more.
        output: where it goes; ends in .onnx.
        block: input channels with a scale in common, one of BLOCKS. Longer blocks are read faster, and rounded more coarsely.

    Raises:
        InputError: another `block`.
        ModelError: it has no fully connected layer, or one whose input channels do not divide by `block`.
    """
    if block not in BLOCKS:
        raise InputError(f"blocks of {block}", expected=f"one of {', '.join(map(str, BLOCKS))}")
    graph = load_graph(model.path)
    width_to_channels(graph)
    written = [_replace(graph.graph, node, block) for node in list(edit.nodes_of(graph.graph, "Gemm"))]
    if not written or not all(written):
        count = f"{written.count(False)} of {len(written)} fully connected layers" if any(written) else "no fully connected layer"
        verb = "that cannot be written" if any(written) else "to write"
        raise ModelError(f"{model.path} has {count} {verb} in 4 bits", expected=f"input channels that divide by {block}")
    while edit.drop_unused(graph.graph):
        pass
    if not any(domain.domain == DOMAIN for domain in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return save_graph(graph, output, replace(model.manifest, parents=model.lineage()))


def quantise_blocks(weights: Float32, block: int = BLOCK) -> tuple[npt.NDArray[np.int8], Float32]:
    """Weights (inputs, outputs) to int4 in blocks of `block` inputs.

    A block's scale is the one of a few that leaves the smallest squared error: cutting its largest weights off a little
    makes the steps finer for all others.

    Returns:
        int8 (inputs, outputs) within -8..7, and float32 scales (inputs / block, outputs).
    """
    inputs, outputs = weights.shape
    blocks = weights.reshape(inputs // block, block, outputs)
    # The largest weight, whatever its sign, lands on -8: the side that has one step more.
    extremes = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    best_error = np.full(extremes.shape, np.inf, np.float32)
    best_scale: Float32 = np.ones(extremes.shape, np.float32)
    for shrink in _SHRINKS:
        scale: Float32 = extremes * np.float32(shrink / SMALLEST)
        scale[scale == 0] = 1
        error = np.square(_round(blocks, scale) * scale - blocks).sum(axis=1, keepdims=True)
        better = error < best_error
        best_error[better], best_scale[better] = error[better], scale[better]
    values = _round(blocks, best_scale).astype(np.int8)
    return values.reshape(inputs, outputs), best_scale[:, 0]


def _round(blocks: Float32, scale: Float32) -> Float32:
    return cast(Float32, np.clip(np.rint(blocks / scale), SMALLEST, LARGEST))


def _replace(graph: GraphProto, node: NodeProto, block: int) -> bool:
    """Gemm -> MatMul with 4-bit weights, and Add. Whether it could be done."""
    weights = _weights(graph, node)
    if weights is None or len(weights) % block:
        return False
    # In parts: the whole of AlexNet's first layer and its temporary arrays would take a gigabyte.
    starts = range(0, weights.shape[1], _ROWS_AT_ONCE)
    parts = [quantise_blocks(weights[:, start : start + _ROWS_AT_ONCE], block) for start in starts]
    values, scales = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    name = node.name or node.output[0]
    inputs, outputs = weights.shape
    stored = edit.add_initialiser(graph, edit.fresh_name(graph, f"{name}.weight.int4"), _packed(values, block))
    scale = edit.add_initialiser(graph, edit.fresh_name(graph, f"{name}.weight.int4.scale"), scales.T.reshape(-1))
    bias = node.input[2] if len(node.input) > 2 else ""
    product = edit.fresh_name(graph, f"{name}.product") if bias else node.output[0]
    how = {"K": inputs, "N": outputs, "bits": 4, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS}
    data = _unquantised(graph, node.input[0])
    made = [helper.make_node("MatMulNBits", [data, stored, scale], [product], name, domain=DOMAIN, **how)]
    if bias:
        made.append(helper.make_node("Add", [product, _as_float(graph, bias)], [node.output[0]], f"{name}.bias"))
    index = next(i for i, other in enumerate(graph.node) if other is node)
    edit.remove_nodes(graph, [node])
    for offset, new in enumerate(made):
        graph.node.insert(index + offset, new)
    return True


def _packed(values: npt.NDArray[np.int8], block: int) -> npt.NDArray[np.uint8]:
    """int4 (inputs, outputs) as MatMulNBits stores them: (outputs, blocks, block / 2), 8 added, the earlier in the low bits."""
    shifted = (values.T - SMALLEST).astype(np.uint8).reshape(values.shape[1], -1, block)
    return cast("npt.NDArray[np.uint8]", shifted[..., 0::2] | shifted[..., 1::2] << 4)


def _weights(graph: GraphProto, node: NodeProto) -> Float32 | None:
    """float32 (inputs, outputs), dequantised where they are int8; None where they are no constant, or scaled by the node."""
    if edit.attribute(node, "transA", 0) or edit.attribute(node, "alpha", 1.0) != 1 or edit.attribute(node, "beta", 1.0) != 1:
        return None
    stored, made_by = edit.initialisers(graph), edit.producers(graph)
    source = made_by.get(node.input[1])
    if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in stored:
        values = edit.array(stored[source.input[0]]).astype(np.float32)
        scale = edit.array(stored[source.input[1]])
        weights = values * (scale.reshape(-1, 1) if edit.attribute(source, "axis", 1) == 0 else scale)
    elif node.input[1] in stored:
        weights = edit.array(stored[node.input[1]])
    else:
        return None
    return np.ascontiguousarray(weights.T if edit.attribute(node, "transB", 0) else weights, np.float32)


def _as_float(graph: GraphProto, name: str) -> str:
    """A float initialiser of what DequantizeLinear makes of a stored one; `name` itself where nothing does."""
    stored, made_by = edit.initialisers(graph), edit.producers(graph)
    source = made_by.get(name)
    if source is None or source.op_type != "DequantizeLinear" or any(operand not in stored for operand in source.input):
        return name
    values, scale = (edit.array(stored[operand]).astype(np.float32) for operand in source.input[:2])
    if len(source.input) > 2 and edit.array(stored[source.input[2]]).any():
        return name
    return edit.add_initialiser(graph, edit.fresh_name(graph, f"{name}.float"), values * scale)


def _unquantised(graph: GraphProto, name: str) -> str:
    """The tensor before its QuantizeLinear and DequantizeLinear: the engine quantises activations block by block itself."""
    made_by = edit.producers(graph)
    dequantise = made_by.get(name)
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return name
    quantise = made_by.get(dequantise.input[0])
    return quantise.input[0] if quantise is not None and quantise.op_type == "QuantizeLinear" else name
