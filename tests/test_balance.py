"""Channels that are multiplied to one width answer as before in float, and better in eight bits, in both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.onnx_graph.session import fused_operators
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.balance import Channels, balanceable, choose_factors, taken_out
from alexnet_deploy.quantization.cache import calibrate_once
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.comparison import logits, relative_error
from alexnet_deploy.quantization.layers import Layer, find_layers
from alexnet_deploy.quantization.observation import observe
from alexnet_deploy.quantization.qdq import cpu_form, tensorrt_form
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.quantization.ranges import choose_range
from alexnet_deploy.quantization.trained import Nearest
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt.build import build
from alexnet_deploy.types import Flavour, GraphForm, Precision
from tests.small_nets import CLASSES, Net, alexnet_like, artifact_of, branching

PICTURES, HELD_OUT = PictureSet.open("demo:train").subset(range(64)), PictureSet.open("demo:test").subset(range(32))


def uneven() -> ModelProto:
    """A depthwise convolution and an excitation behind hard-swishes; the stem's channels differ by up to 100 times."""
    net = Net()
    x = net.op("HardSwish", net.conv("input", "stem", (16, 3), strides=[2, 2]))
    y = net.op("HardSwish", net.conv(x, "depthwise", (16, 1), group=16))
    gate = net.conv(net.op("GlobalAveragePool", y), "gate", (16, 16), 1)
    x = net.op("Add", x, net.op("Mul", y, net.op("HardSigmoid", gate)))
    x = net.op("HardSwish", net.conv(x, "pointwise", (24, 16), 1))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.gemm(x, "head", (CLASSES, 24), out="logits")
    spread = np.geomspace(1, 0.01, 16).astype(np.float32)
    for tensor in net.weights:
        if tensor.name.startswith("stem."):
            values = numpy_helper.to_array(tensor)
            values = values * spread.reshape(-1, *[1] * (values.ndim - 1))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        elif tensor.name == "depthwise.weight":
            values = numpy_helper.to_array(tensor) / spread.reshape(-1, 1, 1, 1)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return net.model()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(uneven(), tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def calibration(model: Artifact) -> Calibration:
    return calibrate(model, PICTURES)


def test_a_channel_that_was_always_zero_or_nearly_may_still_be_wide_later(model: Artifact) -> None:
    graph = load_graph(model.path)
    depthwise = next(layer for layer in find_layers(graph) if layer.name == "depthwise")
    values = np.random.default_rng(0).standard_normal((8, 16, 4, 4)) * np.geomspace(1, 1e-4, 16).reshape(-1, 1, 1)
    values[:, 5] = 0
    seen = Channels()
    seen.add(values.astype(np.float32))
    factor = choose_factors(graph, find_layers(graph), {depthwise.data: seen})[depthwise.data].reshape(-1)
    assert factor[5] == 1
    assert 8 < factor.max() <= 32


@pytest.mark.parametrize("form", GraphForm)
def test_balanced_channels_answer_better_in_both_forms(
    model: Artifact, calibration: Calibration, form: GraphForm, tmp_path: Path
) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, form=form, calibration=calibration)
    graph = load_graph(model.path)
    layers = find_layers(graph)
    ranges = {name: choose_range(seen, "mse") for name, seen in observe(graph, model.manifest, PICTURES).histograms.items()}
    weights = Nearest().quantised(graph, layers, Precision.INT8)
    plain = (cpu_form if form is GraphForm.CPU else tensorrt_form)(graph, layers, ranges, weights)
    reference, own, other = (logits(each, model.manifest, HELD_OUT) for each in (graph, load_graph(made.path), plain))
    assert relative_error(reference, own) < 0.1 * relative_error(reference, other)
    assert {layer.precision for layer in made.manifest.layers} == {Precision.INT8}


def test_the_manifest_names_what_is_balanced(model: Artifact, calibration: Calibration) -> None:
    assert set(calibration.record.balanced) == set(calibration.factors)
    depthwise = next(layer for layer in find_layers(load_graph(model.path)) if layer.name == "depthwise")
    factor = calibration.factors[depthwise.data]
    assert factor.shape == (16, 1, 1)
    assert factor.min() == 1
    assert factor.max() > 20


def test_the_cpu_form_stays_in_integer_kernels(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration)
    kernels = fused_operators(load_graph(made.path))
    assert kernels.count("QLinearConv") == 4
    assert kernels.count("QGemm") == 1


def test_onnxruntime_rounds_every_activation_with_one_scale(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    """With one a channel its kernel takes fifty times as long where channels lie last, as around its convolutions."""
    graph = load_graph(quantize(model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration).path)
    scales = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    rounded = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    restored = [node for node in graph.graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in scales]
    assert len(rounded) == len(restored) > 4
    assert not any(scales[node.input[1]] for node in (*rounded, *restored))


@pytest.mark.parametrize(
    "kinds", [["GlobalAveragePool"], ["MaxPool", "GlobalAveragePool", "Conv"], ["AveragePool", "GlobalMaxPool"]]
)
def test_what_onnxruntime_averages_in_integers_keeps_one_scale(kinds: list[str], tmp_path: Path) -> None:
    """It takes an average between two rounded tensors for one of its own, also where others stand around it, and then fails."""
    net = Net()
    x = net.conv("input", "uneven", (8, 3))
    for tensor in net.weights:
        shape = (-1, *[1] * (len(tensor.dims) - 1))
        values = numpy_helper.to_array(tensor) * np.geomspace(1, 0.01, 8, dtype=np.float32).reshape(shape)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    for kind in kinds:
        x = net.conv(x, "behind", (8, 8), 1) if kind == "Conv" else net.op(kind, x, **({} if "Global" in kind else window))
    net.gemm(net.op("Flatten", x), "head", (CLASSES, 8), out="logits")
    model = artifact_of(net.model(), tmp_path)
    made = quantize(
        model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibrate(model, PICTURES, method="mse")
    )
    with Runtime(made.path, "cpu") as runtime, Runtime(model.path, "cpu") as reference:
        shown = np.stack([HELD_OUT.picture(index) for index in range(4)])
        expected = reference.logits(shown)
        np.testing.assert_allclose(runtime.logits(shown), expected, atol=0.05 * float(np.abs(expected).max()))


def test_tensorrt_builds_a_plan_of_it(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="builds a real plan")
    graph = quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration)
    assert build(graph, tmp_path / "q.plan", flavour=Flavour.TENSORRT_RTX).artifact.manifest.precision is Precision.INT8


def test_a_kept_calibration_keeps_its_factors(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    first, again = (calibrate_once(model, PICTURES, method="mse") for _ in range(2))
    assert first.factors
    assert first is not again
    assert all(np.array_equal(again.factors[name], factor) for name, factor in first.factors.items())


def test_layers_behind_their_own_relu_are_left_alone(tmp_path: Path) -> None:
    for made in (alexnet_like, branching):
        graph = load_graph(artifact_of(made(), tmp_path, f"{made.__name__}.onnx").path)
        layers = find_layers(graph)
        found = balanceable(graph, layers, [layer.data for layer in layers])
        behind_relu = {node.output[0] for node in graph.graph.node if node.op_type in ("Relu", "MaxPool")}
        assert not behind_relu.intersection(found)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 2, 6]), st.integers(0, 1000))
def test_a_factor_is_taken_out_of_a_convolution(groups: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = random.standard_normal((2, 6, 5, 5)).astype(np.float32)
    weight = random.standard_normal((12, 6 // groups, 3, 3)).astype(np.float32)
    factor = random.uniform(0.1, 30, (6, 1, 1)).astype(np.float32)
    layer = Layer("conv", "Conv", "x", "w", None, "y", 0, groups)
    run = ReferenceEvaluator(helper.make_node("Conv", ["x", "w"], ["y"], group=groups)).run
    (expected,), (found,) = (
        run(None, {"x": data, "w": weight}),
        run(None, {"x": data * factor, "w": taken_out(weight, layer, factor)}),
    )
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_factor_is_taken_out_of_a_gemm(axis: int) -> None:
    random = np.random.default_rng(0)
    data, factor = random.standard_normal((3, 6)), random.uniform(0.1, 30, 6)
    weight = random.standard_normal((4, 6) if axis == 0 else (6, 4))
    changed = taken_out(weight, Layer("fc", "Gemm", "x", "w", None, "y", axis), factor)
    before, after = (data @ weight.T, data * factor @ changed.T) if axis == 0 else (data @ weight, data * factor @ changed)
    assert after == pytest.approx(before)
