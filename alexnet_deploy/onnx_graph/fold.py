"""Folding: constants, BatchNormalization and operations that do nothing disappear into what stands beside them."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.edit import array, attribute

MAX_FOLDED_ELEMENTS = 1 << 26  # 256 MiB of float32: twice the largest layer of AlexNet
# Computed here when all their inputs are constants. Their results are no larger than their inputs, broadcasting aside.
_FOLDABLE = frozenset(
    {"Identity", "Cast", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Slice", "Gather", "Split"}
    | {"Shape", "Size", "ReduceProd", "Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sqrt", "Reciprocal", "Pow", "Floor", "Ceil"}
    | {"Min", "Max", "Not", "Equal", "Where"}
)


def constants_to_initialisers(model: ModelProto) -> bool:
    """Constant and ConstantOfShape nodes, and whatever is computed from constants alone, become initialisers.

    Raises:
        ModelError: a ConstantOfShape asks for more than 2**26 elements.
    """
    graph = model.graph
    types = edit.value_types(model)
    known = edit.initialisers(graph)
    results = {output.name for output in graph.output}
    folded: list[NodeProto] = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or results.intersection(node.output):
            continue
        values = _constant_outputs(node, known, types)
        if values is None:
            continue
        for name, value in zip(node.output, values, strict=True):
            if name:
                edit.add_initialiser(graph, name, value)
                known[name] = graph.initializer[-1]
        folded.append(node)
    if folded:
        edit.remove_nodes(graph, folded)
    return bool(folded)


def _constant_outputs(node: NodeProto, known: dict[str, TensorProto], types: dict[str, Any]) -> list[npt.NDArray[Any]] | None:
    """The values of a node that depends on no input of the graph, or None where it does (or is not folded)."""
    if node.op_type == "Constant":
        return [_constant(node)]
    if node.op_type == "Shape" and node.input[0] in types and not node.attribute:
        shape = edit.dims(types[node.input[0]])
        return None if shape is None or None in shape else [np.array(shape, np.int64)]
    if not node.input or any(name and name not in known for name in node.input):
        return None
    if node.op_type == "ConstantOfShape":
        return [_constant_of_shape(node, array(known[node.input[0]]))]
    if node.op_type not in _FOLDABLE or not _small(node, types):
        return None
    return _evaluate(node, {name: array(known[name]) for name in node.input if name})


def _small(node: NodeProto, types: dict[str, Any]) -> bool:
    shapes = [edit.dims(types[name]) if name in types else None for name in node.output if name]
    return all(s is not None and None not in s and math.prod(cast("tuple[int]", s)) <= MAX_FOLDED_ELEMENTS for s in shapes)


def _constant(node: NodeProto) -> npt.NDArray[Any]:
    for found in node.attribute:
        match found.name:
            case "value":
                return array(found.t)
            case "value_float":
                return np.array(found.f, np.float32)
            case "value_floats":
                return np.array(found.floats, np.float32)
            case "value_int":
                return np.array(found.i, np.int64)
            case "value_ints":
                return np.array(found.ints, np.int64)
    raise ModelError(f"the Constant {node.output[0]!r} is sparse or text", expected="a dense tensor of numbers")


def _constant_of_shape(node: NodeProto, shape: npt.NDArray[Any]) -> npt.NDArray[Any]:
    lengths = [int(n) for n in shape.ravel()]
    if math.prod(max(n, 1) for n in lengths) > MAX_FOLDED_ELEMENTS or min(lengths, default=0) < 0:
        raise ModelError(
            f"the ConstantOfShape {node.output[0]!r} asks for the shape {lengths[:8]}",
            expected=f"at most {MAX_FOLDED_ELEMENTS:,} elements",
        )
    fill = attribute(node, "value")
    value = array(fill).ravel() if fill is not None else np.zeros(1, np.float32)
    return np.full(lengths, value[0], value.dtype)


def _evaluate(node: NodeProto, feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    from onnx.reference import ReferenceEvaluator

    try:
        return [np.asarray(value) for value in ReferenceEvaluator(node).run(None, feeds)]
    except Exception as error:  # numpy's own errors, for shapes that inference let through
        raise ModelError(
            f"{node.op_type} {node.output[0]!r} cannot be computed: {edit.first_line(error)}",
            expected="constants whose shapes fit each other",
            fix="export the model again",
        ) from error


def drop_no_ops(graph: GraphProto) -> bool:
    """Identity, Dropout, 1x1 pooling and the like are taken out. Returns whether there were any."""
    dead = [node for node in graph.node if _does_nothing(node) and edit.bypass(graph, node)]
    if dead:
        edit.remove_nodes(graph, dead)
    return bool(dead)


def _does_nothing(node: NodeProto) -> bool:
    match node.op_type:
        case "Identity" | "Dropout":  # Dropout at inference; its mask is never read in a classifier
            return True
        case "AveragePool" | "MaxPool":
            once = (*attribute(node, "kernel_shape", [0]), *attribute(node, "strides", [1]))
            return all(n == 1 for n in once) and not any(attribute(node, "pads", [0])) and len(node.output) == 1
        case _:
            return False


def fold_batch_norm(model: ModelProto) -> int:
    """BatchNormalization after a Conv or Gemm goes into that layer's weights and bias.

    w' = w * gamma / sqrt(variance + epsilon),  b' = (b - mean) * gamma / sqrt(variance + epsilon) + beta

    Returns:
        How many were folded.
    """
    graph = model.graph
    folded = [norm for norm in edit.nodes_of(graph, "BatchNormalization") if _fold_into_layer(graph, norm)]
    edit.remove_nodes(graph, folded)
    edit.drop_unused(graph)
    return len(folded)


def _fold_into_layer(graph: GraphProto, norm: NodeProto) -> bool:
    """Changes the layer before `norm` so that `norm` can go; False where that is no layer of its own with constant weights."""
    layer = edit.producers(graph).get(norm.input[0])
    weights = edit.initialisers(graph)
    if layer is None or layer.op_type not in ("Conv", "Gemm") or len(edit.consumers(graph)[norm.input[0]]) > 1:
        return False
    operands = [name for name in (*layer.input[1:], *norm.input[1:5]) if name]
    if any(name not in weights for name in operands) or attribute(norm, "training_mode", 0):
        return False
    if layer.op_type == "Gemm" and (attribute(layer, "alpha", 1.0), attribute(layer, "beta", 1.0)) != (1.0, 1.0):
        return False
    old_weight = array(weights[layer.input[1]])
    old_bias = array(weights[layer.input[2]]).astype(np.float64) if len(layer.input) > 2 and layer.input[2] else 0.0
    gamma, beta, mean, variance = (array(weights[name]).astype(np.float64) for name in norm.input[1:5])
    output_axis = 1 if layer.op_type == "Gemm" and not attribute(layer, "transB", 0) else 0
    channels = old_weight.shape[output_axis : output_axis + 1]
    if any(values.shape != channels for values in (gamma, beta, mean, variance)):
        return False
    if np.shape(old_bias)[-1:] not in ((), (1,), channels):
        return False
    spread = variance + attribute(norm, "epsilon", 1e-5)
    if not (spread > 0).all():
        return False  # not what training leaves behind: the graph's own NaN shall be seen
    gain = gamma / np.sqrt(spread)
    gain_shape = [-1 if axis == output_axis else 1 for axis in range(old_weight.ndim)]
    new_weight = (old_weight * gain.reshape(gain_shape)).astype(old_weight.dtype)
    new_bias = ((old_bias - mean) * gain + beta).astype(old_weight.dtype)
    # Under new names: another layer may share the old weights.
    layer.input[:] = [
        layer.input[0],
        edit.add_initialiser(graph, edit.fresh_name(graph, f"{layer.input[1]}.folded"), new_weight),
        edit.add_initialiser(graph, edit.fresh_name(graph, f"{norm.input[2]}.folded"), new_bias),
    ]
    return edit.bypass(graph, norm)


def products_to_gemm(model: ModelProto) -> bool:
    """A MatMul of rank 2 with constant weights, and the Add of a bias after it, become one Gemm: every engine's best case.

    Returns:
        Whether there were any.
    """
    graph = model.graph
    types = edit.value_types(model)
    weights = edit.initialisers(graph)
    products = [
        node
        for node in edit.nodes_of(graph, "MatMul")
        if node.input[1] in weights and _rank(types, node.input[0]) == _rank(types, node.input[1]) == 2
    ]
    biases: list[NodeProto] = []
    for node in products:
        node.op_type = "Gemm"
        readers = edit.consumers(graph).get(node.output[0], [])
        bias = (
            _added_bias(readers[0], node.output[0], weights, int(weights[node.input[1]].dims[1])) if len(readers) == 1 else None
        )
        if bias is not None and not any(output.name == node.output[0] for output in graph.output):
            add = readers[0]
            node.input.append(bias)
            add.input[:] = [node.output[0]]
            if edit.bypass(graph, add):
                biases.append(add)
    edit.remove_nodes(graph, biases)
    return bool(products)


def _added_bias(add: NodeProto, product: str, weights: dict[str, TensorProto], columns: int) -> str | None:
    """The constant that `add` adds to each row of `product`, or None where it does something else."""
    if add.op_type != "Add":
        return None
    other = add.input[1] if add.input[0] == product else add.input[0]
    shape = tuple(weights[other].dims) if other in weights else ()
    return other if shape in ((columns,), (1, columns)) else None


def _rank(types: dict[str, Any], name: str) -> int | None:
    shape = edit.dims(types[name]) if name in types else None
    return None if shape is None else len(shape)
