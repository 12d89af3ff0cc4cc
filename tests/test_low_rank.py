"""Wide layers as two thin ones: exact where outputs lie in few directions, near where they nearly do, and never wider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.onnx_graph import adopt
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization import cpu_forms
from alexnet_deploy.quantization.cpu_forms import other_forms
from alexnet_deploy.quantization.low_rank import RANK_STEP, observe, to_low_rank
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


def test_few_directions_are_found_and_lose_nothing(tmp_path: Path, pictures: PictureSet) -> None:
    whole = wide_network(tmp_path, noise=0)
    directions = observe(whole, pictures)
    assert list(directions) == ["hidden"]  # the last layer is too narrow to be made of two
    assert directions["hidden"].rank(1e-4) == RANK_STEP
    thin = to_low_rank(whole, tmp_path / "thin.onnx", directions, most_lost=1e-4)
    assert [layer.layer for layer in thin.manifest.layers] == ["wide.in", "wide.out", "last"]
    assert thin.manifest.size_bytes < whole.manifest.size_bytes / 4
    assert "wide 64" in thin.manifest.notes
    assert error(whole, thin) < 1e-3


def test_a_graph_that_takes_pixels_is_fed_pixels(tmp_path: Path, pictures: PictureSet) -> None:
    whole = wide_network(tmp_path, noise=0)
    pixels = adopt(whole.path, whole.manifest.preprocess, output=tmp_path / "pixels.onnx", pixels_in=True)
    (expected,), (found,) = (observe(model, pictures).values() for model in (whole, pixels))
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-4 * np.abs(expected.mean).max())


def test_less_may_be_lost_by_more_directions(tmp_path: Path, pictures: PictureSet) -> None:
    whole = wide_network(tmp_path, noise=3)
    directions = observe(whole, pictures)
    ranks = [directions["hidden"].rank(lost) for lost in (0.1, 0.01, 0.0005)]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1]
    assert (np.diff(directions["hidden"].lost) <= 1e-5).all()
    turned = directions["hidden"].axes.T @ directions["hidden"].axes
    assert np.allclose(turned, np.eye(HIDDEN), atol=1e-3)


def test_what_would_not_get_thinner_is_refused(tmp_path: Path, pictures: PictureSet) -> None:
    whole = wide_network(tmp_path, noise=3)
    directions = observe(whole, pictures)
    with pytest.raises(ModelError, match="no fully connected layer that gets thinner"):
        to_low_rank(whole, tmp_path / "thin.onnx", directions, most_lost=1e-9)
    with pytest.raises(InputError, match="a share of 2"):
        to_low_rank(whole, tmp_path / "thin.onnx", directions, most_lost=2)
    assert not (tmp_path / "thin.onnx").exists()
    assert observe(tiny_artifact(tmp_path / "narrow.onnx"), pictures) == {}


def test_thin_forms_are_int8_graphs_for_the_cpu_and_name_all_pictures_that_they_were_made_with(
    tmp_path: Path, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_forms, "CALIBRATED_ON", 64)
    whole = wide_network(tmp_path, noise=0)
    (tmp_path / "forms").mkdir()
    forms = list(other_forms(whole, tmp_path / "forms", calibration=pictures))
    assert [form.path.name for form in forms] == ["wide.thin.int8.cpu.onnx"]  # all shares come to the same rank here
    for form in forms:
        assert (form.manifest.precision, form.manifest.form) == (Precision.INT8, GraphForm.CPU)
        assert {layer.precision for layer in form.manifest.layers} == {Precision.INT8}
        assert error(whole, form) < 0.1
        record = form.manifest.calibration
        assert record is not None
        assert (record.data.count, record.shared(pictures.content_hashes())) == (64, len(pictures))
    assert list(other_forms(whole, tmp_path / "forms")) == []  # without pictures there is nothing to fit to
