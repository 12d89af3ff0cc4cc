"""Weights of AlexNets that others trained: BVLC's Caffe models, and the ONNX model zoo's.

Both say in which order they convolve, normalise and pool, and so which member of the family they are. What a file holds of
other networks is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from alexnet_deploy.errors import ArtifactCorrupt, ModelError
from alexnet_deploy.extras import extra
from training.protobuf import Value, fields, numbers

if TYPE_CHECKING:
    import onnx

Kind = Literal["conv", "norm", "pool", "fc"]
Array = npt.NDArray[np.float32]

_NAMES = ("features.0", "features.4", "features.8", "features.10", "features.12", "classifier.0", "classifier.3", "classifier.6")
_ORDERS: dict[tuple[Kind, ...], str] = {
    ("conv", "norm", "pool") * 2 + ("conv",) * 3 + ("pool",) + ("fc",) * 3: "alexnet-bvlc",
    ("conv", "pool", "norm") * 2 + ("conv",) * 3 + ("pool",) + ("fc",) * 3: "alexnet-caffe",
}
_GROUPS = (1, 2, 1, 2, 2)
_NORM = (5.0, 1e-4, 0.75, 1.0)  # channels, alpha (divided by them), beta, k


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that matters.

    Attributes:
        kind: what it does.
        name: in the file.
        arrays: weight and bias, as PyTorch has them.
        groups: of a convolution.
        norm: of a normalisation: channels, alpha, beta, k.
    """

    kind: Kind
    name: str
    arrays: tuple[Array, ...] = ()
    groups: int = 1
    norm: tuple[float, ...] = ()


def read_caffe(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The weights of a .caffemodel by the names of this family, and the member that it is.

    Raises:
        ArtifactCorrupt: it is cut off, or no Caffe model.
        ModelError: it is no AlexNet.
    """
    try:
        layers = _caffe_layers(memoryview(path.read_bytes()))
        if not layers:
            raise ValueError("it has no layers")
    except (ValueError, OSError) as error:
        raise ArtifactCorrupt(f"{path} cannot be read as a Caffe model ({error})", expected="a whole .caffemodel") from error
    return _as_family(layers, path)


def read_onnx(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The weights of an ONNX graph of this family, as `read_caffe` gives them.

    Raises:
        ArtifactCorrupt, ModelError: as `read_caffe`.
        AlexnetDeployError: the package onnx is missing.
    """
    with extra("train", "reading weights from ONNX"):
        import onnx
    try:
        layers = _onnx_layers(onnx.load(str(path), load_external_data=False).graph, path)
    except ModelError:
        raise
    except Exception as error:  # onnx passes on what its parser and numpy raise
        raise ArtifactCorrupt(f"{path} cannot be read as ONNX ({error})", expected="a whole graph") from error
    return _as_family(layers, path)


def _onnx_layers(graph: onnx.GraphProto, path: Path) -> list[Layer]:
    from onnx import TensorProto, helper, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    layers = []
    for node in graph.node:
        kind = _ONNX_KINDS.get(node.op_type)
        if kind is None:
            continue
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        arrays: list[Array] = []
        for name in node.input[1:] if kind in ("conv", "fc") else ():
            if name not in stored or stored[name].data_location == TensorProto.EXTERNAL:
                raise ModelError(f"{path}: {name} is not stored in the graph itself", expected="weights as initialisers")
            arrays.append(np.array(numpy_helper.to_array(stored[name]), np.float32))
        if kind == "fc" and not attributes.get("transB", 0):
            arrays[0] = np.ascontiguousarray(arrays[0].T)
        norm = tuple(float(attributes.get(name, default)) for name, default in _ONNX_NORM.items()) if kind == "norm" else ()
        layers.append(Layer(kind, node.name or node.output[0], tuple(arrays), attributes.get("group", 1), norm))
    return layers


_ONNX_KINDS: dict[str, Kind] = {"Conv": "conv", "LRN": "norm", "MaxPool": "pool", "Gemm": "fc"}
_ONNX_NORM = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}


def _as_family(layers: Sequence[Layer], path: Path) -> tuple[dict[str, torch.Tensor], str]:
    order = tuple(layer.kind for layer in layers)
    arch = _ORDERS.get(order)
    if arch is None:
        raise ModelError(
            f"{path} is no AlexNet of Caffe's: its layers are {', '.join(order) or 'none'}",
            expected="bvlc_alexnet, bvlc_reference_caffenet, or one fine-tuned from them",
        )
    weighted = [layer for layer in layers if layer.kind in ("conv", "fc")]
    for layer, groups in zip(weighted, _GROUPS, strict=False):
        if layer.groups != groups:
            raise ModelError(f"{path}: {layer.name} has {layer.groups} groups", expected=f"{groups}")
    for layer in layers:
        if layer.kind == "norm" and not np.allclose(layer.norm, _NORM, rtol=1e-3):
            found = ", ".join(f"{number:g}" for number in layer.norm)
            raise ModelError(f"{path}: {layer.name} normalises with {found}", expected=f"size, alpha, beta, k of {_NORM}")
        if layer.kind in ("conv", "fc") and len(layer.arrays) != 2:
            raise ModelError(f"{path}: {layer.name} has {len(layer.arrays)} arrays", expected="a weight and a bias")
    return {
        f"{name}.{part}": torch.from_numpy(array)
        for name, layer in zip(_NAMES, weighted, strict=True)
        for part, array in zip(("weight", "bias"), layer.arrays, strict=True)
    }, arch


# Caffe: field numbers of its caffe.proto, https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto

_V1_LAYERS, _LAYERS = 2, 100
_V1 = {"name": 4, "type": 5, "blobs": 6, "conv": 10, "norm": 18}
_NEW = {"name": 1, "type": 2, "blobs": 7, "conv": 106, "norm": 118}
_TYPES: dict[int | str, Kind] = {
    4: "conv", 14: "fc", 15: "norm", 17: "pool",
    "Convolution": "conv", "InnerProduct": "fc", "LRN": "norm", "Pooling": "pool",
}  # fmt: skip
_GROUP = 5
_NORM_FIELDS = {1: 0, 2: 1, 3: 2, 5: 3}  # local_size, alpha, beta, k
_CAFFE_NORM = (5.0, 1.0, 0.75, 1.0)  # where nothing is said


def _caffe_layers(content: memoryview) -> list[Layer]:
    layers = []
    for number, value in fields(content):
        if number in (_V1_LAYERS, _LAYERS):
            layer = _caffe_layer(_message(value), _V1 if number == _V1_LAYERS else _NEW)
            if layer is not None:
                layers.append(layer)
    return layers


def _caffe_layer(message: memoryview, numbering: Mapping[str, int]) -> Layer | None:
    name, kind, groups = "", None, 1
    norm = list(_CAFFE_NORM)
    arrays: list[Array] = []
    for number, value in fields(message):
        if number == numbering["name"]:
            name = bytes(_message(value)).decode(errors="replace")
        elif number == numbering["type"]:
            kind = _TYPES.get(value if isinstance(value, int) else bytes(value).decode(errors="replace"))
        elif number == numbering["blobs"]:
            arrays.append(_blob(_message(value)))
        elif number == numbering["conv"]:
            groups = next((int(v) for n, v in fields(_message(value)) if n == _GROUP and isinstance(v, int)), 1)
        elif number == numbering["norm"]:
            for n, v in fields(_message(value)):
                if n in _NORM_FIELDS:
                    norm[_NORM_FIELDS[n]] = float(v) if isinstance(v, int) else float(np.frombuffer(v, "<f4")[0])
    if kind is None:
        return None
    if kind == "fc" and arrays:
        arrays[0] = arrays[0].reshape(arrays[0].shape[-2:])  # (outputs, channels x height x width), as PyTorch flattens too
    if kind in ("conv", "fc"):
        arrays[1:] = [array.reshape(-1) for array in arrays[1:]]
    return Layer(kind, name, tuple(arrays), groups, tuple(norm) if kind == "norm" else ())


def _blob(message: memoryview) -> Array:
    """An array of a BlobProto: with a shape, or with the four lengths of older files."""
    legacy = [1, 1, 1, 1]
    shape: list[int] | None = None
    pieces: list[Array] = []
    for number, value in fields(message):
        if 1 <= number <= 4 and isinstance(value, int):
            legacy[number - 1] = value
        elif number == 7:
            shape = [n for field, dims in fields(_message(value)) if field == 1 for n in numbers(dims)]
        elif number in (5, 8):
            pieces.append(np.frombuffer(_message(value), "<f4" if number == 5 else "<f8").astype(np.float32))
    values = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    shape = legacy if shape is None else shape
    if math.prod(shape) != len(values):
        raise ValueError(f"a blob of shape {tuple(shape)} holds {len(values):,} numbers")
    return values.reshape(shape)


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value
