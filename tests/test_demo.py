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
from page_figures import Tables, figures

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.gpu import gpus
from alexnet_deploy.types import GraphForm, Precision
from tests.browser import CHROMIUM, browser

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


def test_no_library_speaks_among_our_own_lines(demo: Demo) -> None:
    """PyTorch's exporter would, of what it translates; so would what a missing GPU makes nervous."""
    assert {line.partition(": ")[0] for line in demo.stderr.splitlines()} <= {"note", "warning"}


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


def test_a_figure_is_read_as_a_person_reads_it() -> None:
    assert figures("87.8 %") == [0.87849]
    assert figures("87.8 %") != [0.8786]
    assert figures("2.9e-02") == [0.0294]
    assert figures("-1.50 to +12.25") == [-1.499, 12.254]
    assert figures("14.3 MB") == [14_349_000]
    assert figures("1,459") != [1460]
    assert figures("–") == []


def test_the_page_shows_the_figures_of_the_json_and_no_others(demo: Demo) -> None:
    summary, *timings, changes, errors, classes = Tables((demo.folder / "report.html").read_text()).tables
    verified, speed = demo.report["verification"]["reports"], demo.report["speed"]["timings"]
    candidates = [report["candidate"]["file"] for report in verified]
    timed = {(timing["ran"]["file"], timing["batch"]): timing for timing in speed}

    assert [row["name"] for row in summary] == list(ARTIFACTS)
    for row, report in zip(summary, [None, *verified], strict=True):
        file = row["name"]
        accuracy = report["candidate_accuracy"] if report else verified[0]["reference_accuracy"]
        assert figures(row["size"]) == [(demo.folder / file).stat().st_size]
        assert figures(row["top-1"]) == [accuracy["top1"]["fraction"]]
        assert figures(row["agree"]) == ([report["agreement"]["fraction"]] if report else [])
        assert figures(row["max error"]) == ([report["error"]["relative"]] if report else [])
        assert figures(row["ms at 1"]) == [timed[file, 1]["p50_ms"]]
        assert figures(row["img/s at 32"]) == [timed[file, 32]["images_per_second"]]
        assert figures(row["speed-up"]) == [timed[file, 1]["speed_up"]]

    for batch, table in zip((1, 8, 32), timings, strict=True):
        assert [row["name"] for row in table] == list(ARTIFACTS)
        for row in table:
            timing = timed[row["name"], batch]
            for column, figure in (("p50 ms", "p50_ms"), ("p90 ms", "p90_ms"), ("p99 ms", "p99_ms"), ("runs", "runs")):
                assert figures(row[column]) == [timing[figure]]
            assert figures(row["images/s"]) == [timing["images_per_second"]]
            assert figures(row["speed-up"]) == [timing["speed_up"]]
            interval = timing["speed_up_interval"]
            assert figures(row["95 %"]) == ([interval["low"], interval["high"]] if interval else [])

    assert [row["name"] for row in changes] == [row["name"] for row in errors] == candidates
    for change, error, report in zip(changes, errors, verified, strict=True):
        paired, measured = report["difference"], report["error"]
        assert figures(change["change, points"]) == [-100 * paired["drop"]]
        assert figures(change["95 % interval"]) == [-100 * paired["interval"]["high"], -100 * paired["interval"]["low"]]
        assert (figures(change["lost"]), figures(change["gained"])) == ([paired["lost"]], [paired["gained"]])
        assert figures(change["McNemar"]) == [0.001 if "<" in change["McNemar"] else paired["p_value"]]
        assert ("<" in change["McNemar"]) == (paired["p_value"] < 0.001)
        assert figures(error["max, relative"]) == [measured["relative"]]
        assert figures(error["max, absolute"]) == [measured["max_abs"]]
        assert figures(error["mean"]) == [measured["mean_abs"]]
        assert figures(error["cosine"]) == [measured["cosine"]]
        assert figures(error["alone or in a batch"]) == [report["invariance"]["relative"]]
        assert figures(error["SQNR"]) == ([] if measured["sqnr_db"] is None else [measured["sqnr_db"]])

    for index, row in enumerate(classes):
        for column, report in (("reference", verified[0]), *zip(candidates, verified, strict=True)):
            counted = report["classes"][index]
            assert (row["name"], figures(row["pictures"])) == (counted["label"], [counted["total"]])
            right = counted["reference" if column == "reference" else "candidate"]
            assert figures(row[column]) == [right / counted["total"]]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_table_of_all_artifacts_is_seen_whole_on_a_usual_screen(demo: Demo, tmp_path: Path) -> None:
    """Nine columns: whoever widens one, or adds another, hides the last ones behind a scroll bar."""
    with browser(tmp_path / "profile") as page:
        page.send("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
        page.open((demo.folder / "report.html").as_uri())
        hidden = page.value("[...document.querySelectorAll('.scroll')].slice(0, 1).map(s => s.scrollWidth - s.clientWidth)")
    assert hidden == [0]


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
