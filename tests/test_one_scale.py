"""A fully connected layer with one weight scale and factors behind it gives the same answers, in the same integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.onnx_graph.session import fused_operators
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization import one_scale as module
from alexnet_deploy.quantization.calibration import calibrate
from alexnet_deploy.quantization.four_bit import four_bit
from alexnet_deploy.quantization.one_scale import one_scale
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.types import GraphForm, Precision
from tests.small_nets import CLASSES, Net, artifact_of

INPUTS, OUTPUTS = 64, 24


def quantised_layer(
    seed: int = 0, *, transposed: bool = True, has_bias: bool = True, changed: dict[str, Any] | None = None
) -> ModelProto:
    """uint8 data, int8 weights with scales that differ a thousandfold between channels, int32 bias; Relu, and uint8 again."""
    random = np.random.default_rng(seed)
    scale = np.exp(random.uniform(np.log(1e-5), np.log(1e-2), OUTPUTS)).astype(np.float32)
    weights = random.integers(-64, 65, (OUTPUTS, INPUTS), np.int8)  # 7 bits: sums of 8 may saturate, in some kernels
    constants = {
        "in.scale": np.float32(0.02),
        "in.zero": np.uint8(117),
        "w": weights if transposed else np.ascontiguousarray(weights.T),
        "w.scale": scale,
        "w.zero": np.zeros(OUTPUTS, np.int8),
        "b": random.integers(-5000, 5000, OUTPUTS).astype(np.int32),
        "b.scale": scale * np.float32(0.02),
        "b.zero": np.zeros(OUTPUTS, np.int32),
        "out.scale": np.float32(0.01),
        "out.zero": np.uint8(3),
    } | (changed or {})
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "in.scale", "in.zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "in.scale", "in.zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["w.dq"], axis=0 if transposed else 1),
        helper.make_node("DequantizeLinear", ["b", "b.scale", "b.zero"], ["b.dq"], axis=0),
        helper.make_node("Gemm", ["dq", "w.dq", *(["b.dq"] if has_bias else [])], ["gemm"], "layer", transB=int(transposed)),
        helper.make_node("Relu", ["gemm"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "out.scale", "out.zero"], ["out.q"]),
        helper.make_node("DequantizeLinear", ["out.q", "out.scale", "out.zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", OUTPUTS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if has_bias or name[0] != "b"],
    )
    if not has_bias:
        del graph.node[3]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = np.random.default_rng(1).standard_normal((16, INPUTS)).astype(np.float32)
    return session.run(None, {"input": given})[0]  # type: ignore[no-any-return]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_answers_stay_the_same_up_to_one_step_at_a_tie(seed: int, transposed: bool, has_bias: bool) -> None:
    model = quantised_layer(seed, transposed=transposed, has_bias=has_bias)
    expected = answers(model)
    assert one_scale(model, smallest=1)
    checker.check_model(model, full_check=True)
    steps = np.rint((answers(model) - expected) / 0.01)
    assert np.abs(steps).max() <= 1
    assert np.count_nonzero(steps) <= 1


def test_the_integers_are_kept_and_onnxruntime_still_sums_them() -> None:
    model = quantised_layer()
    weights = edit.array(edit.initialisers(model.graph)["w"])
    assert one_scale(model, smallest=1)
    assert fused_operators(model).count("QGemm") == 1
    stored = edit.initialisers(model.graph)
    assert np.array_equal(edit.array(stored["w"]), weights)
    for node in edit.nodes_of(model.graph, "DequantizeLinear"):
        assert all(len(stored[name].dims) == 0 for name in node.input[1:])


def test_it_is_done_once() -> None:
    model = quantised_layer()
    assert one_scale(model, smallest=1)
    assert not one_scale(model, smallest=1)


def test_others_are_left_alone() -> None:
    small = quantised_layer(), module.SMALLEST
    zero_points = quantised_layer(changed={"w.zero": np.full(OUTPUTS, 2, np.int8)}), 1
    bias_of_its_own = quantised_layer(changed={"b.scale": np.linspace(1e-6, 1e-4, OUTPUTS).astype(np.float32)}), 1
    for model, smallest in (small, zero_points, bias_of_its_own):
        before = model.SerializeToString()
        assert not one_scale(model, smallest)
        assert model.SerializeToString() == before


def test_four_bit_weights_are_made_of_it_as_well_as_of_the_other() -> None:
    model, plain = quantised_layer(), quantised_layer()
    expected = answers(plain)
    assert one_scale(model, smallest=1)
    for each in (model, plain):
        four_bit(each, 32, Path("graph.onnx"))
    error, usual = (np.square(answers(each) - expected).mean() for each in (model, plain))
    assert 0 < error < 1.1 * usual


def test_large_layers_of_int8_graphs_for_the_cpu_are_written_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_scale, "__defaults__", (16 * 64,))  # what is large in a network that is quick to make
    net = Net()
    features = net.op("GlobalAveragePool", net.op("Relu", net.conv("input", "first", (16, 3), 3)))
    hidden = net.op("Relu", net.gemm(net.op("Flatten", features), "wide", (64, 16)))
    net.gemm(hidden, "last", (CLASSES, 64), out="logits")
    whole = artifact_of(net.model(), tmp_path)
    calibration = calibrate(whole, PictureSet.open("demo:train").subset(range(32)), method="minmax")
    made = quantize(whole, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration)
    graph = load_graph(made.path).graph
    assert [node.name for node in edit.nodes_of(graph, "Mul")] == ["wide.scale"]
    assert {layer.precision for layer in made.manifest.layers} == {Precision.INT8}
