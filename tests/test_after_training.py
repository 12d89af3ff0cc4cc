"""What a training leaves to look at: the diagnosis, the page, the model card, the curves."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexnet_deploy.cli import main
from alexnet_deploy.diagnosis import Diagnosis, _diagnosis, diagnose
from alexnet_deploy.errors import AlexnetDeployError, DataError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.report import plots
from alexnet_deploy.runtime import Runtime
from training.curves import Curves

CLASSES = ("ant", "bee", "cat")


def some(labels: list[int]) -> PictureSet:
    pixels = [np.full((4, 4, 3), 40 * label, np.uint8) for label in labels]
    return PictureSet("made", CLASSES, np.array(labels), pixels, [f"{i}.png" for i in range(len(labels))])


def test_a_diagnosis_counts_confusions_and_ranks_mistakes() -> None:
    answers = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.5, 0.05, 0.45], [np.nan] * 3]
    found = _diagnosis(some([0, 1, 1, 2, 2]), np.array(answers, np.float32))
    assert found.confusion == ((1, 0, 0), (1, 0, 1), (1, 0, 0))
    assert (found.top1.count, found.top1.total, found.unreadable) == (1, 4, 1)
    assert found.top5 is None  # of three classes
    assert [(m.name, m.truth, m.said) for m in found.mistakes] == [
        ("2.png", "bee", "cat"), ("1.png", "bee", "ant"), ("3.png", "cat", "ant"),
    ]  # fmt: skip
    assert found.recall(0).fraction == 1.0  # type: ignore[union-attr]
    assert sorted(found.confusions()) == [("bee", "ant", 1), ("bee", "cat", 1), ("cat", "ant", 1)]


def test_a_network_that_cannot_tell_classes_apart_is_right_by_chance_only() -> None:
    """The same probability for all of eight classes: the first five come first, in either figure."""
    classes = tuple("abcdefgh")
    found = _diagnosis(replace(some([0] * 8), classes=classes, labels=np.arange(8)), np.full((8, 8), 1 / 8, np.float32))
    assert found.top5 is not None
    assert (found.top1.count, found.top5.count) == (1, 5)


def test_nothing_to_diagnose_is_refused() -> None:
    with pytest.raises(DataError, match="can be read"):
        _diagnosis(some([0]), np.full((1, 3), np.nan, np.float32))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a training by the command line, and that of its pictures, one of which is broken."""
    data, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("out")
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 5)):
        for channel, name in enumerate(CLASSES):
            (data / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 200, (40, 40, 3), np.uint8)
                pixels[..., channel] += 20
                Image.fromarray(pixels).save(data / part / name / f"{index}.png")
    (data / "val" / "ant" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    command = ["train", "--data", str(data), "-o", str(out / "m.safetensors"), "--width", "0.05", "--input-size", "63"]
    command += ["--epochs", "2", "--batch-size", "8", "--html", str(out / "m.html"), "--log-dir", str(out / "logs"), "--json"]
    command += ["--data-licence", "CC BY 4.0 | ours", "--arch", "alexnet-tutorial"]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["history"]) == 2
    return out, data


def test_the_model_card_says_what_where_how_and_how_well(trained: tuple[Path, Path]) -> None:
    out, data = trained
    card = (out / "m.safetensors.md").read_text("utf-8")
    with Runtime(out / "m.safetensors") as runtime:
        found = diagnose(runtime, PictureSet.open(f"{data}:test"))
    assert f"| top-1 | {100 * found.top1.fraction:.1f} % |" in card
    assert "Gives probabilities of ant, bee, cat." in card
    assert f"Trained on 24 pictures of `{data / 'train'}`, SHA-256" in card
    assert "Licence of the data: CC BY 4.0 | ours." in card
    assert "| data licence | CC BY 4.0 \\| ours |" in card
    assert "1 picture could not be read" in card
    assert "| arch | alexnet-tutorial |" in card
    assert re.search(r"Written by alexnet-deploy \S+ on 20\d\d-", card)
    assert found.unreadable == 1


def test_the_page_shows_curves_confusion_and_mistakes_with_their_pictures(trained: tuple[Path, Path]) -> None:
    page = (trained[0] / "m.html").read_text("utf-8")
    for title in ("Progress", "Classes", "Worst mistakes", "Settings", "Confusion matrix"):
        assert title in page
    assert page.count("data:image/png") >= 1
    assert "http://" not in page


def test_curves_are_read_back_by_tensorboards_own_reader(trained: tuple[Path, Path]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / "logs"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"loss/train", "loss/validation", "accuracy/train", "accuracy/validation", "learning_rate", "step/loss"} <= names
    assert [event.step for event in events.Scalars("accuracy/validation")] == [1, 2]


def test_without_tensorboard_its_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(AlexnetDeployError, match=r"alexnet-deploy\[tensorboard\]"):
        Curves(tmp_path)


def test_a_confusion_matrix_draws_each_cell_and_says_the_mistakes() -> None:
    drawing = plots.confusion("Confusion", CLASSES, ((5, 1, 0), (0, 6, 0), (2, 0, 4)))
    assert drawing.count("<rect") == 9
    assert "ant taken for bee: 1; cat taken for ant: 2" in drawing


def test_many_classes_have_a_table_of_confusions_instead() -> None:
    from alexnet_deploy.report.training import _classes

    labels = np.repeat(np.arange(30), 2)
    said = np.eye(30, dtype=np.float32)[(labels + (np.arange(60) % 2)) % 30]
    names = tuple(f"class {i}" for i in range(30))
    pictures = PictureSet("made", names, labels, [np.zeros((2, 2, 3), np.uint8)] * 60, ["x"] * 60)
    found: Diagnosis = _diagnosis(pictures, said)
    assert "most frequent confusions" in _classes(found).body
