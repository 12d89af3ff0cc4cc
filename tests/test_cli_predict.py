"""predict: files, folders and the demo set in; a table or JSON out; broken pictures reported, the rest done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from alexnet_deploy.cli import main
from alexnet_deploy.manifest import Artifact
from tests.tiny import LABELS, picture_batch, tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("tiny") / "model.onnx")


def predict(artifact: Artifact, *words: object) -> Result:
    return CliRunner().invoke(main, ["predict", str(artifact.path), *map(str, words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(picture_batch(1, seed=index)[0]).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def test_a_table_names_each_picture_and_its_class(artifact: Artifact, folder: Path) -> None:
    done = predict(artifact, folder / "0.png", folder, "--top", 2)
    assert done.exit_code == 0, done.output
    assert "4 pictures by onnxruntime" in done.stdout
    assert any(label in done.stdout for label in LABELS)


def test_json_holds_every_picture_in_order(artifact: Artifact, folder: Path) -> None:
    done = predict(artifact, folder, "demo:test", "--top", 1, "--json", "--batch", 7)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [Path(p["name"]).name for p in data["pictures"][:3]] == ["0.png", "1.png", "2.png"]
    assert len(data["pictures"]) == 1003
    assert all(len(p["predictions"]) == 1 for p in data["pictures"])
    assert data["ran"]["backend"] == "onnxruntime"


def test_broken_pictures_are_reported_and_do_not_stop_the_rest(artifact: Artifact, folder: Path) -> None:
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = predict(artifact, folder, folder / "none.jpg", "--json")
    assert done.exit_code == 2
    data = json.loads(done.stdout)
    assert [bool(p["error"]) for p in data["pictures"]] == [False, True, False, True]
    assert "1.png cannot be read" in done.stderr
    assert "none.jpg does not exist" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x.jpg", "--backend", "caffe"], "there is no backend 'caffe'"),
        (["demo:nonsense"], "nonsense"),
    ],
)
def test_mistakes_give_one_sentence_and_no_traceback(artifact: Artifact, words: list[str], sentence: str) -> None:
    done = predict(artifact, *words)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def test_an_empty_folder_is_said(artifact: Artifact, tmp_path: Path) -> None:
    done = predict(artifact, tmp_path)
    assert done.exit_code == 2
    assert "holds no pictures" in done.stderr
