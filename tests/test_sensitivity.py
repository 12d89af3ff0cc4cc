from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.budget import hold_budget
from alexnet_deploy.errors import DataError, DataWarning, GateMissed
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.sensitivity import Trials, choose_skip, measure, sqnr_db, top1_change, worst_first
from tests.small_nets import alexnet_like, artifact_of

WORST = "conv2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(alexnet_like(), tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def calibration(model: Artifact) -> Calibration:
    return calibrate(model, PictureSet.open("demo:train").subset(range(48)), method="mse")


@pytest.fixture(scope="module")
def spoilt(calibration: Calibration, model: Artifact) -> Calibration:
    """A calibration whose range for one layer is 30 times too wide: that layer keeps about two bits."""
    tensor = next(layer.data for layer in Trials(model, calibration, evaluation().subset([0])).layers if layer.name == WORST)
    low, high = calibration.ranges[tensor]
    ranges = {**calibration.ranges, tensor: (low * 30, high * 30)}
    return replace(calibration, record=structs.replace(calibration.record, ranges=ranges))


@pytest.fixture(scope="module")
def spoilt_thrice(calibration: Calibration, model: Artifact) -> Calibration:
    """Three of five layers keep about two bits each: no one of them holds a budget by itself, nor two."""
    spoilt = [layer.data for layer in find_layers(load_graph(model.path)) if layer.name in ("conv2", "conv3", "fc1")]
    ranges = {name: (30 * low, 30 * high) if name in spoilt else (low, high) for name, (low, high) in calibration.ranges.items()}
    histograms: dict[str, Histogram] = {}  # both forms take the ranges of the record then
    return replace(calibration, record=structs.replace(calibration.record, ranges=ranges), histograms=histograms)


def evaluation() -> PictureSet:
    return PictureSet.open("demo:test").subset(range(96))


def labelled_by(model: Artifact, calibration: Calibration, pictures: PictureSet) -> PictureSet:
    """The pictures with the float32 graph's own answers as their labels: its accuracy is 100 %."""
    own = Trials(model, calibration, pictures).reference.argmax(axis=1)
    return replace(pictures, labels=own.astype(np.int64))


def test_the_spoilt_layer_is_found(model: Artifact, spoilt: Calibration) -> None:
    table = measure(Trials(model, spoilt, evaluation()))
    assert worst_first(table)[0] == WORST
    assert [row.layer for row in table] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert all(row.top1_change is None for row in table)


def test_skip_auto_leaves_the_spoilt_layer_alone(model: Artifact, spoilt: Calibration) -> None:
    assert choose_skip(model, spoilt, evaluation(), target=0.9) == (WORST,)


def test_skip_auto_leaves_nothing_alone_where_nothing_is_wrong(model: Artifact, calibration: Calibration) -> None:
    assert choose_skip(model, calibration, evaluation(), target=0.8) == ()


def test_the_budget_gives_back_the_layer_that_costs_most(model: Artifact, spoilt: Calibration) -> None:
    pictures = labelled_by(model, spoilt, evaluation())
    report = hold_budget(model, spoilt, pictures, max_drop=8.0)
    assert report.skipped == (WORST,)
    assert report.steps[0].worst_drop > 8.0 >= report.steps[-1].worst_drop
    assert {row.layer for row in report.layers} == {"conv1", "conv2", "conv3", "fc1", "fc2"}


def test_the_budget_goes_on_until_it_holds_and_stops_there(model: Artifact, spoilt_thrice: Calibration) -> None:
    pictures = labelled_by(model, spoilt_thrice, evaluation())
    report = hold_budget(model, spoilt_thrice, pictures, max_drop=6.0)
    assert set(report.skipped) == {"conv2", "conv3", "fc1"}
    assert set(report.steps[-1].top1_change) == {"tensorrt", "cpu"}
    assert report.steps[-1].worst_drop <= 6.0
    assert all(step.worst_drop > 6.0 for step in report.steps if len(step.skipped) < 3)
    assert len(report.steps) <= 2 * np.log2(5) + 2


def test_a_budget_that_holds_at_once_skips_nothing(model: Artifact, calibration: Calibration) -> None:
    report = hold_budget(model, calibration, labelled_by(model, calibration, evaluation()), max_drop=30.0)
    assert (report.skipped, report.layers, len(report.steps)) == ((), (), 1)


def test_a_budget_that_cannot_hold_is_a_missed_gate(model: Artifact, calibration: Calibration) -> None:
    with pytest.raises(GateMissed, match=r"points of top-1 even with .* more than --max-drop -50"):
        hold_budget(model, calibration, labelled_by(model, calibration, evaluation()), max_drop=-50.0)


def test_pictures_without_labels_are_refused(model: Artifact, calibration: Calibration) -> None:
    pictures = replace(evaluation(), classes=(), labels=np.full(96, -1))
    with pytest.raises(DataError, match="no labels"):
        hold_budget(model, calibration, pictures, max_drop=1.0)


def test_evaluating_on_calibration_pictures_is_warned_of(model: Artifact, calibration: Calibration) -> None:
    pictures = labelled_by(model, calibration, PictureSet.open("demo:train").subset(range(40, 80)))
    with pytest.warns(DataWarning, match="8 of 40 evaluation pictures were calibrated on"):
        hold_budget(model, calibration, pictures, max_drop=50.0)


def test_sqnr_is_in_decibels() -> None:
    signal = np.array([[1.0, -1.0], [-1.0, 1.0]], np.float32)
    assert sqnr_db(signal, signal * np.float32(1.1)) == pytest.approx(20, abs=0.01)
    assert sqnr_db(signal, signal + 5) == 200  # what is common to all classes is no error


def test_a_change_of_accuracy_counts_labelled_pictures_alone() -> None:
    reference = np.eye(4, dtype=np.float32)
    worse = reference[[0, 1, 3, 2]]
    assert top1_change(reference, worse, np.array([0, 1, 2, -1])) == pytest.approx(-100 / 3)
