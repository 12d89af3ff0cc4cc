"""Wide layers as two thin ones: exact where outputs lie in few directions, near where they nearly do, and never wider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import adopt, edit, load_graph
from alexnet_deploy.onnx_graph.session import GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization import cpu_forms
from alexnet_deploy.quantization.cpu_forms import other_forms
from alexnet_deploy.quantization.directions import directions_of
from alexnet_deploy.quantization.low_rank import to_low_rank
from alexnet_deploy.quantization.wide import RANK_STEP, observe
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import GraphForm, Precision
from tests.tiny import LABELS, SIZE, tiny_artifact

HIDDEN = 512
DIRECTIONS = 20


def wide_network(folder: Path, noise: float) -> Artifact:
    """Flatten -> Gemm of 512 outputs that lie in 20 directions but for `noise` -> Relu -> Gemm."""
    random = np.random.default_rng(0)
    features = 3 * SIZE * SIZE
    few = random.standard_normal((HIDDEN, DIRECTIONS)) @ random.standard_normal((DIRECTIONS, features)) / features
    weights = {
        "w1": few + noise * random.standard_normal((HIDDEN, features)) * few.std(),
        "b1": random.standard_normal(HIDDEN),
        "w2": random.standard_normal((len(LABELS), HIDDEN)) / HIDDEN,
        "b2": random.standard_normal(len(LABELS)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"], name="wide", transB=1),
            helper.make_node("Relu", ["hidden"], ["rectified"]),
            helper.make_node("Gemm", ["rectified", "w2", "b2"], ["output"], name="last", transB=1),
        ],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return tiny_artifact(folder / "wide.onnx", graph=model)


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    return PictureSet.open("demo:train").subset(range(160))


def error(reference: Artifact, other: Artifact) -> float:
    """Of the logits, relative, over pictures that nothing was fitted to."""
    batch = np.stack([PictureSet.open("demo:test").picture(i) for i in range(64)])
    with Runtime(reference.path, "cpu", "onnxruntime") as one, Runtime(other.path, "cpu", "onnxruntime") as two:
        expected, found = one.logits(batch), two.logits(batch)
    spread = expected - expected.mean(axis=0)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(spread))


def deep_network(folder: Path, *, grouped: int = 1, bias: bool = True) -> Artifact:
    """Conv of 64 outputs that lie in 5 directions -> Relu -> one of 96 in 12, strided, padded unevenly -> Relu -> Gemm."""
    random = np.random.default_rng(1)

    def kernels(outputs: int, directions: int, *kernel: int) -> np.ndarray:
        few = random.standard_normal((outputs, directions)) @ random.standard_normal((directions, int(np.prod(kernel))))
        return (few / np.sqrt(directions * np.prod(kernel))).reshape(outputs, *kernel)

    weights = {
        "w1": kernels(64, 5, 3, 5, 5),
        "w2": kernels(96, 12, 64 // grouped, 3, 2),
        "b2": random.standard_normal(96),
        "w3": random.standard_normal((len(LABELS), 96)) / 10,
        "b3": random.standard_normal(len(LABELS)),
    }
    if bias:
        weights["b1"] = random.standard_normal(64)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w1", *(["b1"] if bias else [])], ["c1"], name="first", pads=[2, 2, 2, 2]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node(
                "Conv",
                ["r1", "w2", "b2"],
                ["c2"],
                name="second",
                pads=[1, 0, 0, 1],
                strides=[2, 1],
                dilations=[1, 2],
                group=grouped,
            ),
            helper.make_node("Relu", ["c2"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w3", "b3"], ["output"], name="last", transB=1),
        ],
        "deep",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return tiny_artifact(folder / "deep.onnx", graph=model)


def token_network(folder: Path) -> Artifact:
    """Places as tokens, blank in the upper half -> Gemm of 512 outputs in 20 directions -> their mean in each picture -> Gemm."""
    random = np.random.default_rng(2)
    places, width = SIZE * SIZE // 4, 256
    few = random.standard_normal((HIDDEN, DIRECTIONS)) @ random.standard_normal((DIRECTIONS, width)) / width
    values = {
        "w1": random.standard_normal((width, 3, 4, 4)).astype(np.float32),
        "lower": (np.arange(SIZE // 2) >= SIZE // 4).astype(np.float32).reshape(-1, 1),
        "tokens": np.array([-1, width], np.int64),
        "w2": few.astype(np.float32),
        "pictures": np.array([-1, places, HIDDEN], np.int64),
        "w3": random.standard_normal((len(LABELS), HIDDEN)).astype(np.float32) / HIDDEN,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Mul", ["c1", "lower"], ["m1"]),
            helper.make_node("Transpose", ["m1"], ["t1"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["t1", "tokens"], ["r1"]),
            helper.make_node("Gemm", ["r1", "w2"], ["hidden"], name="wide", transB=1),
            helper.make_node("Relu", ["hidden"], ["rectified"]),
            helper.make_node("Reshape", ["rectified", "pictures"], ["r2"]),
            helper.make_node("ReduceMean", ["r2"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Gemm", ["mean", "w3"], ["output"], name="last", transB=1),
        ],
        "tokens",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return tiny_artifact(folder / "tokens.onnx", graph=model)


def test_few_directions_are_found_and_lose_nothing(tmp_path: Path, pictures: PictureSet) -> None:
    whole = wide_network(tmp_path, noise=0)
    layers = observe(whole, pictures)
    assert list(layers) == ["hidden"]  # the last layer is too narrow to be made of two
    assert layers["hidden"].directions.lost[RANK_STEP["Gemm"]] < 1e-4
    thin = to_low_rank(whole, tmp_path / "thin.onnx", layers, {"hidden": RANK_STEP["Gemm"]})
    assert [layer.layer for layer in thin.manifest.layers] == ["wide.in", "wide.out", "last"]
    assert thin.manifest.size_bytes < whole.manifest.size_bytes / 4
    assert "wide 64" in thin.manifest.notes
    assert error(whole, thin) < 1e-3


def test_tokens_along_the_first_axis_are_those_of_all_pictures(tmp_path: Path, pictures: PictureSet) -> None:
    whole = token_network(tmp_path)
    layers = observe(whole, pictures)
    assert layers["hidden"].places == SIZE * SIZE // 4
    assert error(whole, to_low_rank(whole, tmp_path / "thin.onnx", layers, {"hidden": RANK_STEP["Gemm"]})) < 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_become_one_with_fewer_channels_and_one_of_1_x_1(tmp_path: Path, pictures: PictureSet, bias: bool) -> None:
    whole = deep_network(tmp_path, bias=bias)
    layers = observe(whole, pictures)
    assert [layer.places for layer in layers.values()] == [SIZE**2, (SIZE // 2) * (SIZE - 1)]
    thin = to_low_rank(whole, tmp_path / "thin.onnx", layers, {"c1": 16, "c2": 16})
    assert [layer.layer for layer in thin.manifest.layers] == ["first.in", "first.out", "second.in", "second.out", "last"]
    stored = edit.initialisers(load_graph(thin.path).graph)
    assert stored["second.in.weight"].dims == [16, 64, 3, 2]
    assert stored["second.out.weight"].dims == [96, 16, 1, 1]
    assert error(whole, thin) < 1e-3


def test_convolutions_of_several_groups_are_left_whole(tmp_path: Path, pictures: PictureSet) -> None:
    assert list(observe(deep_network(tmp_path, grouped=2), pictures)) == ["c1"]


def test_layers_without_a_rank_stay_whole(tmp_path: Path, pictures: PictureSet) -> None:
    whole = deep_network(tmp_path)
    thin = to_low_rank(whole, tmp_path / "thin.onnx", observe(whole, pictures), {"c2": 16})
    assert [layer.layer for layer in thin.manifest.layers] == ["first", "second.in", "second.out", "last"]


def test_numbers_between_are_0_on_average_and_of_one_size(tmp_path: Path, pictures: PictureSet) -> None:
    """So that one INT8 scale fits them all."""
    whole = deep_network(tmp_path)
    thin = to_low_rank(whole, tmp_path / "thin.onnx", observe(whole, pictures), {"c1": 16, "c2": 16})
    runner = GraphRunner(load_graph(thin.path), ["first.in"])
    (batch, _), *_ = pictures.batches(thin.manifest.preprocess, 64)
    (between,) = runner.run(batch)
    assert abs(between.mean()) < 0.1 * between.std()
    sizes = between.std(axis=(0, 2, 3))
    assert sizes.max() < 5 * sizes.min()


def test_a_graph_that_takes_pixels_is_fed_pixels(tmp_path: Path, pictures: PictureSet) -> None:
    whole = wide_network(tmp_path, noise=0)
    pixels = adopt(whole.path, whole.manifest.preprocess, output=tmp_path / "pixels.onnx", pixels_in=True)
    (expected,), (found,) = (observe(model, pictures).values() for model in (whole, pixels))
    mean = expected.directions.mean
    np.testing.assert_allclose(found.directions.mean, mean, atol=1e-4 * np.abs(mean).max())


def test_what_lies_outside_of_more_directions_is_less(tmp_path: Path, pictures: PictureSet) -> None:
    directions = observe(wide_network(tmp_path, noise=3), pictures)["hidden"].directions
    assert (np.diff(directions.lost) <= 1e-5).all()
    assert np.allclose(directions.axes.T @ directions.axes, np.eye(HIDDEN), atol=1e-3)


@given(outputs=st.integers(2, 40), hidden=st.integers(1, 10), places=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_outputs_are_what_their_directions_and_their_mean_say(outputs: int, hidden: int, places: int, seed: int) -> None:
    """Samples that were drawn in `hidden` directions are told by as many, also those that nothing was fitted to."""
    random = np.random.default_rng(seed)
    basis = random.standard_normal((hidden, outputs)).astype(np.float32)
    mean = 10 * random.standard_normal(outputs).astype(np.float32)
    samples = random.standard_normal((80, places, hidden)).astype(np.float32) @ basis + mean
    found = directions_of(samples, basis)
    rank = min(hidden, outputs)
    assert found.lost[rank - 1] <= 1e-4
    axes = found.axes[:, :rank]
    told = (samples - found.mean) @ axes @ axes.T + found.mean
    assert np.square(told - samples).sum() <= 2e-4 * np.square(samples - mean).sum()


def test_narrow_layers_are_none_to_make_thinner(tmp_path: Path, pictures: PictureSet) -> None:
    assert observe(tiny_artifact(tmp_path / "narrow.onnx"), pictures) == {}


def test_thin_forms_are_int8_graphs_for_the_cpu_and_name_all_pictures_that_they_were_made_with(
    tmp_path: Path, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_forms, "CALIBRATED_ON", 64)
    whole = wide_network(tmp_path, noise=0)
    (tmp_path / "forms").mkdir()
    forms = list(other_forms(whole, tmp_path / "forms", calibration=pictures))
    assert [form.path.name for form in forms] == ["wide.thin1.int8.cpu.onnx"]  # all of them come to the same rank here
    for form in forms:
        assert (form.manifest.precision, form.manifest.form) == (Precision.INT8, GraphForm.CPU)
        assert {layer.precision for layer in form.manifest.layers} == {Precision.INT8}
        assert error(whole, form) < 0.1
        record = form.manifest.calibration
        assert record is not None
        assert (record.data.count, record.shared(pictures.content_hashes())) == (64, len(pictures))
    assert list(other_forms(whole, tmp_path / "forms")) == []  # without pictures there is nothing to fit to
