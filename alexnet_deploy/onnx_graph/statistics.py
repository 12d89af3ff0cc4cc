"""What a graph is made of, counted without running it: layers, shapes, parameters, multiply-adds, memory."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.classifier import describe
from alexnet_deploy.onnx_graph.precisions import PRODUCTS, layer_precisions
from alexnet_deploy.onnx_graph.raw_input import PREFIX
from alexnet_deploy.types import OutputKind, Precision, TensorSpec

# Operators that change how numbers are stored, not what is computed: counted, but no layers of the network.
_PLUMBING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Constant"})
# Operators whose constants are settings (scales, bounds, borders) and nothing learnt.
_SET = frozenset({"Resize", "Clip", "Pad"})


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """One layer, for one picture.

    Attributes:
        name, op: of its node.
        shape: of its first output, without the batch; () where it cannot be told.
        parameters: numbers learnt; a layer that shares another's weights counts none.
        parameter_bytes: what they take in the file.
        multiply_adds: of Conv, Gemm and MatMul, their 4-bit form included; others are not counted.
        output_bytes: what its first output takes in memory.
        precision: what a Conv, Gemm or MatMul computes in.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    parameters: int
    parameter_bytes: int
    multiply_adds: int
    output_bytes: int
    precision: Precision | None


@dataclass(frozen=True, slots=True)
class GraphStatistics:
    """A whole graph, for one picture.

    Attributes:
        input, output, output_kind: as `describe` gives them.
        opset: of the default operator set.
        ops: how many nodes of each type, the most frequent first.
        layers: in the graph's order, without what only converts types.
        parameters, parameter_bytes, multiply_adds: sums over the layers.
        peak_bytes: the most that activations take at any one time when each is freed after its last use.
    """

    input: TensorSpec
    output: TensorSpec
    output_kind: OutputKind
    opset: int
    ops: dict[str, int]
    layers: tuple[LayerStatistics, ...]
    parameters: int
    parameter_bytes: int
    multiply_adds: int
    peak_bytes: int


def statistics(model: ModelProto) -> GraphStatistics:
    """Counts a classifier's parts.

    Raises:
        ModelError: it is no image classifier.
    """
    given, result, kind = describe(model)
    graph = model.graph
    types = edit.value_types(model)
    made_by = edit.producers(graph)
    weights = edit.initialisers(graph)
    precisions = {layer.layer: layer.precision for layer in layer_precisions(model)}
    counted: set[str] = set()
    layers = []
    for node in graph.node:
        if node.op_type in _PLUMBING:
            continue
        own = [weights[name] for name in dict.fromkeys(_operands(node, made_by)) if name in weights and name not in counted]
        counted.update(tensor.name for tensor in own)
        own = [tensor for tensor in own if _is_learnt(tensor, node)]
        layers.append(
            LayerStatistics(
                name=node.name or node.output[0],
                op=node.op_type,
                shape=_shape(types, node.output[0]),
                parameters=sum(_parameters(tensor, node) for tensor in own),
                parameter_bytes=sum(_bytes(tensor.data_type, tuple(tensor.dims)) for tensor in own),
                multiply_adds=_multiply_adds(node, types),
                output_bytes=_value_bytes(types, node.output[0]),
                precision=precisions.get(node.name or node.output[0]),
            )
        )
    return GraphStatistics(
        input=given,
        output=result,
        output_kind=kind,
        opset=edit.opset(model),
        ops=dict(Counter(node.op_type for node in graph.node).most_common()),
        layers=tuple(layers),
        parameters=sum(layer.parameters for layer in layers),
        parameter_bytes=sum(layer.parameter_bytes for layer in layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        peak_bytes=_peak_bytes(model, types),
    )


def _operands(node: NodeProto, made_by: dict[str, NodeProto]) -> list[str]:
    """The tensors a node computes with, seen through Cast, Transpose and DequantizeLinear."""
    names = []
    for name in node.input:
        source = made_by.get(name)
        while source is not None and source.op_type in ("DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity"):
            name = source.input[0]
            source = made_by.get(name)
        names.append(name)
    return names


def _is_learnt(tensor: TensorProto, node: NodeProto) -> bool:
    """Preprocessing is no part of the network, and neither are the scales of 4 bits; shapes and axes are integers."""
    if node.op_type in PRODUCTS:
        return bool(node.op_type != "MatMulNBits" or tensor.name == node.input[1])
    whole_numbers = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    return node.op_type not in _SET and tensor.data_type not in whole_numbers and not tensor.name.startswith(f"{PREFIX}.")


def _parameters(tensor: TensorProto, node: NodeProto) -> int:
    """How many numbers a tensor holds; 4-bit ones are packed."""
    return _four_bit_weights(node) if node.op_type == "MatMulNBits" else math.prod(tensor.dims)


def _four_bit_weights(node: NodeProto) -> int:
    return int(edit.attribute(node, "K") * edit.attribute(node, "N"))


def _multiply_adds(node: NodeProto, types: dict[str, TypeProto]) -> int:
    outputs = math.prod(_shape(types, node.output[0]))
    match node.op_type:
        case "MatMulNBits":  # of which shape inference knows nothing; it has one row a picture
            return _four_bit_weights(node)
        case "Conv":
            return outputs * math.prod(_whole(types, node.input[1])[1:])  # input channels a group, times kernel
        case "ConvTranspose":
            return math.prod(_shape(types, node.input[0])) * math.prod(_whole(types, node.input[1])[1:])
        case "Gemm" | "MatMul":
            weight = _whole(types, node.input[1])
            if len(weight) < 2:
                return 0
            return outputs * (weight[1] if edit.attribute(node, "transB", 0) else weight[-2])
    return 0


def _peak_bytes(model: ModelProto, types: dict[str, TypeProto]) -> int:
    """The largest sum of tensors that are alive while some node runs."""
    graph = model.graph
    weights = edit.initialisers(graph)
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    last_use.update((output.name, len(graph.node)) for output in graph.output)
    alive = {value.name: _value_bytes(types, value.name) for value in graph.input if value.name not in weights}
    peak = sum(alive.values())
    for index, node in enumerate(graph.node):
        alive.update((name, _value_bytes(types, name)) for name in node.output if name)
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > index}
    return peak


def _whole(types: dict[str, TypeProto], name: str) -> tuple[int, ...]:
    shape = edit.dims(types[name]) if name in types else None
    return tuple(n or 1 for n in shape or ())


def _shape(types: dict[str, TypeProto], name: str) -> tuple[int, ...]:
    """Without the batch; () where a length is not known."""
    shape = (edit.dims(types[name]) if name in types else None) or ()
    rest = [n for n in shape[1:] if n is not None]
    return tuple(rest) if len(rest) == len(shape) - 1 else ()


def _value_bytes(types: dict[str, TypeProto], name: str) -> int:
    return _bytes(types[name].tensor_type.elem_type, _shape(types, name)) if name in types else 0


def _bytes(kind: int, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
