"""Fully connected layers with 4-bit weights, for the CPU: an eighth of FP32's bytes, and half of INT8's.

At batch 1 a fully connected layer takes as long as its weights take to come from memory, and those of AlexNet are 96 % of
the model. Weights become int4 in blocks along the input channels, with one scale a block; activations are quantised by the
engine, block by block, as they come. Written as onnxruntime's MatMulNBits, which OpenVINO reads too. (Standard ONNX,
a blocked DequantizeLinear before a MatMul, would do: onnxruntime 1.32 fuses only the last of a chain of three.)
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from msgspec import structs
from onnx import GraphProto, ModelProto, NodeProto, helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.onnx_graph import edit, load_graph, save_graph
from alexnet_deploy.quantization.connected import before_quantisation, float_bias, put_in_place, weights_of

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

    All else computes the same numbers.

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
    four_bit(graph, block, model.path)
    return save_graph(graph, output, structs.replace(model.manifest, parents=model.lineage()))


def four_bit(model: ModelProto, block: int, path: Path) -> None:
    """Gives the fully connected layers of a graph 4-bit weights, in place. Raises ModelError naming `path`, as `to_four_bit`."""
    graph = model.graph
    written = [_replace(graph, node, block) for node in list(edit.nodes_of(graph, "Gemm"))]
    if not written or not all(written):
        count = f"{written.count(False)} of {len(written)} fully connected layers" if any(written) else "no fully connected layer"
        verb = "that cannot be written" if any(written) else "to write"
        raise ModelError(f"{path} has {count} {verb} in 4 bits", expected=f"input channels that divide by {block}")
    edit.drop_all_unused(graph)
    if not any(domain.domain == DOMAIN for domain in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


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
    weights = weights_of(graph, node)
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
    has_bias = len(node.input) > 2 and node.input[2] != ""
    product = edit.fresh_name(graph, f"{name}.product") if has_bias else node.output[0]
    how = {"K": inputs, "N": outputs, "bits": 4, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS}
    # The engine quantises activations itself, block by block.
    data = before_quantisation(graph, node.input[0])
    made = [helper.make_node("MatMulNBits", [data, stored, scale], [product], name, domain=DOMAIN, **how)]
    if has_bias:
        made.append(helper.make_node("Add", [product, float_bias(graph, node)], [node.output[0]], f"{name}.bias"))
    put_in_place(graph, node, made)
    return True


def _packed(values: npt.NDArray[np.int8], block: int) -> npt.NDArray[np.uint8]:
    """int4 (inputs, outputs) as MatMulNBits stores them: (outputs, blocks, block / 2), 8 added, the earlier in the low bits."""
    shifted = (values.T - SMALLEST).astype(np.uint8).reshape(values.shape[1], -1, block)
    return cast("npt.NDArray[np.uint8]", shifted[..., 0::2] | shifted[..., 1::2] << 4)
