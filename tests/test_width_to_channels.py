"""A convolution over groups of pixels gives the very same integers, and is left alone where the rewriting would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import calibrate
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.quantization.width_to_channels import width_to_channels
from alexnet_deploy.types import GraphForm, Precision
from tests.small_nets import CLASSES, Net, artifact_of


def quantised_convolution(
    width: int = 40, kernel: int = 11, stride: int = 4, pads: int = 2, channels: int = 3, zero: int = 0, **more: Any
) -> ModelProto:
    """Float pictures in, float out; between them Q, DQ, a convolution of int8 weights, Q, DQ."""
    random = np.random.default_rng(7)
    constants = {
        "in.scale": np.float32(0.02),
        "in.zero": np.uint8(117),
        "w": random.integers(-64, 64, (8, channels // more.get("group", 1), 5, kernel), np.int8),
        "w.scale": random.uniform(0.001, 0.01, 8).astype(np.float32),
        "w.zero": np.full(8, zero, np.int8),
        "out.scale": np.float32(0.1),
        "out.zero": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "in.scale", "in.zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "in.scale", "in.zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["w.dq"], axis=0),
        helper.make_node("Conv", ["dq", "w.dq"], ["conv"], "conv", strides=[2, stride], pads=[1, pads, 2, pads], **more),
        helper.make_node("QuantizeLinear", ["conv", "out.scale", "out.zero"], ["out.q"]),
        helper.make_node("DequantizeLinear", ["out.q", "out.scale", "out.zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", channels, 21, width])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 8, "height", "width"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = [2, *session.get_inputs()[0].shape[1:]]
    return session.run(None, {"input": np.random.default_rng(1).standard_normal(shape).astype(np.float32)})[0]  # type: ignore[no-any-return]


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 60), st.integers(1, 13), st.sampled_from([4, 8]), st.integers(0, 4))
def test_the_answers_are_the_same_to_the_bit(width: int, kernel: int, stride: int, pads: int) -> None:
    model = quantised_convolution(width, kernel, stride, pads)
    expected = answers(model)
    if width_to_channels(model):
        checker.check_model(model, full_check=True)
        (conv,) = edit.nodes_of(model.graph, "Conv")
        assert edit.attribute(conv, "strides") == [2, 1]
    assert np.array_equal(answers(model), expected)


def test_alexnets_first_convolution_is_rewritten_once() -> None:
    model = quantised_convolution()
    assert width_to_channels(model)
    assert not width_to_channels(model)


def test_int8_graphs_for_the_cpu_are_written_so(tmp_path: Path) -> None:
    net = Net()
    features = net.op("GlobalAveragePool", net.op("Relu", net.conv("input", "first", (16, 3), 11, strides=[4, 4])))
    net.gemm(net.op("Flatten", features), "last", (CLASSES, 16), out="logits")
    whole = artifact_of(net.model(), tmp_path)
    calibration = calibrate(whole, PictureSet.open("demo:train").subset(range(32)), method="minmax")
    made = quantize(whole, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration)
    shapes = [tuple(tensor.dims) for tensor in load_graph(made.path).graph.initializer]
    assert (16, 12, 11, 3) in shapes
    assert (16, 3, 11, 11) not in shapes


def test_others_are_left_alone() -> None:
    for model in (
        quantised_convolution(stride=2),  # groups of six channels
        quantised_convolution(channels=8),  # taken by fours already
        quantised_convolution(channels=4, group=4),
        quantised_convolution(dilations=[1, 2]),
        quantised_convolution(zero=3),  # the zeros that fill the kernel up would count
        quantised_convolution(kernel=1),  # three zeros for each weight
    ):
        before = model.SerializeToString()
        assert not width_to_channels(model)
        assert model.SerializeToString() == before
