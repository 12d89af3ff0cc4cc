"""FP32 graphs to FP16 and BF16, checked by onnx, by onnxruntime and by the TensorRT parser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from foreign_models import ACCEPTED, SIZE, Net, trunk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet_deploy.onnx_graph import edit, layer_precisions, normalise
from alexnet_deploy.onnx_graph.classifier import rearranging
from alexnet_deploy.onnx_graph.files import check
from alexnet_deploy.onnx_graph.raw_input import accept_pixels
from alexnet_deploy.onnx_graph.running import function
from alexnet_deploy.quantization.half import rounded, to_half
from alexnet_deploy.types import Precision

# The exact largest finite number of each type, from their definitions: (2 - 2**-m) * 2**e.
LARGEST = {"float16": 65504.0, "bfloat16": float((2 - 2**-7) * 2.0**127)}


def normalised(name: str) -> ModelProto:
    model = ACCEPTED[name]().model
    normalise(model)
    return model


def kinds(model: ModelProto) -> dict[str, int]:
    return {name: kind.tensor_type.elem_type for name, kind in edit.value_types(model).items()}


def a_batch(model: ModelProto) -> np.ndarray[Any, Any]:
    value = model.graph.input[0]
    shape = [2, *(n or SIZE for n in (edit.dims(value.type) or ())[1:])]
    random = np.random.default_rng(3)
    if value.type.tensor_type.elem_type == TensorProto.UINT8:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape, np.float32)


@pytest.mark.parametrize("name", ACCEPTED)
def test_float16_answers_nearly_as_float32(name: str) -> None:
    model = normalised(name)
    half = to_half(model, "float16")
    check(half)
    batch = a_batch(model)
    expected = function(model)(batch)
    np.testing.assert_allclose(function(half)(batch), expected, atol=1e-2 * float(np.abs(expected).max()))
    assert {layer.precision for layer in layer_precisions(half)} == {Precision.FP16}
    assert kinds(half)[half.graph.output[0].name] == TensorProto.FLOAT
    assert half.graph.input[0] == model.graph.input[0]


@pytest.mark.parametrize("name", ACCEPTED)
def test_bfloat16_passes_the_full_checker(name: str) -> None:
    half = to_half(normalised(name), "bfloat16")
    check(half)
    assert {layer.precision for layer in layer_precisions(half)} == {Precision.BF16}


def test_the_graph_given_is_left_as_it_was() -> None:
    model = normalised("residual")
    before = model.SerializeToString(deterministic=True)
    to_half(model, "bfloat16")
    assert model.SerializeToString(deterministic=True) == before


def test_no_float32_weights_are_left_behind() -> None:
    half = to_half(normalised("residual"), "float16")
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}


def test_probabilities_keep_their_small_ones_whatever_rearranges_them() -> None:
    """A Softmax of an old opset may come with a Reshape behind it, where what is below 6e-8 would become zero in float16."""
    net = Net(opset=20)
    scores = net.node("Mul", net.head(trunk(net), 16), net.constant([12.0], np.float32))
    model = net.model(net.node("Reshape", net.node("Softmax", scores), net.constant([0, 10], np.int64)))
    normalise(model)
    assert len(rearranging(model)) == 1
    batch = a_batch(model)
    expected = function(model)(batch)
    assert ((expected > 1e-30) & (expected < 1e-9)).any()
    found = np.log(np.maximum(function(to_half(model, "float16"))(batch), 1e-38))
    sure = expected > 1e-30
    np.testing.assert_allclose(found[sure], np.log(expected[sure]), rtol=0.02, atol=0.2)


def test_local_response_normalisation_stays_in_float32() -> None:
    """Squares of 0..255 pictures leave the range of float16."""
    half = to_half(normalised("local_response_normalisation"), "float16")
    (norm,) = edit.nodes_of(half.graph, "LRN")
    types = kinds(half)
    assert types[norm.input[0]] == types[norm.output[0]] == TensorProto.FLOAT


def test_activations_of_caffe_models_do_not_overflow() -> None:
    model = normalised("local_response_normalisation")
    half = to_half(model, "float16")
    batch = np.random.default_rng(0).uniform(-128, 128, (2, 3, SIZE, SIZE)).astype(np.float32) * 4
    expected = function(model)(batch)
    np.testing.assert_allclose(function(half)(batch), expected, atol=1e-2 * float(np.abs(expected).max()))


def test_the_variance_of_batch_normalisation_keeps_its_range() -> None:
    net = Net(opset=20)
    tiny = net.constant(np.full(16, 1e-9, np.float32))  # zero in float16
    others = [net.constant(np.full(16, v, np.float32)) for v in (1e-4, 0.0, 0.0)]
    data = net.node("BatchNormalization", trunk(net), *others, tiny, epsilon=1e-12)
    model = net.model(net.head(data, 16))
    batch = a_batch(model)
    expected = function(model)(batch)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(function(to_half(model, "float16"))(batch), expected, atol=2e-2 * float(np.abs(expected).max()))


def quantised(opset: int) -> ModelProto:
    net = Net(opset=opset)
    scale, zero = net.constant(0.05, np.float32), net.constant(0, np.int8)

    def pair(data: str) -> str:
        return net.node("DequantizeLinear", net.node("QuantizeLinear", data, scale, zero), scale, zero)

    stored = net.constant(net.random.integers(-127, 128, (8, 3, 3, 3)), np.int8)
    scales, zeros = net.constant(np.linspace(1e-9, 0.02, 8), np.float32), net.constant(np.zeros(8), np.int8)
    weight = net.node("DequantizeLinear", stored, scales, zeros, axis=0)
    data = net.relu(net.node("Conv", pair("data"), weight, kernel_shape=[3, 3]))
    return net.model(net.head(data, 8))


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_quantised_layers_keep_their_integers_and_get_half_scales(opset: int) -> None:
    model = quantised(opset)
    half = to_half(model, "float16")
    check(half)
    types = kinds(half)
    for node in edit.nodes_of(half.graph, "QuantizeLinear", "DequantizeLinear"):
        assert types[node.input[1]] == TensorProto.FLOAT16
        assert types[node.input[2]] == TensorProto.INT8
    before = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    after = [numpy_helper.to_array(t) for t in half.graph.initializer if t.data_type == TensorProto.INT8]
    assert [a.tobytes() for a in before] == [a.tobytes() for a in after]
    assert [layer.precision for layer in layer_precisions(half)] == [Precision.INT8, Precision.FP16]


def test_a_scale_never_becomes_zero() -> None:
    half = to_half(quantised(20), "float16")
    weights = edit.initialisers(half.graph)
    for node in edit.nodes_of(half.graph, "DequantizeLinear"):
        assert numpy_helper.to_array(weights[node.input[1]]).min() > 0


def test_types_that_stand_in_attributes_follow() -> None:
    net = Net(opset=20)
    whole = net.node("Cast", net.node("Cast", "data", to=TensorProto.INT32), to=TensorProto.FLOAT)
    fill = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.5])
    added = net.node("Add", whole, net.node("ConstantOfShape", net.node("Shape", whole), value=fill))
    model = net.model(net.head(trunk(net, added), 16))
    half = to_half(model, "float16")
    check(half)
    batch = a_batch(model) * 10
    expected = function(model)(batch)
    np.testing.assert_allclose(function(half)(batch), expected, atol=1e-2 * float(np.abs(expected).max()))


def test_resize_keeps_its_float32_scales() -> None:
    net = Net(opset=20)
    scales = net.constant([1, 1, 2, 2], np.float32)
    data = net.node("Resize", trunk(net), "", scales, mode="nearest")
    for dtype in ("float16", "bfloat16"):
        half = to_half(net.model(net.head(data, 16)), dtype)  # type: ignore[arg-type]
        check(half)
        (resize,) = edit.nodes_of(half.graph, "Resize")
        assert kinds(half)[resize.input[2]] == TensorProto.FLOAT
        assert kinds(half)[resize.output[0]] != TensorProto.FLOAT


def test_preprocessing_inside_the_graph_stays_in_float32() -> None:
    foreign = ACCEPTED["residual"]()
    normalise(foreign.model)
    accept_pixels(foreign.model, foreign.recipe)
    half = to_half(foreign.model, "float16")
    types = kinds(half)
    inside = [node for node in half.graph.node if node.name.startswith("preprocess.") and node.op_type != "Transpose"]
    assert len(inside) >= 3
    assert all(types[node.output[0]] == TensorProto.FLOAT for node in inside if not node.name.endswith(".cast"))
    batch = a_batch(foreign.model)
    expected = function(foreign.model)(batch)
    np.testing.assert_allclose(function(half)(batch), expected, atol=1e-2 * float(np.abs(expected).max()))


FLOATS = arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


@settings(deadline=None, max_examples=40)
@given(FLOATS, st.sampled_from(["float16", "bfloat16"]))
def test_finite_weights_stay_finite_and_others_as_they_are(values: np.ndarray[Any, Any], dtype: str) -> None:
    result = rounded(values, dtype).astype(np.float32)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.isfinite(result), np.isfinite(values))
    np.testing.assert_array_equal(np.isnan(result), np.isnan(values))
    assert np.abs(result[np.isfinite(result)]).max(initial=0) <= LARGEST[dtype]


@settings(deadline=None, max_examples=40)
@given(FLOATS, st.sampled_from(["float16", "bfloat16"]))
def test_divisors_never_become_zero_and_keep_their_sign(values: np.ndarray[Any, Any], dtype: str) -> None:
    result = rounded(values, dtype, never_zero=True).astype(np.float32)  # type: ignore[arg-type]
    np.testing.assert_array_equal(result == 0, values == 0)
    known = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(result[known]), np.signbit(values[known]))


@settings(deadline=None, max_examples=40)
@given(arrays.arrays(np.float32, 10, elements=st.floats(-60000, 60000, width=32)))
def test_rounding_is_to_nearest(values: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(rounded(values, "float16"), values.astype(np.float16))
