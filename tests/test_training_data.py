"""Training pictures: split, order, augmentation, and pictures that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.errors import DataError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import normalise
from training.batches import Augmentation, TrainingBatches, ValidationBatches
from training.data import open_split

WHOLE = Preprocess(height=24, width=24)
CENTRE = Preprocess(height=24, width=24, resize=28)
STILL = Augmentation(flip=False, shift=0)


def write_pictures(folder: Path, classes: dict[str, int], seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("photos"), {"ant": 20, "bee": 15, "cat": 5})


def test_a_tenth_of_every_class_is_held_out_and_nothing_is_in_both(folder: Path) -> None:
    split = open_split(folder, seed=0)
    assert np.bincount(split.validation.labels).tolist() == [2, 2, 1]
    assert sorted([*split.train.names, *split.validation.names]) == sorted(PictureSet.open(folder).names)


def test_the_seed_decides_what_is_held_out(folder: Path) -> None:
    names = [tuple(open_split(folder, seed).validation.names) for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_a_validation_folder_is_found(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path / "train", {"a": 2, "b": 2})
    write_pictures(tmp_path / name, {"a": 1, "b": 1})
    split = open_split(tmp_path, 0)
    assert (len(split.train), len(split.validation)) == (4, 2)


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "one", {"only": 3})
    write_pictures(tmp_path / "few", {"a": 3, "b": 1})
    write_pictures(tmp_path / "lone" / "train", {"a": 2, "b": 2})
    write_pictures(tmp_path / "differ" / "train", {"a": 2, "b": 2})
    write_pictures(tmp_path / "differ" / "val", {"a": 2, "c": 2})
    for name, reason in {
        "one": "one class",
        "few": "one picture",
        "lone": "no validation",
        "differ": "different classes: b, c",
        "one/only": "no class folders",
        "none": "does not exist",
    }.items():
        with pytest.raises(DataError, match=reason):
            open_split(tmp_path / name, 0)


def test_the_demo_is_measured_on_its_test_pictures() -> None:
    split = open_split("demo", 0)
    assert (split.train.location, split.validation.location) == ("demo:train", "demo:test")


def test_an_epoch_shows_every_picture_once_and_the_next_in_another_order(folder: Path) -> None:
    pictures = PictureSet.open(folder)
    batches = TrainingBatches(pictures, WHOLE, STILL, batch_size=8, seed=0)
    assert batches.steps == 5
    epochs = [np.concatenate([batch for batch, _ in batches.epoch(epoch)]) for epoch in (0, 1)]
    expected = np.concatenate([batch for batch, _ in ValidationBatches(pictures, WHOLE, 8)])
    assert not np.array_equal(*epochs)
    for seen in epochs:
        np.testing.assert_array_equal(np.sort(seen.reshape(40, -1), axis=0), np.sort(expected.reshape(40, -1), axis=0))


@pytest.mark.parametrize("recipe", [WHOLE, CENTRE])
def test_an_epoch_begun_in_its_middle_goes_on_as_it_would_have(folder: Path, recipe: Preprocess) -> None:
    pictures = PictureSet.open(folder)
    whole = list(TrainingBatches(pictures, recipe, Augmentation(), 8, seed=3).epoch(2))
    resumed = list(TrainingBatches(pictures, recipe, Augmentation(), 8, seed=3).epoch(2, first_step=3))
    assert len(resumed) == 2
    for (batch, labels), (again, labels_again) in zip(whole[3:], resumed, strict=True):
        np.testing.assert_array_equal(batch, again)
        np.testing.assert_array_equal(labels, labels_again)


@pytest.mark.parametrize("recipe", [WHOLE, CENTRE])
def test_without_augmentation_training_sees_what_deployment_sees(folder: Path, recipe: Preprocess) -> None:
    pictures = PictureSet.open(folder)
    deployed = next(pictures.batches(recipe, len(pictures)))[0].transpose(0, 2, 3, 1)
    measured = np.concatenate([batch for batch, _ in ValidationBatches(pictures, recipe, 7)])
    np.testing.assert_array_equal(measured, deployed)
    ((trained, labels),) = TrainingBatches(pictures, recipe, STILL, 40, seed=0).epoch(0)
    order = np.random.default_rng([0, 0]).permutation(40)
    np.testing.assert_array_equal(trained, deployed[order])
    np.testing.assert_array_equal(labels, pictures.labels[order])


def test_crops_stay_within_their_margin_and_half_are_mirrored(folder: Path) -> None:
    """Each augmented picture is one of the shifts of its original, mirrored or not."""
    pictures = PictureSet.open(folder)
    margin = 2
    batches = TrainingBatches(pictures, WHOLE, Augmentation(flip=True, shift=margin / 24), 40, seed=1)
    ((seen, _),) = batches.epoch(0)
    order = np.random.default_rng([1, 0]).permutation(40)
    originals = np.concatenate([pixels for pixels, _ in pictures.pixels(WHOLE, 40)])[order]
    padded = np.pad(originals, ((0, 0), (margin, margin), (margin, margin), (0, 0)), "edge")
    found = []
    for picture, wide in zip(seen, padded, strict=True):
        crops = {
            (top, left, mirrored): wide[top : top + 24, left : left + 24][:, :: -1 if mirrored else 1]
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
        }
        values = {key: normalise(crop[None], WHOLE)[0].transpose(1, 2, 0) for key, crop in crops.items()}
        matching = [key for key, value in values.items() if np.array_equal(value, picture)]
        assert len(matching) == 1
        found += matching
    assert 8 <= sum(mirrored for *_, mirrored in found) <= 32
    assert len({(top, left) for top, left, _ in found}) > 10


def test_a_broken_picture_is_left_out_and_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "001.png").write_bytes(b"no picture")
    pictures = PictureSet.open(tmp_path)
    batches = TrainingBatches(pictures, WHOLE, STILL, 8, seed=0)
    for epoch in (0, 1):
        ((batch, labels),) = batches.epoch(epoch)
        assert len(batch) == len(labels) == 7
        assert np.bincount(labels).tolist() == [3, 4]
    (reason,) = batches.pictures.unreadable.values()
    assert "001.png" in reason


def test_pictures_beyond_the_memory_are_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = PictureSet.open(folder)
    roomy = list(TrainingBatches(pictures, WHOLE, Augmentation(), 8, seed=0).epoch(1))
    monkeypatch.setattr("training.batches._memory_bytes", lambda: 4 * 10 * 27 * 27 * 3)  # about ten pictures
    batches = TrainingBatches(pictures, WHOLE, Augmentation(), 8, seed=0)
    list(batches.epoch(0))
    for (batch, _), (expected, _) in zip(batches.epoch(1), roomy, strict=True):
        np.testing.assert_array_equal(batch, expected)
