"""Fully connected layers of a graph as numbers, whatever they are stored in: float, or int8 behind a DequantizeLinear."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto

from alexnet_deploy.onnx_graph import edit

Float32 = npt.NDArray[np.float32]


def weights_of(graph: GraphProto, gemm: NodeProto) -> Float32 | None:
    """float32 (inputs, outputs), dequantised where they are int8; None where they are no constant, or scaled by the node."""
    if edit.attribute(gemm, "transA", 0) or edit.attribute(gemm, "alpha", 1.0) != 1 or edit.attribute(gemm, "beta", 1.0) != 1:
        return None
    stored, made_by = edit.initialisers(graph), edit.producers(graph)
    source = made_by.get(gemm.input[1])
    if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in stored:
        values = edit.array(stored[source.input[0]]).astype(np.float32)
        scale = edit.array(stored[source.input[1]])
        weights = values * (scale.reshape(-1, 1) if edit.attribute(source, "axis", 1) == 0 else scale)
    elif gemm.input[1] in stored:
        weights = edit.array(stored[gemm.input[1]])
    else:
        return None
    return np.ascontiguousarray(weights.T if edit.attribute(gemm, "transB", 0) else weights, np.float32)


def bias_of(graph: GraphProto, gemm: NodeProto) -> Float32 | None:
    """float32 (outputs,), dequantised where it is int32; None where there is none, or it is no constant."""
    stored, made_by = edit.initialisers(graph), edit.producers(graph)
    name = gemm.input[2] if len(gemm.input) > 2 else ""
    source = made_by.get(name)
    if source is None:
        return edit.array(stored[name]).astype(np.float32) if name in stored else None
    if source.op_type != "DequantizeLinear" or any(operand not in stored for operand in source.input):
        return None
    values, scale = (edit.array(stored[operand]).astype(np.float32) for operand in source.input[:2])
    zero = edit.array(stored[source.input[2]]).astype(np.float32) if len(source.input) > 2 else np.float32(0)
    return cast(Float32, (values - zero) * scale)


def before_quantisation(graph: GraphProto, name: str) -> str:
    """The tensor before its QuantizeLinear and DequantizeLinear, where these two made `name`."""
    made_by = edit.producers(graph)
    dequantise = made_by.get(name)
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return name
    quantise = made_by.get(dequantise.input[0])
    return quantise.input[0] if quantise is not None and quantise.op_type == "QuantizeLinear" else name


def float_bias(graph: GraphProto, gemm: NodeProto) -> str:
    """The name of a layer's bias as a float tensor, which is made where a DequantizeLinear makes it from constants."""
    name: str = gemm.input[2]
    values = bias_of(graph, gemm)
    if values is None or name in edit.initialisers(graph):
        return name
    return edit.add_initialiser(graph, edit.fresh_name(graph, f"{name}.float"), values)


def put_in_place(graph: GraphProto, old: NodeProto, made: list[NodeProto]) -> None:
    """Exchanges one node for several."""
    index = next(i for i, other in enumerate(graph.node) if other is old)
    edit.remove_nodes(graph, [old])
    for offset, node in enumerate(made):
        graph.node.insert(index + offset, node)
