"""4-bit weights of fully connected layers: right numbers, on both engines, and read back from the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.quantization.four_bit import BLOCK, quantise_blocks, to_four_bit
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import Precision
from tests.tiny import LABELS, SIZE, float_batch, tiny_artifact

HIDDEN = 64


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.floats(1e-6, 1e6))
def test_each_weight_is_off_by_half_a_step_or_was_cut_off(seed: int, blocks: int, outputs: int, size: float) -> None:
    weights = (np.random.default_rng(seed).standard_normal((blocks * BLOCK, outputs)) * size).astype(np.float32)
    values, scales = quantise_blocks(weights)
    assert values.min() >= -8
    assert values.max() <= 7
    restored = values * np.repeat(scales, BLOCK, axis=0)
    step = np.abs(np.repeat(scales, BLOCK, axis=0))
    inside = (values > -8) & (values < 7)
    assert (np.abs(restored - weights)[inside] <= 0.5001 * step[inside]).all()
    # Never worse than the plain scale, by which the largest weight of a block is kept as it is.
    blocked = weights.reshape(blocks, BLOCK, outputs)
    plain = np.take_along_axis(blocked, np.abs(blocked).argmax(axis=1, keepdims=True), axis=1) / -8
    plain_error = np.square(np.clip(np.rint(blocked / plain), -8, 7) * plain - blocked).sum()
    assert np.square(restored - weights).sum() <= 1.001 * plain_error


def test_blocks_of_zeros_stay_zeros() -> None:
    values, scales = quantise_blocks(np.zeros((BLOCK, 3), np.float32))
    assert not values.any()
    assert np.isfinite(scales).all()


def network(folder: Path) -> Artifact:
    """GlobalAveragePool is too narrow for 4 bits; here Flatten -> Gemm -> Relu -> Gemm, with biases."""
    random = np.random.default_rng(0)
    features = 3 * SIZE * SIZE
    weights = {
        "w1": random.standard_normal((HIDDEN, features)).astype(np.float32) / 16,
        "b1": random.standard_normal(HIDDEN).astype(np.float32),
        "w2": random.standard_normal((len(LABELS), HIDDEN)).astype(np.float32),
        "b2": random.standard_normal(len(LABELS)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"], name="first", transB=1),
            helper.make_node("Relu", ["hidden"], ["rectified"]),
            helper.make_node("Gemm", ["rectified", "w2", "b2"], ["output"], name="second", transB=1),
        ],
        "connected",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return tiny_artifact(folder / "model.onnx", graph=model)


def test_both_engines_run_it_and_come_close_to_float(tmp_path: Path) -> None:
    artifact = network(tmp_path)
    four = to_four_bit(artifact, tmp_path / "model.int4.onnx")
    assert [layer.precision for layer in four.manifest.layers] == [Precision.INT4, Precision.INT4]
    assert four.manifest.size_bytes < artifact.manifest.size_bytes / 4
    assert four.manifest.parents[0].sha256 == artifact.manifest.sha256
    batch = float_batch(32)
    with Runtime(artifact.path) as runtime:
        expected = runtime.logits(batch)
    for backend in ("onnxruntime", "openvino"):
        with Runtime(four.path, backend=backend) as runtime:
            found = runtime.logits(batch)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert 1e-4 < error < 0.15, backend


def test_longer_blocks_take_fewer_bytes_and_round_more_coarsely(tmp_path: Path) -> None:
    artifact = network(tmp_path)
    batch = float_batch(32)
    with Runtime(artifact.path) as runtime:
        expected = runtime.logits(batch)
    sizes, errors = [], []
    for block in (16, 64):
        four = to_four_bit(artifact, tmp_path / f"{block}.onnx", block=block)
        with Runtime(four.path, backend="onnxruntime") as runtime:
            errors.append(np.linalg.norm(runtime.logits(batch) - expected))
        sizes.append(four.manifest.size_bytes)
    assert sizes[0] > sizes[1]
    assert errors[0] < errors[1]
    with pytest.raises(InputError, match="blocks of 48"):
        to_four_bit(artifact, tmp_path / "48.onnx", block=48)
    with pytest.raises(ModelError, match="1 of 2 fully connected layers that cannot be written"):
        to_four_bit(artifact, tmp_path / "128.onnx", block=128)  # the second has 64 input channels


def test_a_graph_without_wide_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no fully connected layer"):
        to_four_bit(tiny_artifact(tmp_path / "m.onnx"), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
