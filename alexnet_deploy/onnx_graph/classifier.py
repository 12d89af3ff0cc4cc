"""What goes into a graph, what comes out, and what that means."""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.answer import classes_of
from alexnet_deploy.types import OutputKind, TensorSpec

_DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
}
_INPUT_DTYPES = ("float32", "uint8")
_CLASSIFIER = "one picture input (N, channels, height, width) and one output (N, classes)"
# What may stand between a softmax and the graph's output without changing what the numbers mean.
_TRANSPARENT = frozenset({"Identity", "Cast", "Flatten", "Reshape", "Squeeze"})


def describe(model: ModelProto) -> tuple[TensorSpec, TensorSpec, OutputKind]:
    """The graph's input and output, and whether it ends in logits or probabilities.

    Returns:
        input: float32 or uint8, rank 4 with 1 or 3 channels; None for the batch, and for an open height or width.
        output: float32 (N, classes), at least two classes.
        kind: PROBABILITIES after a Softmax over the classes, else LOGITS (LogSoftmax too: its softmax is the probabilities).

    Raises:
        ModelError: it is no single-input image classifier; says what it is instead.
    """
    graph = model.graph
    pictures = only_input(graph)
    if len(graph.output) != 1:
        raise ModelError(
            f"the graph has {len(graph.output)} outputs{_names(graph.output)}",
            expected=_CLASSIFIER,
            fix="alexnet-deploy adopt, which takes one of them" if graph.output else "",
        )
    given, result = _input_spec(pictures), _output_spec(model, graph.output[0])
    return given, result, _output_kind(model, result.name)


def only_input(graph: GraphProto) -> ValueInfoProto:
    """What the pictures go into. Raises ModelError where that is not the only input, weights aside."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ModelError(f"the graph has {len(inputs)} inputs{_names(inputs)}", expected=_CLASSIFIER)
    return inputs[0]


def _input_spec(value: ValueInfoProto) -> TensorSpec:
    spec = _spec(value)
    if spec.dtype not in _INPUT_DTYPES:
        raise ModelError(f"the graph's input is {spec}", expected=f"{' or '.join(_INPUT_DTYPES)} pictures", fix=_widened(spec))
    if len(spec.shape) != 4:
        raise ModelError(f"the graph's input is {spec}", expected=_CLASSIFIER)
    channels_first, channels_last = (spec.shape[1] in (1, 3)), (spec.shape[3] in (1, 3))
    if not (channels_first or channels_last):
        raise ModelError(f"the graph's input is {spec}", expected="1 or 3 channels in second or last place")
    if spec.shape[0] == 0 or any(n is not None and not 1 <= n <= 8192 for n in spec.shape[1:]):
        raise ModelError(f"the graph's input is {spec}", expected="pictures of 1 to 8192 pixels a side")
    return spec


def _output_spec(model: ModelProto, value: ValueInfoProto) -> TensorSpec:
    kind = edit.value_types(model).get(value.name, value.type)  # inference knows what an exporter may have left open
    value = onnx.helper.make_value_info(value.name, kind)
    spec = _spec(value)
    if spec.dtype != "float32":
        raise ModelError(f"the graph's output is {spec}", expected="float32 (N, classes)", fix=_widened(spec))
    if len(spec.shape) > 2 and classes_of(kind) is not None:
        raise ModelError(
            f"the graph's output is {spec}", expected="float32 (N, classes)", fix="alexnet-deploy adopt, which flattens it"
        )
    if len(spec.shape) != 2 or spec.shape[1] is None:
        raise ModelError(f"the graph's output is {spec}", expected="float32 (N, classes)")
    if spec.shape[1] < 2:
        raise ModelError(f"the graph's output is {spec}", expected="at least two classes")
    return spec


def _widened(spec: TensorSpec) -> str:
    return "alexnet-deploy adopt, which makes it float32" if "float" in spec.dtype else ""


def logits_of(model: ModelProto) -> str:
    """The tensor that holds the logits of a classifier: its output, or what a softmax on the way there reads."""
    node = _meaning(model, model.graph.output[0].name)
    return str(node.input[0]) if node is not None and node.op_type in ("Softmax", "LogSoftmax") else model.graph.output[0].name


def _output_kind(model: ModelProto, name: str) -> OutputKind:
    node = _meaning(model, name)
    if node is None:
        raise ModelError(f"the graph's output {name!r} is not computed by any layer", expected=_CLASSIFIER)
    if node.op_type == "Softmax":
        return OutputKind.PROBABILITIES
    if node.op_type == "Sigmoid":
        raise ModelError(
            "the graph ends in a Sigmoid: each class by itself", expected="one class of several: logits or a Softmax"
        )
    return OutputKind.LOGITS


def rearranging(model: ModelProto) -> list[NodeProto]:
    """The nodes that lie between the one that gives a classifier's answer its meaning and the graph's output, from the end."""
    made_by = edit.producers(model.graph)
    found = []
    node = made_by.get(model.graph.output[0].name)
    while node is not None and node.op_type in _TRANSPARENT:
        found.append(node)
        node = made_by.get(node.input[0])
    return found


def _meaning(model: ModelProto, name: str) -> NodeProto | None:
    """The node that gives the numbers of the graph's output, called `name`, their meaning."""
    behind = rearranging(model)
    return edit.producers(model.graph).get(behind[-1].input[0] if behind else name)


def _spec(value: ValueInfoProto) -> TensorSpec:
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(f"{value.name!r} is no tensor", expected=_CLASSIFIER)
    dtype = _DTYPES.get(value.type.tensor_type.elem_type, "an unusual type")
    shape = edit.dims(value.type)
    if shape is None:
        raise ModelError(f"{value.name!r} ({dtype}) has no declared shape", expected=_CLASSIFIER)
    return TensorSpec(value.name, dtype, shape)


def _names(values: object) -> str:
    names = [value.name for value in values]  # type: ignore[attr-defined]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f" ({shown})" if names else ""
