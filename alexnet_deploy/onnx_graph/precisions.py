"""What each Conv and Gemm of a graph computes in, read from the graph itself."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, TypeProto

from alexnet_deploy.errors import ModelError
from alexnet_deploy.manifest import LayerPrecision
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.types import Precision

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits")  # the last is onnxruntime's
_OF_TYPE = {
    TensorProto.FLOAT: Precision.FP32,
    TensorProto.FLOAT16: Precision.FP16,
    TensorProto.BFLOAT16: Precision.BF16,
    TensorProto.INT8: Precision.INT8,
    TensorProto.UINT8: Precision.INT8,
    TensorProto.FLOAT8E4M3FN: Precision.FP8,
}


def layer_precisions(model: ModelProto) -> tuple[LayerPrecision, ...]:
    """One entry for each Conv, ConvTranspose, Gemm and MatMul, in the graph's order.

    A layer counts as INT8 or FP8 only when both its data and its weights come out of a DequantizeLinear of that type; as
    INT4 when it is a MatMulNBits of 4 bits.
    """
    types = edit.value_types(model)
    made_by = edit.producers(model.graph)
    return tuple(
        LayerPrecision(layer=node.name or node.output[0], op=node.op_type, precision=_precision(node, made_by, types))
        for node in model.graph.node
        if node.op_type in PRODUCTS
    )


def _precision(node: NodeProto, made_by: dict[str, NodeProto], types: dict[str, TypeProto]) -> Precision:
    if node.op_type == "MatMulNBits" and edit.attribute(node, "bits", 4) == 4:
        return Precision.INT4
    data, weights = (_source_type(name, made_by, types) for name in node.input[:2])
    if data == weights:
        return data
    # Quantised on one side only: it computes in the type that both are brought to.
    return _of(types, node.input[0])


def _source_type(name: str, made_by: dict[str, NodeProto], types: dict[str, TypeProto]) -> Precision:
    """The precision that an operand was stored in before it was dequantised, if it was."""
    node = made_by.get(name)
    while node is not None and node.op_type in ("Transpose", "Reshape", "Flatten", "Identity"):
        name = node.input[0]
        node = made_by.get(name)
    if node is not None and node.op_type == "DequantizeLinear":
        name = node.input[0]
    return _of(types, name)


def _of(types: dict[str, TypeProto], name: str) -> Precision:
    kind = types[name].tensor_type.elem_type if name in types else TensorProto.UNDEFINED
    if kind not in _OF_TYPE:
        raise ModelError(f"{name!r} is of type {TensorProto.DataType.Name(kind)}", expected="a float or 8-bit tensor")
    return _OF_TYPE[kind]
