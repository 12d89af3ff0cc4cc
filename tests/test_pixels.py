"""A convolution that reads pixels as they come answers as one that reads the normalised picture, its weights being the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import adopt, edit, load_graph
from alexnet_deploy.onnx_graph.raw_input import PREFIX, accept_pixels
from alexnet_deploy.onnx_graph.session import GraphRunner, fused_operators
from alexnet_deploy.onnx_graph.statistics import statistics
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import normalise
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.pixels import equal_steps, read_pixels
from alexnet_deploy.quantization.qdq import cpu_form
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.quantization.trained import Nearest, trained_calibration
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import GraphForm, Precision
from tests.small_nets import CLASSES, RECIPE, Net, alexnet_like

IMAGENET = Preprocess(height=23, width=31)


def convolution(recipe: Preprocess, kernel: int, stride: int, pads: list[int], **more: Any) -> ModelProto:
    """Pixels in; a Conv called "conv" and a Relu read the picture that `recipe` makes of them."""
    random = np.random.default_rng(kernel)
    channels = recipe.channels
    weights = {
        "w": random.standard_normal((5, channels // more.get("group", 1), kernel, kernel)).astype(np.float32),
        "b": random.standard_normal(5).astype(np.float32),
    }
    planes = ["N", channels, recipe.height, recipe.width]
    shape = planes if recipe.layout == "nchw" else ["N", recipe.height, recipe.width, channels]
    nodes = [
        helper.make_node("Conv", ["planes", "w", "b"], ["convolved"], "conv", strides=[stride] * 2, pads=pads, **more),
        helper.make_node("Relu", ["convolved"], ["rectified"], "relu"),
        helper.make_node("ReduceMean", ["rectified", "axes"], ["output"], "mean", keepdims=0),
    ]
    nodes.insert(0, helper.make_node("Transpose", ["input"], ["planes"], "t", perm=[0, 3, 1, 2]))
    if recipe.layout == "nchw":
        nodes.pop(0)
        nodes[0].input[0] = "input"
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in {**weights, "axes": np.array([2, 3])}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    accept_pixels(model, recipe)
    return model


def rewritten(model: ModelProto) -> tuple[ModelProto, ModelProto]:
    """The graph in the CPU form with pixels in its first layer; and the float graph with the same rounded weights."""
    layers = find_layers(model)
    steps = equal_steps(model, layers)
    weights = Nearest().quantised(model, layers, Precision.INT8, factors=steps)
    quantised = cpu_form(model, layers, {layers[0].data: (-3.0, 3.0), "rectified": (0.0, 50.0)}, weights, steps)
    assert read_pixels(quantised)
    checker.check_model(quantised, full_check=True)
    same = ModelProto()
    same.CopyFrom(model)
    kernel = weights["w"].dequantised() * np.reshape(steps.get(layers[0].data, 1.0), (1, -1, 1, 1))
    edit.initialisers(same.graph)["w"].CopyFrom(numpy_helper.from_array(kernel.astype(np.float32), "w"))
    return quantised, same


def pixels_for(recipe: Preprocess) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, recipe.height, recipe.width, 3), np.uint8)


channel_values = st.lists(st.floats(0.1, 0.9), min_size=3, max_size=3).map(tuple)


@settings(max_examples=60, deadline=None)
@given(
    recipe=st.builds(
        Preprocess,
        height=st.integers(12, 23),
        width=st.integers(12, 31),
        mean=channel_values,
        std=channel_values,
        channel_order=st.sampled_from(["rgb", "bgr"]),
        layout=st.sampled_from(["nchw", "nhwc"]),
    ),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    dilation=st.integers(1, 2),
)
def test_the_convolution_is_that_of_the_normalised_picture(
    recipe: Preprocess, kernel: int, stride: int, pads: list[int], dilation: int
) -> None:
    quantised, same = rewritten(convolution(recipe, kernel, stride, pads, dilations=[dilation] * 2))
    assert not any(node.op_type == "Cast" for node in quantised.graph.node)
    pixels = pixels_for(recipe)
    (found,), (expected,) = (GraphRunner(model, ["convolved"]).run(pixels) for model in (quantised, same))
    # Half a pixel, for each weight that a place outside the picture is multiplied by.
    weights = edit.array(edit.initialisers(same.graph)["w"])
    gain = recipe.scale / np.reshape(recipe.std, (-1, 1, 1))
    at_the_border = 0.5 * np.abs(weights * gain).sum(axis=(1, 2, 3)).reshape(-1, 1, 1)
    inside = whole_windows(recipe, dilation * (kernel - 1) + 1, stride, pads)
    error = np.abs(found - expected)
    assert error.max(initial=0, where=inside) < 1e-3 * np.abs(expected).max()
    assert (error <= at_the_border + 1e-3 * np.abs(expected).max()).all()


def whole_windows(recipe: Preprocess, span: int, stride: int, pads: list[int]) -> np.ndarray:
    """Which places of the output see nothing but the picture."""
    top, left, bottom, right = pads
    rows, columns = (
        np.arange(0, size + before + after - span + 1, stride) - before
        for size, before, after in ((recipe.height, top, bottom), (recipe.width, left, right))
    )
    whole = (rows >= 0) & (rows + span <= recipe.height)
    return np.outer(whole, (columns >= 0) & (columns + span <= recipe.width))


def kinds(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_one_zero_for_all_channels_needs_no_border() -> None:
    centred = Preprocess(height=16, width=16, scale=1 / 127.5, mean=(1.0,) * 3, std=(1.0,) * 3)
    quantised, _ = rewritten(convolution(centred, 3, 1, [1, 1, 1, 1]))
    assert not {"Pad", "Max"} & set(kinds(quantised))
    quantised, _ = rewritten(convolution(IMAGENET, 3, 1, [0, 0, 0, 0]))
    assert not {"Pad", "Max"} & set(kinds(quantised))
    quantised, _ = rewritten(convolution(IMAGENET, 3, 1, [1, 1, 1, 1]))
    assert {"Pad", "Max"} <= set(kinds(quantised))


def by_place() -> ModelProto:
    """Normalised with another mean in each column."""
    model = convolution(IMAGENET, 3, 1, [1, 1, 1, 1])
    (offset,) = edit.nodes_of(model.graph, "Add")
    edit.initialisers(model.graph)[offset.input[1]].CopyFrom(
        numpy_helper.from_array(np.random.default_rng(0).standard_normal((3, 1, 31)).astype(np.float32), offset.input[1])
    )
    return model


def read_twice() -> ModelProto:
    """A second convolution with other weights reads the picture: what is taken out of one would be missing in the other."""
    model = convolution(IMAGENET, 3, 1, [1, 1, 1, 1])
    edit.add_initialiser(model.graph, "w2", np.random.default_rng(1).standard_normal((5, 3, 1, 1)).astype(np.float32))
    (conv,), (mean,) = edit.nodes_of(model.graph, "Conv"), edit.nodes_of(model.graph, "ReduceMean")
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Conv", [conv.input[0], "w2"], ["side"], "side"))
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Add", ["rectified", "side"], ["both"], "both"))
    mean.input[0] = "both"
    return model


@pytest.mark.parametrize(
    "model",
    [
        by_place(),
        read_twice(),
        convolution(Preprocess(height=16, width=16, channel_order="grey", mean=(0.5,), std=(0.2,)), 3, 1, [1, 1, 1, 1]),
        convolution(IMAGENET, 3, 1, [0, 0, 0, 0], auto_pad="SAME_UPPER"),
        convolution(Preprocess(height=16, width=16, mean=(1.2,) * 3), 3, 1, [1, 1, 1, 1]),  # black and white are far from 0
        convolution(IMAGENET, 3, 1, [1, 1, 1, 1]),
    ],
    ids=["by place", "read twice", "grey", "same padding", "zero is no pixel", "plain"],
)
def test_what_it_does_not_fit_is_left_alone(model: ModelProto, request: pytest.FixtureRequest) -> None:
    layers = find_layers(model)
    steps = equal_steps(model, layers)
    weights = Nearest().quantised(model, layers, Precision.INT8, factors=steps)
    quantised = cpu_form(model, layers, dict.fromkeys([layers[0].data, "rectified"], (-3.0, 3.0)), weights, steps)
    before = quantised.SerializeToString()
    plain = request.node.callspec.id == "plain"
    assert bool(steps) == read_pixels(quantised) == plain
    assert (quantised.SerializeToString() == before) != plain


def test_a_convolution_without_padding_takes_any_zero() -> None:
    quantised, same = rewritten(convolution(Preprocess(height=16, width=16, mean=(1.2,) * 3), 3, 1, [0, 0, 0, 0]))
    found, expected = (
        GraphRunner(model, ["convolved"]).run(pixels_for(Preprocess(height=16, width=16)))[0] for model in (quantised, same)
    )
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """One network that takes float32, and the same with pixels in."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "original.onnx").write_bytes(alexnet_like().SerializeToString())
    return {
        name: adopt(folder / "original.onnx", RECIPE, output=folder / f"{name}.onnx", pixels_in=name == "pixels")
        for name in ("floats", "pixels")
    }


@pytest.fixture(scope="module")
def calibrations(artifacts: dict[str, Artifact]) -> dict[str, Calibration]:
    learnt = PictureSet.open("demo:train").subset(range(64))
    return {name: calibrate(artifact, learnt, method="minmax") for name, artifact in artifacts.items()}


def test_the_first_layer_of_a_quantised_graph_is_nearer_to_float(
    artifacts: dict[str, Artifact], calibrations: dict[str, Calibration], tmp_path: Path
) -> None:
    shown = next(PictureSet.open("demo:test").pixels(RECIPE, 64))[0]
    error = {}
    for name, artifact in artifacts.items():
        made = quantize(artifact, tmp_path / f"{name}.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibrations[name])
        fed = shown if name == "pixels" else normalise(shown, RECIPE)
        expected, found = (GraphRunner(load_graph(path), ["conv1.out"]).run(fed)[0] for path in (artifact.path, made.path))
        error[name] = float(np.square(found - expected).sum() / np.square(expected).sum())
    assert error["pixels"] < 0.5 * error["floats"]


def test_nothing_of_a_quantised_graph_is_float_but_the_logits(
    artifacts: dict[str, Artifact], calibrations: dict[str, Calibration], tmp_path: Path
) -> None:
    made = quantize(
        artifacts["pixels"], tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibrations["pixels"]
    )
    kernels = fused_operators(load_graph(made.path))
    assert (kernels.count("QLinearConv"), kernels.count("QGemm")) == (3, 2)
    assert not {"QuantizeLinear", "Cast", "Mul", "Add"} & set(kernels)
    in_front = [layer for layer in statistics(load_graph(made.path)).layers if layer.name.startswith(PREFIX)]
    assert [layer.op for layer in in_front] == ["Pad", "Max", "Transpose"]
    assert not any(layer.parameters for layer in in_front)


def test_the_form_for_tensorrt_does_not_see_it(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    """Rounded weights are kept from one form to the next; those of the CPU form have the pixels' factors taken out."""
    pictures = PictureSet.open("demo:train").subset(range(32))
    alone, after = (calibrate(artifacts["pixels"], pictures, method="minmax") for _ in range(2))
    options = {"reduce_range": False}
    quantize(artifacts["pixels"], tmp_path / "cpu.onnx", Precision.INT8, form=GraphForm.CPU, calibration=after, **options)
    made = [
        quantize(artifacts["pixels"], tmp_path / "trt.onnx", Precision.INT8, calibration=c).path.read_bytes()
        for c in (alone, after)
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize("form", GraphForm)
def test_ranges_that_a_network_was_trained_with_hold_with_pixels_in(
    artifacts: dict[str, Artifact], calibrations: dict[str, Calibration], form: GraphForm, tmp_path: Path
) -> None:
    record = calibrations["floats"].record  # as `train --qat` leaves it in the manifest, whatever the export takes
    whole = structs.replace(artifacts["pixels"], manifest=structs.replace(artifacts["pixels"].manifest, calibration=record))
    trained = trained_calibration(whole)
    assert trained is not None
    made = quantize(whole, tmp_path / "q.onnx", Precision.INT8, form=form, calibration=trained)
    shown = next(PictureSet.open("demo:test").pixels(RECIPE, 32))[0]
    expected, found = (GraphRunner(load_graph(path)).run(shown)[0] for path in (whole.path, made.path))
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


def test_neighbouring_pixels_are_grouped_without_another_pad(tmp_path: Path) -> None:
    net = Net()
    features = net.op("GlobalAveragePool", net.op("Relu", net.conv("input", "first", (16, 3), 11, strides=[4, 4])))
    net.gemm(net.op("Flatten", features), "last", (CLASSES, 16), out="logits")
    (tmp_path / "net.onnx").write_bytes(net.model().SerializeToString())
    whole = adopt(tmp_path / "net.onnx", RECIPE, output=tmp_path / "whole.onnx", pixels_in=True)
    calibration = calibrate(whole, PictureSet.open("demo:train").subset(range(32)), method="minmax")
    made = quantize(whole, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration)
    graph = load_graph(made.path)
    assert (16, 12, 11, 3) in [tuple(tensor.dims) for tensor in graph.graph.initializer]
    assert kinds(graph).count("Pad") == 1


def test_openvino_reads_it(artifacts: dict[str, Artifact], calibrations: dict[str, Calibration], tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    made = quantize(
        artifacts["pixels"], tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibrations["pixels"]
    )
    shown = next(PictureSet.open("demo:test").pixels(RECIPE, 32))[0]
    with Runtime(made.path, backend="openvino") as one, Runtime(made.path, backend="onnxruntime") as other:
        np.testing.assert_allclose(one.logits(shown), other.logits(shown), atol=0.02 * np.abs(other.logits(shown)).max())
