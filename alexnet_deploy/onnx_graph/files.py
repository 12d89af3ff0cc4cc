"""Graphs from files and to files, with everything checked on both ways.

A model file is somebody's data: what it declares (sizes, places of other files) is checked before anything acts on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError, Message
from msgspec import structs
from onnx import ModelProto, TensorProto, external_data_helper, helper

from alexnet_deploy import __version__
from alexnet_deploy.artifact import Artifact, existing_file, write_artifact
from alexnet_deploy.errors import ArtifactCorrupt, InputError, ModelError
from alexnet_deploy.manifest import Manifest
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.classifier import describe
from alexnet_deploy.onnx_graph.precisions import layer_precisions
from alexnet_deploy.types import OutputKind

MAX_FILE_BYTES = (2 << 30) - 1  # protobuf's own limit for one message
MAX_TENSOR_ELEMENTS = 1 << 28  # 1 GiB of float32 a picture: ten times the largest tensor of any classifier in use
_OLDEST_OPSET = 7
_MAX_NAME = 500
# A byte or more an element; 4-bit types are packed.
_PLAIN_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT8E4M3FN}
    | {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64}
)


def load_graph(path: str | Path) -> ModelProto:
    """Reads an ONNX file, weights in separate files of the same folder included, and checks all of it.

    Raises:
        ArtifactMissing: there is no such file.
        ArtifactCorrupt: it is truncated or no ONNX.
        ModelError: it is ONNX that cannot be used: over 2 GB, control flow, sizes out of all proportion, weights elsewhere.
    """
    path = existing_file(path)
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise ModelError(f"{path} has {size_bytes:,} bytes", expected="an ONNX file of at most 2 GB")
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ArtifactCorrupt(
            f"{path} is truncated or no ONNX file ({size_bytes:,} bytes)",
            expected="a whole .onnx file",
            fix="copy or export it again",
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ArtifactCorrupt(f"{path} holds no ONNX graph", expected="a whole .onnx file", fix="copy or export it again")
    try:
        _check_names(model)
        _load_external_data(model, path)
        _open_unknown_axes(model)
        edit.name_nodes(model.graph)  # onnxruntime refuses names that come twice, which mean nothing
        check(model)
    except ModelError as error:
        raise ModelError(f"{path.name}: {error.found}", expected=error.expected, fix=error.fix) from error
    return model


def _open_unknown_axes(model: ModelProto) -> None:
    """An axis of length -1, as PaddlePaddle's exporter writes what it does not know, is one without a length."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_value == -1:
                axis.Clear()


def check(model: ModelProto) -> None:
    """The full ONNX checker, and the limits that keep a hostile graph from doing harm.

    Raises:
        ModelError: the first thing that is wrong.
    """
    if edit.opset(model) < _OLDEST_OPSET:
        raise ModelError(f"the graph uses opset {edit.opset(model)}", expected=f"opset {_OLDEST_OPSET} or later")
    for node in model.graph.node:
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ModelError(f"the graph has control flow ({node.op_type})", expected="a graph without If, Loop and Scan")
    if model.graph.sparse_initializer:
        raise ModelError("the graph has sparse weights", expected="dense weights")
    for tensor in model.graph.initializer:
        _check_size(tensor.name, tuple(tensor.dims))
        if not _holds_its_shape(tensor):
            _checked(onnx.checker.check_tensor, tensor)
    # The checker copies what it checks: weights, which are checked by now, are left out.
    light = edit.without_weights(model)
    _checked(onnx.checker.check_model, light)
    for value in edit.infer_shapes(light, strict=True).graph.value_info:
        _check_size(value.name, edit.dims(value.type) or ())


def _checked(check: Callable[[Any], None], part: ModelProto | TensorProto) -> None:
    try:
        check(part)
    except Exception as error:  # ValidationError, and whatever else a mangled graph makes the C++ side raise
        raise ModelError(f"the ONNX checker refuses it: {edit.first_line(error)}", expected="a sound ONNX graph") from error


def _holds_its_shape(tensor: TensorProto) -> bool:
    """Whether plain raw data is as long as type and shape say: all that the checker would ask of it, without a copy."""
    fields = {field.name for field, _ in tensor.ListFields()}
    if fields - {"name", "dims", "data_type", "raw_data", "doc_string"} or tensor.data_type not in _PLAIN_TYPES:
        return False
    itemsize = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return bool(len(tensor.raw_data) == math.prod(tensor.dims) * itemsize)


def save_graph(model: ModelProto, path: str | Path, manifest: Manifest) -> Artifact:
    """Checks a graph in full, strips it of local paths and other metadata, and writes it with its manifest.

    What can be read from the graph is: kind, input, output and layers of `manifest` are replaced, and logits become
    probabilities where there is a softmax at the end (there are other ways to make some).

    Raises:
        ModelError: the checker refuses the graph, or it is no classifier; nothing is written.
        InputError: `path` does not end in .onnx.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path.name} does not end in .onnx", expected="the name of an ONNX file")
    strip_metadata(model)
    check(model)
    given, result, kind = describe(model)
    if kind is OutputKind.LOGITS:
        kind = manifest.output_kind
    manifest = structs.replace(
        manifest, kind="onnx", input=given, output=result, output_kind=kind, layers=layer_precisions(model)
    )
    try:
        content = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:  # over protobuf's 2 GB
        raise ModelError(f"the graph cannot be written ({error})", expected="an ONNX file of at most 2 GB") from error
    return write_artifact(path, manifest, content)


def strip_metadata(model: ModelProto) -> None:
    """Removes doc strings, metadata (exporters put stack traces with local paths there) and intermediate shapes."""
    model.producer_name, model.producer_version = "alexnet-deploy", __version__
    for field in ("domain", "doc_string", "metadata_props", "training_info"):
        model.ClearField(field)
    model.ClearField("model_version")
    graph = model.graph
    graph.name = "classifier"
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        _clear_all(part, "doc_string", "metadata_props")
    for node in graph.node:
        for found in node.attribute:
            found.ClearField("doc_string")


def _clear_all(part: Message, *fields: str) -> None:
    for field in fields:
        part.ClearField(field)


def _check_names(model: ModelProto) -> None:
    """Names are shown to people, in errors and tables: they are short and hold nothing that a terminal would obey."""
    graph = model.graph
    tensors = [*external_data_helper._get_all_tensors(model)]
    values = (*graph.input, *graph.output, *graph.value_info)
    names = [part.name for part in (graph, *graph.node, *tensors, *values, *model.functions)]
    names += [imported.domain for imported in model.opset_import]
    names += [word for node in graph.node for word in (*node.input, *node.output, node.op_type, node.domain)]
    names += [found.name for node in graph.node for found in node.attribute]
    names += [entry.value for tensor in tensors for entry in tensor.external_data]
    names += [axis.dim_param for value in values for axis in value.type.tensor_type.shape.dim]
    for name in names:
        # protobuf gives bytes where a name is no UTF-8
        if isinstance(name, bytes) or len(name) > _MAX_NAME or not name.isprintable():
            raise ModelError(
                f"a name in the graph has {len(name):,} characters, or unprintable ones: {name[:40]!r}",
                expected=f"printable names of at most {_MAX_NAME} characters",
            )


def _check_size(name: str, shape: tuple[int | None, ...]) -> None:
    elements = math.prod(max(n, 1) for n in shape if n is not None)  # (0, 2**62) is no honest shape either
    if elements > MAX_TENSOR_ELEMENTS or any(n is not None and n < 0 for n in shape):
        raise ModelError(
            f"the tensor {name!r} would have the shape {_shown(shape)}",
            expected=f"at most {MAX_TENSOR_ELEMENTS:,} elements",
        )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("N" if n is None else f"{n:,}" for n in shape[:8]) + (", …)" if len(shape) > 8 else ")")


def _load_external_data(model: ModelProto, path: Path) -> None:
    """Reads weights that stand in other files of the same folder into the model.

    Raises:
        ModelError: a weight's file is elsewhere, missing, or shorter than the graph says.
    """
    outside = [tensor for tensor in external_data_helper._get_all_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    total_bytes = 0
    for tensor in outside:
        _check_size(tensor.name, tuple(tensor.dims))
        total_bytes += _external_bytes(tensor, path.parent)
    if total_bytes > MAX_FILE_BYTES:
        raise ModelError(f"its weights have {total_bytes:,} bytes", expected="at most 2 GB")
    for tensor in outside:
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # onnx raises ValidationError, OSError and ValueError here
            raise ModelError(
                f"the weights {tensor.name!r} cannot be read: {edit.first_line(error)}",
                expected="the file of weights beside the graph",
                fix="copy both together",
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _external_bytes(tensor: TensorProto, folder: Path) -> int:
    """How many bytes of a neighbouring file a tensor claims, after checking that they are there."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(entries.get("location", ""))
    inside = folder / location
    if not location.parts or location.is_absolute() or ".." in location.parts or "\\" in str(location):
        raise ModelError(f"the weights {tensor.name!r} stand in {str(location)!r}", expected="a file in the model's own folder")
    if not inside.resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"the weights {tensor.name!r} stand in {str(location)!r}, which leads elsewhere",
            expected="a file in the model's own folder",
        )
    if not inside.is_file():
        raise ModelError(f"{location}, which holds the weights {tensor.name!r}, is missing", fix="copy it beside the .onnx file")
    size_bytes = inside.stat().st_size
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size_bytes - offset)
    except ValueError as error:
        raise ModelError(
            f"offset and length of the weights {tensor.name!r} are no numbers",
            expected="whole numbers of bytes",
            fix="export the model again",
        ) from error
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise ModelError(
            f"{location} has {size_bytes:,} bytes, the weights {tensor.name!r} need {offset + length:,}",
            fix="copy it again",
        )
    return length
