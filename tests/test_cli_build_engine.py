"""`alexnet-deploy build-engine`, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec import structs
from onnx import numpy_helper
from PIL import Image

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.budget import BudgetReport, BudgetStep
from alexnet_deploy.cli import main
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.sensitivity import LayerSensitivity
from alexnet_deploy.report.budget import budget_section
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange, Precision
from tests.tiny import LABELS, picture_batch, tiny_artifact, tiny_graph

RTX = ("--target", "tensorrt-rtx")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with one FP32 graph, made from the demo data, in it."""
    folder = tmp_path / "models"
    monkeypatch.setenv("ALEXNET_DEPLOY_MODELS", str(folder))
    tiny_artifact(folder / "tiny.onnx", pictures=PictureSet.open("demo:train").sample(40).reference())
    return folder


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["build-engine", *map(str, arguments)])


def call_json(*arguments: str | Path) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def labelled(folder: Path) -> Path:
    """Two pictures of each of the tiny model's classes."""
    for index, label in enumerate(LABELS):
        (folder / "val" / label).mkdir(parents=True)
        for number, pixels in enumerate(picture_batch(2, seed=index)):
            Image.fromarray(pixels).save(folder / "val" / label / f"{number}.png")
    return folder / "val"


def labelled_by(model: Artifact, folder: Path) -> Path:
    """60 pictures of one colour each, in a folder of the class that the model itself answers."""
    colours = np.random.default_rng(0).integers(0, 256, (60, 1, 1, 3), np.uint8)
    pictures = np.broadcast_to(colours, (60, 16, 16, 3))
    with Runtime(model.path) as runtime:
        answers = runtime.logits(np.ascontiguousarray(pictures)).argmax(axis=1)
    for number, (picture, answer) in enumerate(zip(pictures, answers, strict=True)):
        where = folder / "own" / LABELS[answer] / f"{number}.png"
        where.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(where)
    return folder / "own"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".json")


def test_without_arguments_the_newest_fp32_graph_is_built(models: Path) -> None:
    call("--fp16", *RTX)
    os.utime(models / "tiny.fp16.onnx", (2e9, 2e9))  # newer, but not FP32
    result = call(*RTX)
    assert result.exit_code == 0, result.output
    assert names(models) == ["tiny.fp16.onnx", "tiny.fp16.plan", "tiny.fp32.plan", "tiny.onnx"]


def test_int8_leaves_both_graphs_and_the_plan(models: Path) -> None:
    report = call_json("--int8", "--calib-method", "minmax", "--calib-count", "40", *RTX)
    assert names(models) == ["tiny.int8.cpu.onnx", "tiny.int8.onnx", "tiny.int8.plan", "tiny.onnx"]
    assert [Path(a["path"]).name for a in report["artifacts"]] == ["tiny.int8.onnx", "tiny.int8.cpu.onnx", "tiny.int8.plan"]
    assert report["calibration"]["data"]["location"] == "demo:train"
    assert Artifact.open(models / "tiny.int8.plan").manifest.precision is Precision.INT8


def test_the_screen_tells_files_targets_and_the_twin(models: Path) -> None:
    result = call("--int8", "--calib", "demo", "--calib-count", "40", *RTX)
    assert result.exit_code == 0, result.output
    for piece in ("tiny.int8.plan", "int8 engine", "cpu form", "sm86", "40 pictures", "runs instead", "calibrate"):
        assert piece in result.stdout


def test_a_graph_that_is_quantised_already_is_built_as_it_is(models: Path) -> None:
    call("--fp16", *RTX)
    report = call_json(models / "tiny.fp16.onnx", "--max-batch", "2", *RTX)
    assert Path(report["artifacts"][-1]["path"]).name == "tiny.fp16.plan"
    assert report["batch"]["max"] == 2


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        ([], BatchRange(1, 4, 8)),
        (["--max-batch", "32"], BatchRange(1, 4, 32)),
        (["--max-batch", "2"], BatchRange(1, 2, 2)),
        (["--min-batch", "6"], BatchRange(6, 6, 8)),
        (["--opt-batch", "16"], BatchRange(1, 16, 16)),
        (["--min-batch", "2", "--opt-batch", "3", "--max-batch", "5"], BatchRange(2, 3, 5)),
    ],
)
def test_batch_options_that_are_left_out_follow_the_graph_and_the_others(
    models: Path, options: list[str], batch: BatchRange
) -> None:
    report = call_json(*options, *RTX)
    assert BatchRange(**report["batch"]) == batch


def test_an_accuracy_budget_is_held_and_reported(models: Path) -> None:
    options = ("--calib-method", "minmax", "--calib-count", "40", "--max-drop", "100", "--data", str(labelled(models.parent)))
    report = call_json("--int8", *options, *RTX)
    assert report["budget"]["max_drop"] == 100
    assert report["budget"]["steps"]
    assert report["skipped"] == []


def test_a_layer_that_costs_more_than_the_budget_is_given_back(models: Path) -> None:
    graph = tiny_graph()
    kernel, matrix = (next(w for w in graph.graph.initializer if w.name == name) for name in ("kernel", "matrix"))
    filters, rows = numpy_helper.to_array(kernel).copy(), numpy_helper.to_array(matrix).copy()
    filters[0], rows[0] = 0, 1e5  # a channel that is never seen, and weights for it that leave no steps to all others
    kernel.CopyFrom(numpy_helper.from_array(filters, "kernel"))
    matrix.CopyFrom(numpy_helper.from_array(rows, "matrix"))
    model = tiny_artifact(models / "spoilt.onnx", graph=graph, pictures=PictureSet.open("demo:train").sample(40).reference())
    photos = labelled_by(model, models.parent)

    without = call_json(model.path, "--int8", "--max-drop", "100", "--data", photos, *RTX)
    held = call_json(model.path, "--int8", "--max-drop", "1", "--data", photos, *RTX)
    assert max(without["budget"]["steps"][-1]["top1_change"].values()) < -20
    assert held["skipped"] == ["fc"]
    assert min(held["budget"]["steps"][-1]["top1_change"].values()) >= -1
    layers = {layer.layer: layer.precision for layer in Artifact.open(models / "spoilt.int8.plan").manifest.layers}
    assert layers == {"conv": Precision.INT8, "fc": Precision.FP16}


def test_a_page_shows_what_each_layer_costs_and_what_is_clipped(models: Path, tmp_path: Path) -> None:
    page = tmp_path / "engine.html"
    result = call("--int8", *RTX, "--calib-count", "40", "--max-drop", "50", "--data", labelled(tmp_path), "--html", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "At most 50 points, on" in text
    assert "Values of input" in text
    assert "tiny.int8.cpu.onnx" in text


def test_the_page_marks_the_layers_that_were_given_back() -> None:
    layers = [
        LayerSensitivity(layer=n, op="Conv", sqnr_db=db, agreement=0.9, top1_change=-1.0) for n, db in (("a", 12), ("b", 30))
    ]
    steps = [
        BudgetStep(skipped=s, top1_change={"tensorrt": -d}, agreement={"tensorrt": 1.0}) for s, d in (((), 5.0), (("a",), 0.1))
    ]
    drawn = str(budget_section(BudgetReport(max_drop=0.5, pictures=100, steps=tuple(steps), layers=tuple(layers))).body)
    assert "12.0 dB, -1.00 points" in drawn
    assert drawn.count("var(--c2)") == 1  # a, and only a
    assert "-5.00 points" in drawn


def test_a_foreign_graph_is_adopted_first(models: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign" / "net.onnx"
    foreign.parent.mkdir()
    foreign.write_bytes(tiny_graph().SerializeToString())
    refused = call(foreign, "--fp16", *RTX)
    assert refused.exit_code == 2
    assert "has no manifest" in refused.stderr
    report = call_json(foreign, "--preset", "torchvision", "--fp16", *RTX)
    assert Path(report["artifacts"][-1]["path"]) == models / "net.adopted.fp16.plan"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.onnx"], "missing.onnx does not exist"),
        (["--sm", "90"], "cannot build for sm90"),
        (["--sm", "current,86"], "cannot stand beside"),
        (["--min-batch", "8", "--max-batch", "4"], "8..4..4 is not"),
        (["--int8", "--calib", "nowhere"], "nowhere does not exist"),
        (["--int8", "--skip", "no-such-layer"], "no-such-layer"),
        (["--int8", "--calib-method", "magic"], "magic"),
        (["--int8", "--calib-count", "3"], "pictures"),
        (["--fp16", "--max-drop", "1"], "--max-drop is for int8 and fp8"),
        (["--int8", "--fp16"], "--int8 and --fp16 exclude each other"),  # trtexec takes both
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(models: Path, arguments: list[str], says: str) -> None:
    result = call(*arguments, *RTX)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert names(models) == ["tiny.onnx"]


@pytest.mark.parametrize("words", [[], ["--int8"]])
def test_a_checkpoint_has_to_be_exported_first(models: Path, words: list[str]) -> None:
    manifest = structs.replace(Artifact.open(models / "tiny.onnx").manifest, kind="checkpoint")
    saved = write_artifact(models / "net.safetensors", manifest, b"weights")
    result = call(saved.path, *words, *RTX)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: net.safetensors is a checkpoint; expected an ONNX graph. Try: alexnet-deploy export {saved.path}\n"
    )


def test_an_empty_models_folder_says_what_makes_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_MODELS", str(tmp_path))
    result = call("--fp16")
    assert result.exit_code == 2
    assert "alexnet-deploy export" in result.stderr


def test_a_folder_that_cannot_be_written_to_is_said(models: Path) -> None:
    result = call("--fp16", "-o", "/proc/nowhere/x.plan", *RTX)
    assert result.exit_code == 2
    assert "cannot write in /proc/nowhere" in result.stderr


PRESSED = """
import logging, signal, sys
from alexnet_deploy.cli import main

class Pressed(logging.Handler):
    def emit(self, record):
        if sys.argv[1] in record.getMessage():
            log.removeHandler(self)
            print("pressed", file=sys.stderr)
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would their children
log = logging.getLogger("alexnet_deploy")
log.setLevel(logging.DEBUG)
log.addHandler(Pressed())
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["int8.onnx,", "int8.cpu.onnx,", "Parsing node", "optimization profile", "int8.plan,"])
def test_ctrl_c_ends_with_130_and_nothing_half_written(moment: str, models: Path) -> None:
    words = ["build-engine", "--int8", *RTX]
    done = subprocess.run([sys.executable, "-c", PRESSED, moment, *words], capture_output=True, text=True)
    assert "pressed" in done.stderr
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert not [p.name for p in models.iterdir() if p.name.endswith(".tmp")]
    for path in models.glob("*.json"):
        Artifact.open(path.with_suffix(""))
