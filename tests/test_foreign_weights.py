"""Weights of Caffe's AlexNets and of the ONNX zoo's: files of their layout, written here, and the answers they give there."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from alexnet_deploy.errors import AlexnetDeployError, ArtifactCorrupt, ModelError
from training.foreign_weights import read_caffe
from training.model import ModelConfig, build_model
from training.weights import read_weights, start_from

CLASSES, SIZE = 5, 227
CONVOLUTIONS = {
    "conv1": (1, 4, 0),
    "conv2": (2, 1, 2),
    "conv3": (1, 1, 1),
    "conv4": (2, 1, 1),
    "conv5": (2, 1, 1),
}  # groups, stride, pad
BVLC = ["conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8"]
CAFFENET = ["conv1", "pool1", "norm1", "conv2", "pool2", "norm2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8"]
Blobs = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def blobs() -> Blobs:
    """Weights and biases of a narrow network, by the names that Caffe's layers have."""
    shapes = {
        "conv1": (16, 3, 11, 11), "conv2": (32, 8, 5, 5), "conv3": (32, 32, 3, 3),
        "conv4": (32, 16, 3, 3), "conv5": (32, 16, 3, 3),
        "fc6": (408, 32 * 36), "fc7": (408, 408), "fc8": (CLASSES, 408),
    }  # fmt: skip
    random = np.random.default_rng(0)
    return {
        name: (
            (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32),
            random.standard_normal(shape[0]).astype(np.float32),
        )
        for name, shape in shapes.items()
    }


CONFIG = ModelConfig(arch="alexnet-bvlc", classes=CLASSES, width=0.1, input_size=SIZE)


def reference(weights: Blobs, order: list[str], pictures: torch.Tensor) -> torch.Tensor:
    """The network as Caffe computes it, layer by layer, with nothing of the package."""
    maps = pictures
    for layer in order:
        if layer in CONVOLUTIONS:
            groups, stride, pad = CONVOLUTIONS[layer]
            weight, bias = (torch.from_numpy(blob) for blob in weights[layer])
            maps = functional.relu(functional.conv2d(maps, weight, bias, stride, pad, groups=groups))
        elif layer.startswith("norm"):
            squares = functional.pad(maps**2, (0, 0, 0, 0, 2, 2))
            sums = torch.stack([squares[:, i : i + 5].sum(1) for i in range(maps.shape[1])], dim=1)
            maps = maps / (1 + 1e-4 / 5 * sums) ** 0.75
        elif layer.startswith("pool"):
            maps = functional.max_pool2d(maps, 3, 2, ceil_mode=True)
        else:
            weight, bias = (torch.from_numpy(blob) for blob in weights[layer])
            maps = maps.flatten(1) @ weight.T + bias
            maps = functional.relu(maps) if layer != "fc8" else maps
    return maps


# Protocol buffers, written by hand


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def whole(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def part(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def real(field: int, number: float) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<f", number)


def caffemodel(weights: Blobs, order: list[str], version: str, alpha: float = 1e-4) -> bytes:
    """A NetParameter: with V1LayerParameters and blobs of four lengths, or LayerParameters and blobs with shapes."""
    old = version == "old"
    types = {"conv": (4, b"Convolution"), "norm": (15, b"LRN"), "pool": (17, b"Pooling"), "fc": (14, b"InnerProduct")}
    net = part(1, b"CaffeNet")
    between = [layer for place in order for layer in (place, f"relu{place[-1]}") if place in weights or layer == place]
    for name in ["data", *between]:
        kind = types.get(name.rstrip("12345678"), (18, b"ReLU") if name.startswith("relu") else (5, b"Data"))
        layer = part(2 if old else 3, b"below") + part(4 if old else 1, name.encode())
        layer += whole(5, kind[0]) if old else part(2, kind[1])
        for blob in weights.get(name, ()):
            if old:
                lengths = (1,) * (4 - blob.ndim) + blob.shape
                shape = b"".join(whole(i, n) for i, n in enumerate(lengths, 1))
            else:
                shape = part(7, part(1, b"".join(varint(n) for n in blob.shape)))
            layer += part(6 if old else 7, shape + part(5, blob.tobytes()) + part(6, b""))
        if name in CONVOLUTIONS:
            groups, stride, pad = CONVOLUTIONS[name]
            layer += part(
                10 if old else 106, whole(1, 32) + whole(3, pad) + (whole(5, groups) if groups > 1 else b"") + whole(6, stride)
            )
        if name.startswith("norm"):
            layer += part(18 if old else 118, whole(1, 5) + real(2, alpha) + real(3, 0.75))
        net += part(2 if old else 100, layer)
    return net


@pytest.mark.parametrize("version", ["old", "new"])
@pytest.mark.parametrize(("order", "arch"), [(BVLC, "alexnet-bvlc"), (CAFFENET, "alexnet-caffe")])
def test_a_caffe_model_answers_as_it_did_in_caffe(tmp_path: Path, version: str, order: list[str], arch: str) -> None:
    weights = blobs()
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(weights, order, version))
    found = read_weights(str(tmp_path / "net.caffemodel"))
    assert found.arch == arch
    model = build_model(replace(CONFIG, arch=arch)).eval()
    assert start_from(model, found) is False
    pictures = 50 * torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(model(pictures), reference(weights, order, pictures), rtol=1e-4, atol=1e-3)


def test_another_order_of_layers_names_the_member_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(blobs(), CAFFENET, "new"))
    with pytest.raises(ModelError, match="--arch alexnet-caffe"):
        start_from(build_model(CONFIG), read_weights(str(tmp_path / "net.caffemodel")))


def test_a_new_head_is_drawn_for_other_classes(tmp_path: Path) -> None:
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(blobs(), BVLC, "old"))
    model = build_model(replace(CONFIG, classes=3))
    assert start_from(model, read_weights(str(tmp_path / "net.caffemodel"))) is True
    np.testing.assert_array_equal(model.classifier[0].weight.detach().numpy(), blobs()["fc6"][0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (caffemodel(blobs(), [*BVLC[:-1], "conv5", "fc8"], "new"), "is no AlexNet of Caffe's"),
        (caffemodel(blobs(), BVLC, "new", alpha=5e-4), "normalises with 5, 0.0005"),
        (caffemodel({**blobs(), "fc7": ()}, BVLC, "new"), "fc7 has 0 arrays"),  # type: ignore[dict-item]
    ],
)
def test_other_networks_are_refused_by_what_differs(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        read_weights(str(tmp_path / "net.caffemodel"))


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 40, part(100, part(7, part(7, part(1, varint(2**62)))))])
def test_a_file_that_is_no_caffe_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match="Caffe model"):
        read_weights(str(tmp_path / "net.caffemodel"))


SMALL = caffemodel({name: (w.ravel()[:2], b[:2]) for name, (w, b) in blobs().items()}, BVLC, "new")


@settings(max_examples=200)
@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=12))
def test_a_damaged_caffe_model_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, at: int, other: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    for content in (SMALL[:at], SMALL[:at] + other + SMALL[at + len(other) :]):
        path.write_bytes(content)
        with suppress(AlexnetDeployError):
            read_caffe(path)


def zoo_graph(weights: Blobs, order: list[str], *, external: bool = False) -> onnx.ModelProto:
    """As the zoo's bvlcalexnet is laid out: initialisers conv1_w_0, LRN and MaxPool nodes, Gemms with transB, a softmax."""
    nodes, last = [], "data_0"
    stored = [
        numpy_helper.from_array(blob, f"{name}_{'wb'[i]}_0") for name, both in weights.items() for i, blob in enumerate(both)
    ]
    for name in order:
        inputs, given = [last], name
        if name in CONVOLUTIONS:
            groups, stride, pad = CONVOLUTIONS[name]
            kind, attributes = "Conv", {"group": groups, "strides": [stride] * 2, "pads": [pad] * 4}
        elif name.startswith("norm"):
            kind, attributes = "LRN", {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
        elif name.startswith("pool"):
            kind, attributes = "MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 0, 0]}
        else:
            kind, attributes = "Gemm", {"transB": 1}
            if name == "fc6":
                nodes.append(helper.make_node("Flatten", [last], ["flat"]))
                inputs = ["flat"]
        if name in weights:
            inputs += [f"{name}_w_0", f"{name}_b_0"]
        nodes.append(helper.make_node(kind, inputs, [f"{given}_1"], **attributes))
        last = f"{given}_1"
        if name in weights and name != "fc8":
            nodes.append(helper.make_node("Relu", [last], [f"{given}_2"]))
            last = f"{given}_2"
    nodes.append(helper.make_node("Softmax", [last], ["prob_1"], axis=1))
    graph = helper.make_graph(
        nodes,
        "bvlcalexnet",
        [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [2, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("prob_1", TensorProto.FLOAT, [2, CLASSES])],
        stored[1:] if external else stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)


def test_the_zoos_graph_answers_as_it_does_in_onnxruntime(tmp_path: Path) -> None:
    weights = blobs()
    onnx.save(zoo_graph(weights, BVLC), tmp_path / "bvlcalexnet-12.onnx")
    found = read_weights(str(tmp_path / "bvlcalexnet-12.onnx"))
    model = build_model(CONFIG).eval()
    start_from(model, found)
    pictures = 50 * torch.randn(2, 3, SIZE, SIZE)
    session = onnxruntime.InferenceSession(str(tmp_path / "bvlcalexnet-12.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"data_0": pictures.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(model(pictures).softmax(1).numpy(), expected, rtol=1e-3, atol=1e-5)


def test_graphs_without_their_weights_and_files_that_are_no_graphs_are_refused(tmp_path: Path) -> None:
    onnx.save(zoo_graph(blobs(), BVLC, external=True), tmp_path / "hollow.onnx")
    with pytest.raises(ModelError, match="conv1_w_0 is not stored"):
        read_weights(str(tmp_path / "hollow.onnx"))
    short = zoo_graph(blobs(), BVLC)
    short.graph.initializer[0].raw_data = b"\0" * 7
    onnx.save(short, tmp_path / "short.onnx")
    with pytest.raises(ArtifactCorrupt):
        read_weights(str(tmp_path / "short.onnx"))
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07 no graph")
    with pytest.raises(ArtifactCorrupt):
        read_weights(str(tmp_path / "broken.onnx"))
