from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from msgspec import structs
from PIL import Image

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import CalibrationError, InputError, PictureError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import calibrate
from alexnet_deploy.types import BatchRange
from tests.small_nets import CLASSES, RECIPE, Net, alexnet_like, artifact_of, branching


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(alexnet_like(), tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    return PictureSet.open("demo:train").subset(range(48))


def test_ranges_are_those_of_the_activations_themselves(model: Artifact, pictures: PictureSet) -> None:
    calibration = calibrate(model, pictures, method="minmax")
    whole = np.concatenate([batch for batch, _ in pictures.batches(RECIPE, 48)])
    assert calibration.ranges["input"] == pytest.approx((whole.min(), whole.max()), rel=2**-12)
    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: whole})[0]
    assert np.isfinite(logits).all()
    assert {h.total for name, h in calibration.histograms.items() if name == "input"} == {whole.size}


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse", "auto"])
def test_neither_batch_size_nor_order_changes_the_result(model: Artifact, pictures: PictureSet, method: str) -> None:
    forwards = calibrate(model, pictures, method=method, batch_size=16)
    backwards = calibrate(model, pictures.subset(range(47, -1, -1)), method=method, batch_size=5)
    assert forwards.ranges == backwards.ranges
    assert forwards.record.data == backwards.record.data
    assert forwards.record.method == backwards.record.method


def test_a_graph_with_a_fixed_batch_gives_the_same_ranges(model: Artifact, pictures: PictureSet) -> None:
    fixed = structs.replace(model, manifest=structs.replace(model.manifest, batch=BatchRange(7, 7, 7)))
    assert calibrate(fixed, pictures, method="minmax").ranges == calibrate(model, pictures, method="minmax").ranges


@pytest.mark.parametrize("batch", [BatchRange(1, 16, 64), BatchRange(7, 7, 7)])
def test_windows_and_tokens_in_the_first_axis_are_all_looked_at(batch: BatchRange, pictures: PictureSet, tmp_path: Path) -> None:
    """As Swin has its windows: (N * 256, 8) here, of which only the first few of each batch were looked at."""
    net = Net()
    x = net.op("Relu", net.conv("input", "stem", (8, 3), strides=[2, 2]))
    x = net.op("Transpose", net.op("Reshape", x, net.constant("planes", [0, 8, 256])), perm=[0, 2, 1])
    tokens = net.op("Reshape", x, net.constant("rows", [-1, 8]))
    mixed = net.op("Relu", net.gemm(tokens, "mix", (8, 8)))
    x = net.op("ReduceMean", net.op("Reshape", mixed, net.constant("apart", [-1, 256, 8])), net.constant("axis", [1]), keepdims=0)
    net.gemm(x, "head", (CLASSES, 8), out="logits")
    model = artifact_of(net.model(), tmp_path)
    calibration = calibrate(
        structs.replace(model, manifest=structs.replace(model.manifest, batch=batch)), pictures, method="minmax"
    )
    assert calibration.histograms[tokens].total >= len(pictures) * 256 * 8
    assert calibration.ranges == calibrate(model, pictures, method="minmax", batch_size=5).ranges


def test_auto_keeps_the_method_with_the_least_error_and_says_so(model: Artifact, pictures: PictureSet) -> None:
    calibration = calibrate(model, pictures)
    assert calibration.record.chosen_by == "auto"
    assert calibration.errors[calibration.record.method] == min(calibration.errors.values())
    assert len(calibration.errors) > 4


def test_the_record_tells_where_the_ranges_came_from(model: Artifact, pictures: PictureSet) -> None:
    record = calibrate(model, pictures, method="percentile-99.9", count=40, seed=3).record
    assert (record.method, record.chosen_by, record.seed) == ("percentile-99.9", "request", 3)
    assert record.data.count == 40
    assert record.data.sha256 == pictures.sample(40, 3).digest()
    assert record.preprocess_sha256 == RECIPE.digest()


def test_branches_are_observed_too(tmp_path: Path, pictures: PictureSet) -> None:
    calibration = calibrate(artifact_of(branching(), tmp_path), pictures, method="minmax")
    assert len(calibration.ranges) >= 9  # seven layers, and the convolutions whose output goes to Add and Concat


def test_an_empty_set_is_refused(model: Artifact, pictures: PictureSet) -> None:
    with pytest.raises(CalibrationError, match=r"^0 calibration pictures"):
        calibrate(model, pictures.subset([]))


def test_fewer_than_32_pictures_are_refused(model: Artifact, pictures: PictureSet) -> None:
    with pytest.raises(CalibrationError, match=r"31 calibration pictures.*at least 32"):
        calibrate(model, pictures.subset(range(31)))


def test_one_picture_many_times_is_refused(model: Artifact, pictures: PictureSet) -> None:
    with pytest.raises(CalibrationError, match="only 1 of them different"):
        calibrate(model, pictures.subset([5] * 64))


def test_a_broken_picture_is_named(model: Artifact, tmp_path: Path) -> None:
    for index in range(40):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(tmp_path / f"{index:02d}.png")
    (tmp_path / "21.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"21\.png"):
        calibrate(model, PictureSet.open(tmp_path))


def test_a_graph_that_computes_infinity_is_refused(pictures: PictureSet, tmp_path: Path) -> None:
    graph = alexnet_like()
    weight = next(i for i in graph.graph.initializer if i.name == "conv1.weight")
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1e38)).tobytes()
    model = artifact_of(alexnet_like(), tmp_path)
    model.path.write_bytes(graph.SerializeToString())
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        calibrate(model, pictures, method="minmax")


def test_an_unknown_method_is_refused(model: Artifact, pictures: PictureSet) -> None:
    with pytest.raises(InputError, match="no calibration method"):
        calibrate(model, pictures, method="random")
