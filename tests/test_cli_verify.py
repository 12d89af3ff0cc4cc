"""alexnet-deploy verify: exit codes, gates, JSON and the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny import tiny_artifact, tiny_graph
from tiny_pictures import picture_set

from alexnet_deploy.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models that differ by a constant, and two pictures of each class."""
    tiny_artifact(tmp_path / "one.onnx")
    tiny_artifact(tmp_path / "two.onnx", graph=tiny_graph(bias=0.5))
    pictures = picture_set(14)
    for index in range(len(pictures)):
        path = tmp_path / "photos" / pictures.classes[pictures.labels[index]] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.picture(index)).save(path)
    return tmp_path


def verify(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(
        main, ["verify", str(folder / "one.onnx"), str(folder / "two.onnx"), "--data", str(folder / "photos"), *words]
    )


def test_without_gates_it_reports_and_exits_0(folder: Path) -> None:
    done = verify(folder)
    assert done.exit_code == 0, done.output
    assert "two.onnx" in done.stdout
    assert "14 pictures" in done.stdout


def test_a_missed_gate_exits_1_and_names_both_numbers(folder: Path) -> None:
    done = verify(folder, "--max-error", "0.001", "--min-agreement", "99")
    assert done.exit_code == 1
    assert "missed: two.onnx is off by" in done.stderr
    assert "--max-error allows 0.001" in done.stderr
    assert "--min-agreement" not in done.stderr


def test_gates_that_are_met_exit_0_and_say_so(folder: Path) -> None:
    done = verify(folder, "--max-drop", "0", "--min-agreement", "100")
    assert done.exit_code == 0
    assert "every gate passed" in done.stdout


def test_json_is_one_object_with_everything_that_ran(folder: Path) -> None:
    done = verify(folder, "--json", "--max-error", "0.001")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    (report,) = found["reports"]
    assert report["candidate"]["backend"] == "onnxruntime"
    assert report["candidate"]["twin_of"] is None
    assert report["agreement"]["fraction"] == 1
    assert report["error"]["relative"] > 0.001
    assert found["missed"] == report["missed"]
    assert len(report["missed"]) == 1


def test_identical_models_are_valid_json_too(folder: Path) -> None:
    """The noise is zero then, and JSON has no infinity."""
    done = CliRunner().invoke(
        main, ["verify", str(folder / "one.onnx"), str(folder / "one.onnx"), "--data", str(folder / "photos"), "--json"]
    )
    assert json.loads(done.stdout)["reports"][0]["error"]["sqnr_db"] is None


def test_the_page_is_written(folder: Path) -> None:
    done = verify(folder, "--html", str(folder / "out" / "page.html"))
    assert done.exit_code == 0
    assert (folder / "out" / "page.html").read_text().startswith("<!doctype html>")


def test_only_so_many_pictures(folder: Path) -> None:
    assert json.loads(verify(folder, "--count", "7", "--json").stdout)["reports"][0]["pictures"]["count"] == 7


def test_classes_are_shown_when_asked_for(folder: Path) -> None:
    assert "elk" in verify(folder, "--classes").stdout
    assert "elk" not in verify(folder).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one.onnx", "two.onnx"], "no pictures to compare one.onnx on"),
        (["one.onnx", "gone.onnx", "--data", "photos"], "gone.onnx does not exist"),
        (["one.onnx", "two.onnx", "--data", "gone"], "gone does not exist"),
        (["one.onnx", "two.onnx", "--data", "photos", "--min-agreement", "990"], "0 to 100 percent"),
        (["one.onnx", "two.onnx", "--data", "photos", "--max-drop", "nan"], "largest drop of nan"),
        (["one.onnx", "two.onnx", "--data", "photos", "--backend", "none"], "there is no backend 'none'"),
        (["one.onnx", "two.onnx", "--data", "demo:test"], "does not know the classes"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_sentence(
    folder: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["verify", *words])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_broken_picture_is_named(folder: Path) -> None:
    (folder / "photos" / "ant" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    done = verify(folder)
    assert done.exit_code == 2
    assert "broken.jpg cannot be read as a picture" in done.stderr


def test_it_runs_as_a_process_in_a_narrow_terminal_without_colour(folder: Path) -> None:
    program = [Path(sys.executable).with_name("alexnet-deploy"), "verify", "one.onnx", "two.onnx", "--data", "photos"]
    environment = {"COLUMNS": "60", "NO_COLOR": "1", "PATH": ""}
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "\x1b" not in done.stdout + done.stderr
