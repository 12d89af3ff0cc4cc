"""An FP32 graph to an engine of every precision, with real calibration, real quantisation and real builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.engine import PRECISIONS, EngineReport, build_engine, graph_stem
from alexnet_deploy.errors import BackendMissing, CalibrationError, FallbackWarning, InputError, ModelError
from alexnet_deploy.gpu import gpus
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt import adapter
from alexnet_deploy.types import Flavour, GraphForm, Precision
from tests.tiny import float_batch, tiny_artifact, tiny_graph

RTX = Flavour.TENSORRT_RTX
PICTURES = PictureSet.open("demo:train").sample(64)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("engine") / "tiny.onnx", pictures=PICTURES.reference())


@pytest.fixture(scope="module", params=list(PRECISIONS))
def report(request: pytest.FixtureRequest, onnx: Artifact) -> EngineReport:
    precision: Precision = request.param
    output = onnx.path.with_name(f"tiny.{precision}.plan")
    return build_engine(onnx, output, precision, pictures=PICTURES, method="minmax", count=48, flavour=RTX)


FILES = {
    Precision.FP32: ["tiny.onnx", "tiny.fp32.plan"],
    Precision.FP16: ["tiny.fp16.onnx", "tiny.fp16.plan"],
    Precision.BF16: ["tiny.bf16.onnx", "tiny.onnx", "tiny.bf16.plan"],
    Precision.INT8: ["tiny.int8.onnx", "tiny.int8.cpu.onnx", "tiny.int8.plan"],
    Precision.FP8: ["tiny.fp8.onnx", "tiny.fp8.plan"],
}


def test_every_file_is_named_and_really_there(report: EngineReport) -> None:
    assert [a.path.name for a in report.artifacts] == FILES[report.plan.manifest.precision]
    for artifact in report.artifacts:
        assert Artifact.open(artifact.path).manifest == artifact.manifest


def test_every_layer_of_a_plan_computes_in_what_the_plan_is_called(report: EngineReport) -> None:
    manifest = report.plan.manifest
    assert {layer.layer: layer.precision for layer in manifest.layers} == {"conv": manifest.precision, "fc": manifest.precision}


def test_lineage_leads_back_to_the_fp32_graph(report: EngineReport, onnx: Artifact) -> None:
    assert onnx.manifest.sha256 in {parent.sha256 for parent in report.plan.manifest.parents}


def test_the_twin_answers_like_the_fp32_graph_without_a_gpu(report: EngineReport, onnx: Artifact) -> None:
    pixels = np.stack([PICTURES.picture(i) for i in range(32)])
    with Runtime(onnx.path, device="cpu") as reference, Runtime(report.plan.path, device="cpu") as twin:
        assert twin.twin_of == report.plan.path
        wanted, found = reference.logits(pixels), twin.logits(pixels)
    allowed = {Precision.FP32: 1e-6, Precision.FP16: 0.01, Precision.BF16: 1e-6, Precision.INT8: 0.1, Precision.FP8: 0.2}
    assert np.abs(found - wanted).max() <= allowed[report.plan.manifest.precision] * np.abs(wanted).max()


def test_calibration_is_recorded_where_there_was_one(report: EngineReport) -> None:
    if report.plan.manifest.precision in (Precision.INT8, Precision.FP8):
        assert report.calibration is not None
        assert (report.calibration.method, report.calibration.data.count) == ("minmax", 48)
        assert list(report.seconds) == ["calibrate", "quantize", "build"]
        record = report.plan.manifest.calibration
        assert record is not None
        assert record.data == report.calibration.data
    else:
        assert report.calibration is report.plan.manifest.calibration is None


def test_an_int8_graph_is_written_once_for_tensorrt_and_once_for_the_cpu(onnx: Artifact, tmp_path: Path) -> None:
    made = build_engine(onnx, tmp_path / "engine.plan", Precision.INT8, method="minmax", count=40, flavour=RTX)
    assert [(a.path.name, a.manifest.form) for a in made.artifacts[:2]] == [
        ("engine.int8.onnx", GraphForm.TENSORRT),
        ("engine.int8.cpu.onnx", GraphForm.CPU),
    ]
    assert made.plan.manifest.form is GraphForm.TENSORRT
    assert made.plan.manifest.twin is not None
    assert made.plan.manifest.twin.file == "engine.int8.cpu.onnx"


def test_a_plan_elsewhere_takes_its_twin_along(onnx: Artifact, tmp_path: Path) -> None:
    for precision in (Precision.FP32, Precision.BF16):
        plan = build_engine(onnx, tmp_path / f"{precision}.plan", precision, flavour=RTX).plan
        twin = plan.twin()
        assert twin is not None
        assert (twin.path.parent, twin.manifest.sha256) == (tmp_path, onnx.manifest.sha256)


def test_a_quantised_graph_builds_as_it_is_with_its_cpu_form_as_twin(onnx: Artifact, tmp_path: Path) -> None:
    first = build_engine(onnx, tmp_path / "a.int8.plan", Precision.INT8, method="minmax", count=40, flavour=RTX)
    again = build_engine(first.artifacts[0], tmp_path / "other" / "b.plan", Precision.INT8, flavour=RTX)
    assert [a.path.name for a in again.artifacts] == ["a.int8.onnx", "a.int8.cpu.onnx", "b.plan"]
    assert again.plan.manifest.twin is not None
    assert again.plan.manifest.twin.file == "a.int8.cpu.onnx"
    assert again.plan.twin() is not None


def test_a_quantised_graph_cannot_become_another_precision(onnx: Artifact, tmp_path: Path) -> None:
    half = build_engine(onnx, tmp_path / "a.fp16.plan", Precision.FP16, flavour=RTX).artifacts[0]
    with pytest.raises(InputError, match=r"a\.fp16\.onnx is fp16 already"):
        build_engine(half, tmp_path / "b.plan", Precision.INT8, flavour=RTX)


def test_the_pictures_it_was_trained_on_are_the_default(onnx: Artifact, tmp_path: Path) -> None:
    made = build_engine(onnx, tmp_path / "x.plan", Precision.INT8, method="minmax", count=33, flavour=RTX)
    assert made.calibration is not None
    assert (made.calibration.data.location, made.calibration.data.count) == ("demo:train", 33)


def test_without_any_pictures_int8_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="does not say what it was trained on") as caught:
        build_engine(tiny_artifact(tmp_path / "t.onnx"), tmp_path / "x.plan", Precision.INT8, flavour=RTX)
    assert caught.value.fix == "--calib FOLDER"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.onnx", "t.onnx.json"]


def test_what_cannot_be_built_is_said_before_the_calibration(
    onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with pytest.raises(InputError, match="cannot build for sm90"):
        build_engine(
            onnx,
            tmp_path / "x.plan",
            Precision.INT8,
            flavour=RTX,
            capabilities=["90"],
            progress=lambda task, done, total, note="": told.append(task),
        )
    monkeypatch.setattr(adapter, "installed", lambda flavour: False)
    with pytest.raises(BackendMissing):
        build_engine(onnx, tmp_path / "x.plan", Precision.INT8)
    assert told == []
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_tensorrt_cannot_parse_is_refused_before_the_calibration(tmp_path: Path) -> None:
    told: list[str] = []
    graph = tiny_graph()
    graph.graph.node.insert(0, helper.make_node("Bernoulli", ["input"], ["drawn"], name="a draw"))
    graph.graph.node[1].input[0] = "drawn"
    with pytest.raises(ModelError, match=r"cannot parse odd\.onnx: .*Bernoulli"):
        build_engine(
            tiny_artifact(tmp_path / "odd.onnx", graph=graph),
            tmp_path / "x.plan",
            Precision.INT8,
            pictures=PICTURES,
            flavour=RTX,
            progress=lambda task, done, total, note="": told.append(task),
        )
    assert told == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.onnx", "odd.onnx.json"]


def test_skipped_layers_stay_in_half_precision(onnx: Artifact, tmp_path: Path) -> None:
    made = build_engine(onnx, tmp_path / "x.plan", Precision.INT8, method="minmax", count=40, skip=["last"], flavour=RTX)
    assert {layer.layer: layer.precision for layer in made.plan.manifest.layers} == {
        "conv": Precision.INT8,
        "fc": Precision.FP16,
    }


def test_layers_are_skipped_by_sensitivity(onnx: Artifact, tmp_path: Path) -> None:
    made = build_engine(onnx, tmp_path / "x.plan", Precision.INT8, method="minmax", count=40, skip=["auto", "first"], flavour=RTX)
    assert list(made.seconds) == ["calibrate", "choose layers", "quantize", "build"]
    assert made.skipped[0] == "first"
    assert "auto" not in made.skipped


def test_what_is_not_for_tensorrt_is_said(onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not compute in int4"):
        build_engine(onnx, tmp_path / "x.plan", Precision.INT4, flavour=RTX)


@pytest.mark.parametrize(
    ("plan", "stem"), [("alexnet.int8.plan", "alexnet.int8"), ("alexnet.plan", "alexnet.int8"), ("a.b.engine", "a.b.int8")]
)
def test_graphs_made_for_a_plan_are_named_after_it(plan: str, stem: str) -> None:
    assert graph_stem(Path(plan), Precision.INT8) == stem


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU, so the plan itself runs")
def test_a_plan_without_a_gpu_warns_that_its_twin_runs(onnx: Artifact, tmp_path: Path) -> None:
    plan = build_engine(onnx, tmp_path / "x.plan", Precision.FP32, flavour=RTX).plan
    with pytest.warns(FallbackWarning, match=r"its twin tiny\.onnx runs on the CPU"), Runtime(plan.path) as runtime:
        assert runtime.logits(float_batch(3)).shape == (3, 7)
