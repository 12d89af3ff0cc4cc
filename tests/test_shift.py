"""Activations in the middle of int8: all 255 steps for what is never negative, exactly the same function otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.layer_error import layer_errors
from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.comparison import logits, relative_error
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.observation import observe
from alexnet_deploy.quantization.qdq import shiftable, tensorrt_form
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.quantization.ranges import choose_range
from alexnet_deploy.quantization.scales import shifted_to_middle
from alexnet_deploy.quantization.trained import Nearest
from alexnet_deploy.quantization.weights import half_exact
from alexnet_deploy.types import GraphForm, Precision
from tests.small_nets import alexnet_like, artifact_of, branching

PICTURES, HELD_OUT = PictureSet.open("demo:train").subset(range(64)), PictureSet.open("demo:test").subset(range(32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(alexnet_like(), tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def calibration(model: Artifact) -> Calibration:
    return calibrate(model, PICTURES, method="mse")


@pytest.mark.parametrize("net", [alexnet_like, branching])
def test_what_is_never_negative_is_rounded_more_finely(net: object, tmp_path: Path) -> None:
    made = artifact_of(net(), tmp_path)  # type: ignore[operator]
    graph = load_graph(made.path)
    layers = find_layers(graph)
    weights = Nearest().quantised(graph, layers, Precision.INT8)
    ranges = {name: choose_range(seen, "minmax") for name, seen in observe(graph, made.manifest, PICTURES).histograms.items()}
    one_sided = [name for name in shiftable(graph, layers) if ranges[name][0] == 0]
    assert len(one_sided) >= 4
    reference, plain, shifted = (
        logits(each, made.manifest, HELD_OUT)
        for each in (
            graph,
            tensorrt_form(graph, layers, ranges, weights),
            tensorrt_form(graph, layers, ranges, weights, shifted=one_sided),
        )
    )
    assert relative_error(reference, shifted) < 0.9 * relative_error(reference, plain)  # the rest is the weights' rounding


def test_a_shifted_alexnet_has_no_operation_more_but_the_padding(
    model: Artifact, calibration: Calibration, tmp_path: Path
) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration)
    graph = load_graph(made.path).graph
    kinds = [node.op_type for node in graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Cast")]
    before = [node.op_type for node in load_graph(model.path).graph.node]
    assert sorted(kinds) == sorted([kind.replace("Relu", "Clip") for kind in before] + ["Pad"] * 2)
    assert not any(any(edit.attribute(node, "pads", [])) for node in edit.nodes_of(graph, "Conv") if node.name != "conv1")
    assert made.manifest.calibration is not None
    assert len(made.manifest.calibration.shifted) == 4


def test_the_cpu_form_needs_no_shift(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration)
    assert not any(edit.nodes_of(load_graph(made.path).graph, "Clip", "Pad", "Sub"))


def test_without_shift_nothing_is(model: Artifact) -> None:
    assert calibrate(model, PICTURES, method="mse", shift=False).record.shifted == ()


def test_a_layer_that_is_left_alone_still_sees_what_it_saw(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    """conv3 reads in half precision what nobody may shift for it then; its own output is shifted for fc1."""
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration, skip=["conv3"])
    reference, own = (logits(load_graph(each.path), each.manifest, HELD_OUT) for each in (model, made))
    assert relative_error(reference, own) < 0.003


def test_errors_of_layers_are_told_without_the_shift(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration)
    found = layer_errors(model, made, HELD_OUT)
    assert [layer.layer for layer in found.layers] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert all(layer.sqnr_db is not None and layer.sqnr_db > 25 for layer in found.layers)


@given(st.floats(-0.5, 0), st.floats(2.0**-4, 3e4))
def test_scale_and_shift_are_exact_in_half_precision(below: float, high: float) -> None:
    low = below * high
    scale, offset = shifted_to_middle((low, high))
    zero = -offset / scale.scale
    assert half_exact(scale.scale) == scale.scale
    assert half_exact(offset) == offset
    assert zero == round(zero)
    assert zero >= -128
    assert low >= (-128 - zero) * scale.scale * (1 + 1e-6)
    assert high <= (127 - zero) * scale.scale * (1 + 1e-6)
    assert scale.scale * 255 < 1.08 * (high - low)
