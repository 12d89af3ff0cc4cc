"""Any exporter's graph to the one dialect that the other rooms read.

Afterwards: opset 20 or later, all floats float32, every weight an initialiser under its own name and none of them a graph
input, no Constant, Identity, Dropout or foldable BatchNormalization, no local functions, no constant weights of a Gemm with
alpha or beta, or read in two layouts, an open batch where the graph allows it, one output, of rank 2, every node named.
"""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner, version_converter

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import edit, fold
from alexnet_deploy.onnx_graph.answer import choose_head, flatten_output
from alexnet_deploy.onnx_graph.classifier import only_input
from alexnet_deploy.onnx_graph.edit import array, attribute
from alexnet_deploy.onnx_graph.widths import to_float32

OPSET = 20
IR_VERSION = 10  # what onnxruntime 1.20 and TensorRT 10.3 read
BATCH_AXIS = "batch"
_MAX_ROUNDS = 8


def normalise(model: ModelProto, *, open_batch: bool = True, head: str | None = None) -> list[str]:
    """Brings a checked graph into the dialect, in place.

    Args:
        model: as `load_graph` gives it.
        open_batch: make the batch dynamic; whether that was right shows when it is run.
        head: of several outputs, the one to keep; None for the only one that has a number for each class.

    Returns:
        What was changed, one phrase each, for people.

    Raises:
        ModelError: it has several inputs or none, or uses something that has no place in the dialect.
    """
    changes: list[str] = []
    only_input(model.graph)
    if model.functions:
        model.CopyFrom(inliner.inline_local_functions(model))
        changes.append("local functions inlined")
    model.graph.ClearField("value_info")
    if to_float32(model):
        changes.append("all floats made float32")
    if _weights_are_no_inputs(model.graph):
        changes.append("weights no longer listed as inputs")
    model.ir_version = max(model.ir_version, IR_VERSION)  # before IR 4, onnx wants weights to be inputs
    if edit.opset(model) < OPSET:
        changes.append(f"opset {edit.opset(model)} to {OPSET}")
        raise_opset(model, OPSET)
    if choose_head(model, head):
        changes.append("other outputs dropped")
    if flatten_output(model):
        changes.append("output flattened to (N, classes)")
    if open_batch and _open_batch(model.graph):
        changes.append("batch made dynamic")
    changes += tidy(model)
    if fold.untie(model.graph):
        changes.append("tied weights stored twice")
    _plain_einsums(model.graph)
    edit.name_nodes(model.graph)
    return changes


def tidy(model: ModelProto) -> list[str]:
    """Folds what can be folded, until nothing more can. Returns what was done."""
    changes: dict[str, None] = {}
    for _ in range(_MAX_ROUNDS):
        before = len(changes), len(model.graph.node), len(model.graph.initializer)
        if edit.drop_unused(model.graph):
            changes["unused parts dropped"] = None
        if fold.constants_to_initialisers(model):
            changes["constants folded"] = None
        if fold.drop_no_ops(model):
            changes["operations without effect dropped"] = None
        if fold.products_to_gemm(model):
            changes["MatMul to Gemm"] = None
        if fold.plain_gemms(model.graph):
            changes["Gemm without alpha and beta, biases as rows"] = None
        if fold.fold_affine(model):
            changes["products and sums a channel folded into layers"] = None
        if before == (len(changes), len(model.graph.node), len(model.graph.initializer)):
            break
    return list(changes)


def raise_opset(model: ModelProto, version: int) -> None:
    """Upgrades the default operator set in place, where it is older than `version`.

    Raises:
        ModelError: onnx cannot convert one of the nodes.
    """
    if edit.opset(model) >= version:
        return
    names = [node.name for node in model.graph.node]
    try:
        converted = version_converter.convert_version(model, version)
    except Exception as error:  # ConvertError, RuntimeError, and IndexError from the C++ side
        raise ModelError(
            f"opset {edit.opset(model)} cannot be raised to {version}: {edit.first_line(error)}",
            expected=f"a graph of opset {version}",
            fix="export it again with a newer opset",
        ) from error
    if len(names) == len(converted.graph.node):
        for node, name in zip(converted.graph.node, names, strict=True):
            node.name = name
    model.CopyFrom(converted)


def _plain_einsums(graph: GraphProto) -> None:
    """Equations in small letters, without blanks: TensorRT does not read "B I D, B J D -> B I J", as torch writes them."""
    for node in edit.nodes_of(graph, "Einsum"):
        equation = attribute(node, "equation").decode(errors="replace").replace(" ", "")
        letters = [*dict.fromkeys(filter(str.isalpha, equation))]
        if "->" in equation and len(letters) <= len(ascii_lowercase):  # without an arrow, the alphabet orders the result
            small = dict(zip(letters, ascii_lowercase, strict=False))
            edit.set_attribute(node, "equation", "".join(small.get(letter, letter) for letter in equation))


def _weights_are_no_inputs(graph: GraphProto) -> bool:
    weights = {tensor.name for tensor in graph.initializer}
    listed = [index for index, value in enumerate(graph.input) if value.name in weights]
    for index in reversed(listed):
        del graph.input[index]
    return bool(listed)


def _open_batch(graph: GraphProto) -> bool:
    """Gives input and output a symbolic first axis, and every constant Reshape that held the old batch an open one.

    `adopt` proves afterwards, by running it, that rows do not depend on each other.
    """
    if len(graph.input) != 1 or len(graph.output) != 1:
        return False
    given, result = graph.input[0].type.tensor_type.shape, graph.output[0].type.tensor_type.shape
    if not given.dim or not result.dim:
        return False
    first = given.dim[0]
    held = first.dim_value if first.HasField("dim_value") else None
    for axis in (first, result.dim[0]):
        axis.dim_param = BATCH_AXIS
    if held is None:
        return False
    for node in edit.nodes_of(graph, "Reshape"):
        _open_reshape(graph, node, held)
    return True


def _open_reshape(graph: GraphProto, node: NodeProto, held: int) -> None:
    """A Reshape to (held, ...) keeps whatever batch it is given."""
    made_by = edit.producers(graph).get(node.input[1])
    tensor = edit.initialisers(graph).get(node.input[1])
    if made_by is not None and made_by.op_type == "Constant":
        tensor = next((a.t for a in made_by.attribute if a.name == "value"), None)
    if tensor is None or tensor.data_type != TensorProto.INT64 or attribute(node, "allowzero", 0):
        return
    shape = array(tensor).copy()
    if shape.ndim == 1 and len(shape) and shape[0] == held and node.input[0] not in edit.initialisers(graph):
        shape[0] = 0  # 0 copies the length of the data's own first axis
        node.input[1] = edit.add_initialiser(graph, edit.fresh_name(graph, f"{node.input[1]}.open"), shape.astype(np.int64))
