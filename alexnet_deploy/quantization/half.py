"""FP32 graphs to FP16 or BF16: typed, as TensorRT 11 wants it, where the graph alone says what computes in which precision.

The graph's input and output stay as they are, with a Cast inside. Every operator whose ONNX schema allows the half type
computes in it, except the few that lose their meaning there (`_FLOAT32_ONLY`). Q/DQ pairs keep their integers; their scales
become half, because the result of a DequantizeLinear has the type of its scale, and TensorRT wants a layer's operands to
be of one type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.classifier import logits_of, rearranging
from alexnet_deploy.onnx_graph.normalise import raise_opset
from alexnet_deploy.onnx_graph.raw_input import PREFIX as RAW_INPUT

HalfType = Literal["float16", "bfloat16"]

# The first opset whose schemas type everything that a classifier needs: DequantizeLinear with a float16 scale since 19,
# Conv and the pooling operators in bfloat16 since 22.
_OPSET = {"float16": 20, "bfloat16": 22}
_ELEMENT: dict[str, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_NUMPY: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

# Squares, exponentials and long sums leave the range of float16 (65504) or drown in its rounding.
_FLOAT32_ONLY = frozenset(
    {"LRN", "Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Reciprocal", "Sqrt"}
    | {"ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"}
    | {"LpNormalization", "MeanVarianceNormalization"}
    | {"InstanceNormalization", "LayerNormalization", "GroupNormalization"}
)
# Operands that stay float32 beside half data, because a variance does not fit: scale, bias, mean, variance.
_FLOAT32_OPERANDS = {"BatchNormalization": (1, 2, 3, 4)}
# Operands by which something is divided, or that are a step size: a zero there would be no rounding error but nonsense.
_NEVER_ZERO = {"QuantizeLinear": 1, "DequantizeLinear": 1, "Div": 1}


def to_half(model: ModelProto, dtype: HalfType) -> ModelProto:
    """A copy of the graph that computes in float16 or bfloat16.

    Args:
        model: a float32 graph in the dialect of `onnx_graph.normalise`, with or without Q/DQ pairs.
        dtype: "float16" or "bfloat16".

    Raises:
        ModelError: a type in the graph contradicts another.
    """
    converted = ModelProto()
    converted.CopyFrom(model)
    raise_opset(converted, _OPSET[dtype])
    return _Conversion(converted, dtype).run()


@dataclass
class _Conversion:
    """One graph under conversion.

    Attributes:
        kinds: tensor name -> element type, as the new graph has it.
        behind_softmax: tensors that only rearrange the answer; probabilities below 6e-8 would be zero in float16.
        versions: (name, element type) -> the name of that tensor in that type, once it was asked for.
        nodes: the new graph's nodes.
    """

    model: ModelProto
    dtype: HalfType
    kinds: dict[str, int] = field(default_factory=dict)
    behind_softmax: set[str] = field(default_factory=set)
    versions: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)

    @property
    def half(self) -> int:
        return _ELEMENT[self.dtype]

    def run(self) -> ModelProto:
        graph = self.model.graph
        self.kinds = {name: kind.tensor_type.elem_type for name, kind in edit.value_types(self.model).items()}
        self.weights = edit.initialisers(graph)
        self.outputs = {output.name for output in graph.output}
        if logits_of(self.model) not in self.outputs:
            self.behind_softmax = {node.output[0] for node in rearranging(self.model)}
        for node in graph.node:
            self._convert(node)
        nodes = self.nodes
        del graph.node[:]
        graph.node.extend(nodes)
        graph.ClearField("value_info")
        edit.drop_unused(graph)
        return self.model

    def _convert(self, node: NodeProto) -> None:
        """Appends the node with its operands in the types that it is to have, and what has to stand around it."""
        operands, results = self._targets(node)
        converted = NodeProto()
        converted.CopyFrom(node)
        for index, wanted in operands.items():
            never_zero = _NEVER_ZERO.get(node.op_type) == index
            converted.input[index] = self._version(node.input[index], wanted, never_zero=never_zero)
        self.nodes.append(converted)
        if self.half in results.values():
            _retype_attributes(converted, self.dtype)
        for index, kind in results.items():
            name = node.output[index]
            if kind != self.half:
                continue
            if name in self.outputs:
                # The graph's output keeps its name and type; the half version stands before it.
                inner = edit.fresh_name(self.model.graph, f"{name}.{self.dtype}")
                converted.output[index] = inner
                self.nodes.append(_cast(inner, name, TensorProto.FLOAT))
            else:
                self.kinds[name] = self.half

    def _targets(self, node: NodeProto) -> tuple[dict[int, int], dict[int, int]]:
        """The element types that a node's float operands and float results are to have, by their place."""
        operands = {i: TensorProto.FLOAT for i, name in enumerate(node.input) if name and self._is_float(name)}
        results = {i: TensorProto.FLOAT for i, name in enumerate(node.output) if name and self._is_float(name)}
        schema = _schema(node, edit.opset(self.model))
        wide = node.op_type in _FLOAT32_ONLY or node.output[0] in self.behind_softmax or _prepares_pixels(node)
        if schema is None or wide:
            return operands, results
        takes_half = {
            c.type_param_str for c in schema.type_constraints if f"tensor({self.dtype})" in c.allowed_type_strs
        }  # an operand of a fixed type, such as the scales of Resize, has no type parameter and stays
        if any(_type_parameter(schema.outputs, i) not in takes_half for i in results):
            return operands, results
        kept = _FLOAT32_OPERANDS.get(node.op_type, ())
        for index in operands:
            if _type_parameter(schema.inputs, index) in takes_half and index not in kept:
                operands[index] = self.half
        return operands, dict.fromkeys(results, self.half)

    def _is_float(self, name: str) -> bool:
        if name not in self.kinds:
            raise ModelError(f"the type of {name!r} cannot be told", expected="operators of the ONNX standard")
        return self.kinds[name] in (TensorProto.FLOAT, self.half)

    def _version(self, name: str, wanted: int, *, never_zero: bool) -> str:
        """The name under which this tensor is to be had in the wanted type; makes a Cast, or converts the weights, once."""
        if self.kinds[name] == wanted:
            return name
        key = (name, wanted)
        if key not in self.versions:
            graph = self.model.graph
            new = edit.fresh_name(graph, f"{name}.{TensorProto.DataType.Name(wanted).lower()}")
            if name in self.weights:
                values = rounded(edit.array(self.weights[name]), self.dtype, never_zero=never_zero)
                graph.initializer.append(numpy_helper.from_array(values, new))
            else:
                self.nodes.append(_cast(name, new, wanted))
            self.kinds[new] = wanted
            self.versions[key] = new
        return self.versions[key]


def rounded(values: npt.NDArray[Any], dtype: HalfType, *, never_zero: bool = False) -> npt.NDArray[Any]:
    """Weights in the half type: rounded to nearest, finite values kept finite.

    Args:
        values: float32, any shape.
        dtype: the half type.
        never_zero: keep what is not zero at least at the type's smallest positive number.
    """
    limits: Any = ml_dtypes.finfo(_NUMPY[dtype])  # type: ignore[no-untyped-call]
    finite = np.isfinite(values)
    clamped = np.where(finite, np.clip(values, float(limits.min), float(limits.max)), values)
    result: npt.NDArray[Any] = clamped.astype(_NUMPY[dtype])
    if never_zero:
        smallest = np.copysign(np.float32(float(limits.smallest_subnormal)), values)
        lost = (values != 0) & (result == 0)
        result = np.where(lost, smallest.astype(result.dtype), result)
    return result


def _prepares_pixels(node: NodeProto) -> bool:
    """Whether a node is preprocessing that was put into the graph (a Q/DQ pair after it may carry its name too)."""
    return bool(node.name.startswith(f"{RAW_INPUT}.")) and node.op_type not in ("QuantizeLinear", "DequantizeLinear")


def _cast(source: str, result: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}.cast", to=kind)


def _retype_attributes(node: NodeProto, dtype: HalfType) -> None:
    """Types that stand in attributes: what Cast casts to, what ConstantOfShape fills with, and the like."""
    for found in node.attribute:
        if found.name in ("to", "dtype", "output_dtype") and found.i == TensorProto.FLOAT:
            found.i = _ELEMENT[dtype]
        elif found.name == "value" and found.t.data_type == TensorProto.FLOAT:
            found.t.CopyFrom(numpy_helper.from_array(rounded(edit.array(found.t), dtype), found.t.name))


def _schema(node: NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _type_parameter(parameters: Sequence[Any], index: int) -> str:
    """What the schema calls the type of the operand at `index`; the last parameter may stand for many (Concat)."""
    return str(parameters[min(index, len(parameters) - 1)].type_str)
