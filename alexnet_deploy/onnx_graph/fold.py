"""Folding: constants, one product and sum a channel, and operations that do nothing disappear into what stands beside them."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

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
_ARITHMETIC = ("Mul", "Div", "Add", "Sub")


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


def drop_no_ops(model: ModelProto) -> bool:
    """Identity, Dropout, 1x1 pooling, a Cast to the same type and the like are taken out. Returns whether there were any."""
    graph, types = model.graph, edit.value_types(model)
    dead = [node for node in graph.node if _does_nothing(node, types) and edit.bypass(graph, node)]
    if dead:
        edit.remove_nodes(graph, dead)
    return bool(dead)


def _does_nothing(node: NodeProto, types: dict[str, TypeProto]) -> bool:
    match node.op_type:
        case "Identity" | "Dropout":  # Dropout at inference; its mask is never read in a classifier
            return True
        case "Cast":
            given = types.get(node.input[0])
            return given is not None and bool(given.tensor_type.elem_type == attribute(node, "to"))
        case "AveragePool" | "MaxPool":
            once = (*attribute(node, "kernel_shape", [0]), *attribute(node, "strides", [1]))
            return all(n == 1 for n in once) and not any(attribute(node, "pads", [0])) and len(node.output) == 1
        case _:
            return False


def fold_affine(model: ModelProto) -> bool:
    """What follows a Conv or Gemm and is one product and one sum a channel goes into that layer's weights and bias.

    BatchNormalization with constant parameters is that, and so are Mul, Div, Add and Sub with one constant a channel, as
    Caffe's Scale, dlib's affine layers and a MatMul's bias are written:

        gain * (x W + b) + offset = x (gain W) + (gain b + offset)

    Returns:
        Whether there were any. Of several in a row, each call folds the first.
    """
    graph = model.graph
    made_by, read_by = edit.producers(graph), edit.consumers(graph)
    weights = edit.initialisers(graph)
    folded = []
    for node in edit.nodes_of(graph, "BatchNormalization", *_ARITHMETIC):
        data = next((name for name in node.input if name in made_by), "")
        layer = made_by.get(data)
        if layer is None or layer.op_type not in ("Conv", "Gemm") or len(read_by[data]) > 1:
            continue
        if _fold_into_layer(graph, layer, node, data, weights):
            folded.append(node)
    edit.remove_nodes(graph, folded)
    edit.drop_unused(graph)
    return bool(folded)


def _fold_into_layer(graph: GraphProto, layer: NodeProto, node: NodeProto, data: str, weights: dict[str, TensorProto]) -> bool:
    """Changes `layer` so that `node` behind it can go; False where its weights are not constant, or `node` is something else."""
    if any(name and name not in weights for name in layer.input[1:]):
        return False
    if layer.op_type == "Gemm" and (attribute(layer, "alpha", 1.0), attribute(layer, "beta", 1.0)) != (1.0, 1.0):
        return False
    weight = weights[layer.input[1]]
    old_bias = array(weights[layer.input[2]]).astype(np.float64) if len(layer.input) > 2 and layer.input[2] else np.zeros(())
    output_axis = 1 if layer.op_type == "Gemm" and not attribute(layer, "transB", 0) else 0
    channels = int(weight.dims[output_axis])
    rank = len(weight.dims)
    affine = _affine(node, data, (1, channels, *[1] * (rank - 2)), weights)
    if affine is None or not _is_row(old_bias.shape, channels):
        return False
    gain, offset = affine
    old_weight = array(weight)
    new_bias = (old_bias.reshape(-1) * gain + offset).astype(old_weight.dtype)
    layer.input[2:] = [edit.add_initialiser(graph, edit.fresh_name(graph, f"{data}.bias"), new_bias)]
    if (gain != 1).any():
        gain_shape = [-1 if axis == output_axis else 1 for axis in range(rank)]
        new_weight = (old_weight * gain.reshape(gain_shape)).astype(old_weight.dtype)
        # Under a new name: another layer may share the old weights.
        name = f"{weight.name.removesuffix('.folded')}.folded"
        layer.input[1] = edit.add_initialiser(graph, edit.fresh_name(graph, name), new_weight)
    node.input[:] = [data]
    return edit.bypass(graph, node)


def _affine(
    node: NodeProto, data: str, shape: tuple[int, ...], weights: dict[str, TensorProto]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """What a node makes of its operand x: gain * x + offset, both float64 (channels,); None where it is something else.

    Args:
        shape: of one number for each channel of x, with all of x's axes.
    """
    parameters = [array(weights[name]).astype(np.float64) for name in node.input if name in weights]
    if len(parameters) != len(node.input) - 1:
        return None
    if node.op_type == "BatchNormalization":
        spread = parameters[3] + attribute(node, "epsilon", 1e-5)
        whole = node.input[0] == data and all(values.shape == (shape[1],) for values in parameters)
        if not whole or attribute(node, "training_mode", 0) or not (spread > 0).all():
            return None  # not what training leaves behind: the graph's own NaN shall be seen
        gamma, beta, mean, _ = parameters
        gain = gamma / np.sqrt(spread)
        return gain, beta - mean * gain
    (constant,) = parameters
    if constant.ndim > len(shape) or np.broadcast_shapes(constant.shape, shape) != shape:
        return None
    values = np.broadcast_to(constant, shape).reshape(-1)
    ones, zeros = np.ones_like(values), np.zeros_like(values)
    x_first = node.input[0] == data
    match node.op_type:
        case "Add":
            return ones, values
        case "Sub":
            return (ones, -values) if x_first else (-ones, values)
        case "Mul":
            return values, zeros
        case _:
            return (1 / values, zeros) if x_first and values.all() else None


def products_to_gemm(model: ModelProto) -> bool:
    """A MatMul of rank 2 with constant weights becomes a Gemm: every engine's best case.

    Returns:
        Whether there were any.
    """
    types = edit.value_types(model)
    weights = edit.initialisers(model.graph)
    products = [
        node
        for node in edit.nodes_of(model.graph, "MatMul")
        if node.input[1] in weights and _rank(types, node.input[0]) == _rank(types, node.input[1]) == 2
    ]
    for node in products:
        node.op_type = "Gemm"
    return bool(products)


def _is_row(shape: tuple[int, ...], columns: int) -> bool:
    """Whether a tensor of this shape adds the same to each row of a matrix with so many columns."""
    return shape in ((), (1,), (1, 1), (columns,), (1, columns))


def plain_gemms(graph: GraphProto) -> bool:
    """alpha and beta of each Gemm go into its constant weights and bias, and the bias gets one number an output.

    Returns:
        Whether there were any to change.
    """
    changed = [_make_plain(graph, node) for node in edit.nodes_of(graph, "Gemm")]
    return any(changed)


def _make_plain(graph: GraphProto, gemm: NodeProto) -> bool:
    weights = edit.initialisers(graph)
    weight = weights.get(gemm.input[1])
    bias = gemm.input[2] if len(gemm.input) > 2 else ""
    if weight is None or (bias and bias not in weights):
        return False
    columns = int(weight.dims[0 if attribute(gemm, "transB", 0) else 1])
    shape = tuple(weights[bias].dims) if bias else (columns,)
    alpha, beta = attribute(gemm, "alpha", 1.0), attribute(gemm, "beta", 1.0)
    if not _is_row(shape, columns) or (alpha == beta == 1 and shape == (columns,)):
        return False
    # Under new names: another layer may share the old ones.
    if alpha != 1:
        values = array(weight)
        gemm.input[1] = edit.add_initialiser(
            graph, edit.fresh_name(graph, f"{weight.name}.scaled"), (alpha * values).astype(values.dtype)
        )
    if bias and (beta != 1 or shape != (columns,)):
        values = array(weights[bias])
        row = np.broadcast_to((beta * values).astype(values.dtype).reshape(-1), columns)
        gemm.input[2] = edit.add_initialiser(graph, edit.fresh_name(graph, f"{bias}.row"), row)
    kept = [found for found in gemm.attribute if found.name not in ("alpha", "beta")]
    del gemm.attribute[:]
    gemm.attribute.extend(kept)
    return True


def untie(graph: GraphProto) -> bool:
    """Weights that one layer reads as they are and another transposed are stored twice: their scales run along different axes.

    Returns:
        Whether there were any.
    """
    weights = edit.initialisers(graph)
    readers: dict[str, tuple[list[NodeProto], list[NodeProto]]] = {name: ([], []) for name in weights}
    for node in edit.nodes_of(graph, "Gemm", "MatMul"):
        if node.input[1] in weights:
            readers[node.input[1]][bool(attribute(node, "transB", 0))].append(node)
    tied = {name: turned for name, (straight, turned) in readers.items() if straight and turned}
    for name, turned in tied.items():
        copy = edit.add_initialiser(graph, edit.fresh_name(graph, f"{name}.transposed"), array(weights[name]).T)
        for node in turned:
            node.input[1] = copy
            edit.set_attribute(node, "transB", 0)
    return bool(tied)


def _rank(types: dict[str, Any], name: str) -> int | None:
    shape = edit.dims(types[name]) if name in types else None
    return None if shape is None else len(shape)
