"""The demo: every file that it promises, and a report that says what really ran."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Demo

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.gpu import gpus
from alexnet_deploy.types import GraphForm, Precision

ARTIFACTS = {
    "alexnet.safetensors": (Precision.FP32, None),
    "alexnet.onnx": (Precision.FP32, None),
    "alexnet.fp16.onnx": (Precision.FP16, None),
    "alexnet.int8.onnx": (Precision.INT8, GraphForm.TENSORRT),
    "alexnet.int8.cpu.onnx": (Precision.INT8, GraphForm.CPU),
    "alexnet.fp16.plan": (Precision.FP16, None),
    "alexnet.int8.plan": (Precision.INT8, GraphForm.TENSORRT),
}


def test_it_leaves_every_artifact_with_its_manifest_and_two_reports_and_nothing_else(demo: Demo) -> None:
    expected = {*ARTIFACTS, *(f"{name}.json" for name in ARTIFACTS), "report.json", "report.html"}
    assert {path.name for path in demo.folder.iterdir()} == expected


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_artifact_is_what_its_manifest_says(demo: Demo, name: str) -> None:
    manifest = Artifact.open(demo.folder / name).manifest
    precision, form = ARTIFACTS[name]
    assert manifest.precision == precision
    if manifest.kind == "onnx":
        assert manifest.form == form
    assert len(manifest.labels) == 10
    assert manifest.pictures is not None
    assert manifest.pictures.location == "demo:train"


def test_quantised_files_are_much_smaller(demo: Demo) -> None:
    sizes = {name: (demo.folder / name).stat().st_size for name in ARTIFACTS}
    assert sizes["alexnet.fp16.onnx"] < 0.55 * sizes["alexnet.onnx"]
    assert sizes["alexnet.int8.onnx"] < 0.35 * sizes["alexnet.onnx"]
    assert sizes["alexnet.int8.cpu.onnx"] < 0.35 * sizes["alexnet.onnx"]


def test_int8_was_calibrated_on_training_pictures_and_says_how(demo: Demo) -> None:
    record = Artifact.open(demo.folder / "alexnet.int8.plan").manifest.calibration
    assert record is not None
    assert record.data.location == "demo:train"
    assert record.data.count == 64
    assert demo.report["calibration"]["method"] == record.method


def test_every_artifact_is_verified_against_the_checkpoint_and_timed(demo: Demo) -> None:
    reports = demo.report["verification"]["reports"]
    assert {report["reference"]["file"] for report in reports} == {"alexnet.safetensors"}
    assert [report["candidate"]["file"] for report in reports] == list(ARTIFACTS)[1:]
    assert {timing["ran"]["file"] for timing in demo.report["speed"]["timings"]} == set(ARTIFACTS)
    assert {timing["batch"] for timing in demo.report["speed"]["timings"]} == {1, 8, 32}


def test_a_plan_that_did_not_run_itself_is_said_to_be_its_twin(demo: Demo) -> None:
    page = (demo.folder / "report.html").read_text()
    for report in demo.report["verification"]["reports"]:
        ran = report["candidate"]
        twin_ran = ran["kind"] == "plan" and not gpus()
        assert (ran["twin_of"] == ran["file"]) == twin_ran
        assert (f"{ran['file']} did not run itself" in page) == twin_ran
        if twin_ran:
            assert ran["backend"] == "onnxruntime"
            assert f"warning: {ran['file']}" in demo.stderr


def test_the_json_report_is_what_was_printed(demo: Demo) -> None:
    written = json.loads((demo.folder / "report.json").read_text())
    assert written["verification"] == demo.report["verification"]
    assert [step["name"] for step in written["steps"]] == [
        "train",
        "export",
        "build FP16",
        "calibrate and build INT8",
        "verify",
        "benchmark",
    ]


def printed(report: dict[str, Any], width: int) -> str:
    import msgspec
    from rich.console import Console

    from alexnet_deploy.demo import DemoReport
    from alexnet_deploy.report.demo import demo as show

    out = io.StringIO()
    found = msgspec.convert(report, DemoReport, strict=False, dec_hook=lambda kind, value: kind(value))
    show(found)(Console(file=out, width=width))
    return out.getvalue()


def test_a_machine_that_was_busy_is_told_of_beside_the_figures(demo: Demo) -> None:
    busy, quiet = ({**demo.report, "speed": {**demo.report["speed"], "warnings": w}} for w in (["others were busy"], []))
    assert "Warning: others were busy." in printed(busy, 80)
    assert "Warning" not in printed(quiet, 80)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_last_table_fits_the_terminal(demo: Demo, width: int) -> None:
    text = printed(demo.report, width)
    # The folder's own path may be longer than any terminal; the table may not.
    assert all(len(line) <= width for line in text.split("Report:")[0].splitlines())
    assert all(name in text for name in ARTIFACTS)


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    program = Path(sys.executable).with_name("alexnet-deploy")
    done = subprocess.run([program, "demo", "-o", tmp_path / "taken"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
