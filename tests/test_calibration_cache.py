from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization import cache
from alexnet_deploy.quantization.cache import calibrate_once
from tests.small_nets import alexnet_like, artifact_of


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    return artifact_of(alexnet_like(), tmp_path)


@pytest.fixture
def pictures() -> PictureSet:
    return PictureSet.open("demo:train").subset(range(40))


def entries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.npz"))


def test_the_second_time_nothing_is_run(
    model: Artifact, pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrate_once(model, pictures, method="mse")
    monkeypatch.setattr(cache, "calibrate", None)  # calling it would now fail
    again = calibrate_once(model, pictures, method="mse")
    assert again.record == first.record
    assert again.record.pictures == first.record.pictures != ""
    for name, histogram in first.histograms.items():
        assert np.array_equal(again.histograms[name].counts, histogram.counts)
        assert (again.histograms[name].low, again.histograms[name].high) == (histogram.low, histogram.high)


def test_another_graph_other_pictures_or_another_recipe_are_calibrated_anew(
    model: Artifact, pictures: PictureSet, tmp_path: Path
) -> None:
    calibrate_once(model, pictures, method="minmax")
    calibrate_once(model, pictures.subset(range(39)), method="minmax")
    assert len(entries(tmp_path)) == 2
    recipe = structs.replace(model.manifest.preprocess, interpolation="nearest")
    calibrate_once(structs.replace(model, manifest=structs.replace(model.manifest, preprocess=recipe)), pictures, method="minmax")
    assert len(entries(tmp_path)) == 3
    calibrate_once(artifact_of(alexnet_like(seed=1), tmp_path, "other.onnx"), pictures, method="minmax")
    assert len(entries(tmp_path)) == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x04pickled"])
def test_a_damaged_entry_is_made_again(model: Artifact, pictures: PictureSet, tmp_path: Path, content: bytes) -> None:
    first = calibrate_once(model, pictures, method="minmax")
    (entry,) = entries(tmp_path)
    entry.write_bytes(content)
    assert calibrate_once(model, pictures, method="minmax").ranges == first.ranges
    assert entry.read_bytes() != content


def test_where_nothing_can_be_kept_the_calibration_is_given_all_the_same(
    model: Artifact, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = calibrate_once(model, pictures, method="minmax")
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", "/proc/nowhere")
    with caplog.at_level("INFO"):
        assert calibrate_once(model, pictures, method="minmax").ranges == kept.ranges
    assert "the calibration is not kept: cannot write in /proc/nowhere/calibration" in caplog.text
