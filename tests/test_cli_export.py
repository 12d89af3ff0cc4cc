"""export, adopt and inspect as a person calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import foreign_models
import pytest
import torch
from click.testing import CliRunner, Result
from foreign_models import RECIPE, save

from alexnet_deploy.artifact import Artifact, manifest_path
from alexnet_deploy.cli import main
from alexnet_deploy.manifest import Preprocess
from training import checkpoint
from training.model import ModelConfig, build_model


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a checkpoint in it, and what `export` makes of it without being told more."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=0.05, classes=10, input_size=64))
    checkpoint.save(model, folder / "net.safetensors", preprocess=Preprocess(height=64, width=64), labels=tuple("abcdefghij"))
    environment = {"ALEXNET_DEPLOY_MODELS": str(folder), "COLUMNS": "100"}
    done = CliRunner().invoke(main, ["export", "--max-batch", "5"], env=environment)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "compared  with PyTorch on 32 pictures of demo:test" in done.stdout
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder."""
    monkeypatch.setenv("ALEXNET_DEPLOY_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return save(foreign_models.residual().model, tmp_path / "foreign.onnx")


def test_export_without_arguments_takes_the_newest_checkpoint(folder: Path) -> None:
    artifact = Artifact.open(folder / "net.onnx")
    assert artifact.manifest.batch.max == 5
    assert artifact.manifest.parents[0].file == "net.safetensors"


def test_export_without_a_checkpoint_says_what_makes_one(models: Path) -> None:
    result = call("export")
    assert result.exit_code == 2
    assert "alexnet-deploy train" in result.stderr


def test_export_of_a_truncated_checkpoint_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "net.safetensors"
    broken.write_bytes((folder / "net.safetensors").read_bytes()[:-10])
    manifest_path(broken).write_bytes(manifest_path(folder / "net.safetensors").read_bytes())
    result = call("export", broken, "-o", tmp_path / "net.onnx")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "net.onnx").exists()


def test_inspect_shows_layers_and_sums(folder: Path) -> None:
    result = call("inspect", folder / "net.onnx")
    assert result.exit_code == 0
    for words in ("features.0", "classifier.6", "multiply-adds", "10 classes", "fp32"):
        assert words in result.stdout


def test_inspect_gives_json(folder: Path) -> None:
    data = json.loads(call("inspect", folder / "net.onnx", "--json").stdout)
    assert data["graph"]["parameters"] == sum(layer["parameters"] for layer in data["graph"]["layers"])
    assert data["manifest"]["sha256"] == data["sha256"]


def test_inspect_reads_a_checkpoint_without_torch(folder: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['safetensors'] = None\n"
        "from alexnet_deploy.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(folder / "net.safetensors"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    tensors = {t["name"]: t["shape"] for t in json.loads(done.stdout)["tensors"]}
    assert tensors["features.0.weight"] == [8, 3, 11, 11]


@pytest.mark.parametrize("kept", [0, 4, 20, 2000, -1])
def test_inspect_refuses_a_truncated_checkpoint(folder: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes((folder / "net.safetensors").read_bytes()[:kept])
    result = call("inspect", path)
    assert result.exit_code == 2
    assert "no whole safetensors file" in result.stderr


def test_inspect_tells_a_plan_from_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + bytes(100))
    result = call("inspect", path)
    assert result.exit_code == 0
    assert "TensorRT for RTX 1.7.1.116" in result.stdout
    assert "has no manifest" in " ".join(result.stdout.split())


def test_inspect_says_when_a_file_is_not_the_one_of_its_manifest(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes((folder / "net.onnx").read_bytes())
    text = manifest_path(folder / "net.onnx").read_text()
    sha256 = json.loads(text)["sha256"]
    manifest_path(path).write_text(text.replace(sha256, "0" * 64))
    assert "not the one that its manifest was written for" in " ".join(call("inspect", path).stdout.split())


def test_inspect_draws_every_layer_that_computes(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.svg"
    result = call("inspect", folder / "net.onnx", "--svg", target)
    assert result.exit_code == 0
    drawing = ElementTree.parse(target).getroot()
    blocks = drawing.findall("{http://www.w3.org/2000/svg}g")
    named = {block.findtext("{http://www.w3.org/2000/svg}text") for block in blocks}
    assert {"input", "features.0", "features.10", "classifier.1", "classifier.6"} <= named
    assert "Conv + Relu" in target.read_text("utf-8")


def test_a_checkpoint_is_traced_to_be_drawn(folder: Path, tmp_path: Path) -> None:
    result = call("inspect", folder / "net.safetensors", "--svg", tmp_path / "net.svg")
    assert result.exit_code == 0
    assert "multiply-adds" in result.stdout
    assert "classifier.6" in (tmp_path / "net.svg").read_text("utf-8")


def test_a_plan_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "net.plan").write_bytes(b"vtrt" + bytes(100))
    result = call("inspect", tmp_path / "net.plan", "--svg", tmp_path / "net.svg")
    assert result.exit_code == 2
    assert "alexnet-deploy export" in result.stderr
    assert not (tmp_path / "net.svg").exists()


def test_a_layer_named_as_markup_stays_a_name(tmp_path: Path) -> None:
    model = foreign_models.residual().model
    model.graph.node[0].name = "<script>alert(1)</script>"
    path = save(model, tmp_path / "model.onnx")
    assert call("inspect", path, "--svg", tmp_path / "net.svg").exit_code == 0
    assert "<script" not in (tmp_path / "net.svg").read_text("utf-8")
    ElementTree.parse(tmp_path / "net.svg")


def test_inspect_refuses_what_is_no_artifact(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert call("inspect", path).exit_code == 2
    assert call("inspect", tmp_path / "nothing.onnx").exit_code == 2


def test_adopt_writes_an_artifact_into_the_models_folder(models: Path, foreign: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {i}" for i in range(10)) + "\n\n", "utf-8")
    result = call("adopt", foreign, "--preset", "torchvision", "--resize", "40", "--labels", labels)
    assert result.exit_code == 0, result.stderr
    manifest = Artifact.open(models / "foreign.adopted.onnx").manifest
    assert manifest.preprocess == Preprocess(height=32, width=32, resize=40)
    assert manifest.labels[9] == "class 9"


def test_adopt_asks_for_the_preprocessing_rather_than_guess_it(models: Path, foreign: Path) -> None:
    result = call("adopt", foreign)
    assert result.exit_code == 2
    assert "--preset torchvision" in result.stderr
    assert not models.exists()


def test_adopt_takes_every_number_by_itself(models: Path, foreign: Path) -> None:
    call_numbers = ["--scale", "1", "--mean", "103.9,116.8,123.7", "--std", "57,58,59", "--channel-order", "bgr"]
    result = call("adopt", foreign, *call_numbers, "--interpolation", "bicubic", "--layout", "nchw", "--crop", "32x32")
    assert result.exit_code == 0, result.stderr
    recipe = Artifact.open(models / "foreign.adopted.onnx").manifest.preprocess
    assert (recipe.scale, recipe.mean, recipe.std) == (1.0, (103.9, 116.8, 123.7), (57.0, 58.0, 59.0))
    assert (recipe.channel_order, recipe.interpolation) == ("bgr", "bicubic")


def test_one_number_counts_for_all_channels(models: Path, foreign: Path) -> None:
    assert call("adopt", foreign, "--scale", "1", "--mean", "127.5", "--std", "128").exit_code == 0
    recipe = Artifact.open(models / "foreign.adopted.onnx").manifest.preprocess
    assert (recipe.mean, recipe.std) == ((127.5,) * 3, (128.0,) * 3)


def test_adopt_can_put_the_preprocessing_into_the_graph(models: Path, foreign: Path) -> None:
    assert call("adopt", foreign, "--preset", "caffe", "--input", "uint8").exit_code == 0
    assert str(Artifact.open(models / "foreign.adopted.onnx").manifest.input) == "pixels uint8 (N, 32, 32, 3)"


@pytest.mark.parametrize(
    "options",
    [
        ["--preset", "torchvision", "--crop", "48"],
        ["--preset", "torchvision", "--layout", "nhwc"],
        ["--mean", "1,2"],
        ["--mean", "a,b,c"],
        ["--std", "0,1,1", "--mean", "0,0,0"],
        ["--scale", "nan"],
        ["--preset", "torchvision", "--crop", "big"],
        ["--preset", "torchvision", "--labels", "nowhere.txt"],
    ],
)
def test_adopt_refuses_options_that_do_not_fit(models: Path, foreign: Path, options: list[str]) -> None:
    result = call("adopt", foreign, *options)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert not models.exists()


def test_labels_that_are_no_text_are_refused(models: Path, foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.bin").write_bytes(b"\xff\xfe\x00\x80")
    result = call("adopt", foreign, "--preset", "pixels", "--labels", tmp_path / "labels.bin")
    assert result.exit_code == 2
    assert "no UTF-8 text" in result.stderr


def test_an_open_size_needs_a_crop(models: Path, tmp_path: Path) -> None:
    path = save(foreign_models.any_size().model, tmp_path / "open.onnx")
    assert "--crop 224" in call("adopt", path, "--preset", "torchvision").stderr
    assert call("adopt", path, "--preset", "torchvision", "--crop", "32").exit_code == 0


@pytest.mark.parametrize("name", ["truncated", "garbage", "empty"])
def test_adopt_of_a_broken_file_is_one_sentence(models: Path, foreign: Path, tmp_path: Path, name: str) -> None:
    content = {"truncated": foreign.read_bytes()[:500], "garbage": b"garbage" * 50, "empty": b""}[name]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(content)
    result = call("adopt", broken, "--preset", "torchvision")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert not models.exists()


def test_a_recipe_of_the_library_equals_the_preset() -> None:
    from alexnet_deploy.cli.preprocess_options import PreprocessOptions
    from alexnet_deploy.types import TensorSpec

    assert PreprocessOptions(preset="torchvision").recipe(TensorSpec("x", "float32", (None, 3, 32, 32))) == RECIPE
