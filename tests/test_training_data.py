"""Training pictures: split, order, augmentation, and pictures that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.errors import DataError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import normalise
from training.augment import vary
from training.batches import Seen, TrainingBatches, ValidationBatches, mixed
from training.data import open_split
from training.distributed import Team
from training.settings import TrainSettings

WHOLE = Preprocess(height=24, width=24)
CENTRE = Preprocess(height=24, width=24, resize=28)
STILL = TrainSettings(batch_size=8, flip=False, shift=0)
EVERYTHING = TrainSettings(batch_size=8, seed=3, mixup=0.2, crop=0.4, policy="trivial", erase=0.5, colour=0.1)


def assert_equal(seen: Seen, again: Seen) -> None:
    """To the bit, and of the same pictures."""
    for part in Seen.__slots__:
        np.testing.assert_array_equal(getattr(seen, part), getattr(again, part))


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
    split = open_split(folder)
    assert np.bincount(split.validation.labels).tolist() == [2, 2, 1]
    assert sorted([*split.train.names, *split.validation.names]) == sorted(PictureSet.open(folder).names)


def test_what_is_held_out_can_be_named(folder: Path) -> None:
    split = open_split(folder)
    assert (split.train.location, split.validation.location) == (f"{folder}:train", f"{folder}:test")
    for part in (split.train, split.validation):
        assert isinstance(part, PictureSet)
        assert PictureSet.open(part.location).names == part.names
    assert len(PictureSet.open(folder)) == 40


def test_what_was_trained_on_stays_so_when_photos_are_added(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 40, "b": 40})
    before = set(open_split(tmp_path).train.names)
    (tmp_path / "a/another.png").write_bytes((tmp_path / "b/000.png").read_bytes())
    assert len(before - set(open_split(tmp_path).train.names)) <= 1


def test_a_part_can_be_divided_in_turn(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", {"a": 20, "b": 20})
    write_pictures(tmp_path / "val", {"a": 3, "b": 3})
    split = open_split(f"{tmp_path}:train")
    assert (len(split.train), len(split.validation)) == (36, 4)
    assert all(len(PictureSet.open(part.location)) == len(part) for part in (split.train, split.validation))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_a_validation_folder_is_found(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path / "train", {"a": 2, "b": 2})
    write_pictures(tmp_path / name, {"a": 1, "b": 1})
    split = open_split(tmp_path)
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
            open_split(tmp_path / name)


def test_the_demo_is_measured_on_its_test_pictures() -> None:
    split = open_split("demo")
    assert (split.train.location, split.validation.location) == ("demo:train", "demo:test")


def test_an_epoch_shows_every_picture_once_and_the_next_in_another_order(folder: Path) -> None:
    pictures = PictureSet.open(folder)
    batches = TrainingBatches(pictures, WHOLE, STILL)
    assert batches.steps == 5
    epochs = [np.concatenate([seen.pictures for seen in batches.epoch(epoch)]) for epoch in (0, 1)]
    expected = np.concatenate([seen.pictures for seen in ValidationBatches(pictures, WHOLE, 8)])
    assert not np.array_equal(*epochs)
    for seen in epochs:
        np.testing.assert_array_equal(np.sort(seen.reshape(40, -1), axis=0), np.sort(expected.reshape(40, -1), axis=0))


@pytest.mark.parametrize("recipe", [WHOLE, CENTRE])
def test_an_epoch_begun_in_its_middle_goes_on_as_it_would_have(folder: Path, recipe: Preprocess) -> None:
    pictures = PictureSet.open(folder)
    whole = list(TrainingBatches(pictures, recipe, EVERYTHING).epoch(2))
    resumed = list(TrainingBatches(pictures, recipe, EVERYTHING).epoch(2, first_step=3))
    assert len(resumed) == 2
    for seen, again in zip(whole[3:], resumed, strict=True):
        assert_equal(seen, again)


@pytest.mark.parametrize("recipe", [WHOLE, CENTRE])
def test_without_augmentation_training_sees_what_deployment_sees(folder: Path, recipe: Preprocess) -> None:
    pictures = PictureSet.open(folder)
    deployed = next(pictures.batches(recipe, len(pictures)))[0].transpose(0, 2, 3, 1)
    measured = np.concatenate([seen.pictures for seen in ValidationBatches(pictures, recipe, 7)])
    np.testing.assert_array_equal(measured, deployed)
    (trained,) = TrainingBatches(pictures, recipe, replace(STILL, batch_size=40)).epoch(0)
    order = np.random.default_rng([0, 0]).permutation(40)
    np.testing.assert_array_equal(trained.pictures, deployed[order])
    np.testing.assert_array_equal(trained.labels, pictures.labels[order])


def test_crops_stay_within_their_margin_and_half_are_mirrored(folder: Path) -> None:
    """Each augmented picture is one of the shifts of its original, mirrored or not."""
    pictures = PictureSet.open(folder)
    margin = 2
    batches = TrainingBatches(pictures, WHOLE, TrainSettings(shift=margin / 24, batch_size=40, seed=1))
    (seen,) = batches.epoch(0)
    order = np.random.default_rng([1, 0]).permutation(40)
    originals = np.concatenate([pixels for pixels, _ in pictures.pixels(WHOLE, 40)])[order]
    padded = np.pad(originals, ((0, 0), (margin, margin), (margin, margin), (0, 0)), "edge")
    found = []
    for picture, wide in zip(seen.pictures, padded, strict=True):
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
    batches = TrainingBatches(pictures, WHOLE, STILL)
    for epoch in (0, 1):
        (seen,) = batches.epoch(epoch)
        assert len(seen.pictures) == len(seen.labels) == 7
        assert np.bincount(seen.labels).tolist() == [3, 4]
    (reason,) = batches.pictures.unreadable.values()
    assert "001.png" in reason


def test_pictures_beyond_the_memory_are_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = PictureSet.open(folder)
    roomy = list(TrainingBatches(pictures, WHOLE, TrainSettings(batch_size=8)).epoch(1))
    monkeypatch.setattr("training.batches._memory_bytes", lambda: 4 * 10 * 27 * 27 * 3)  # about ten pictures
    batches = TrainingBatches(pictures, WHOLE, TrainSettings(batch_size=8))
    list(batches.epoch(0))
    for seen, expected in zip(batches.epoch(1), roomy, strict=True):
        assert_equal(seen, expected)


def test_two_processes_see_together_what_one_would(folder: Path) -> None:
    pictures = PictureSet.open(folder)

    def epoch(team: Team) -> list[Seen]:
        return list(TrainingBatches(pictures, WHOLE, EVERYTHING, team).epoch(1))

    for whole, *parts in zip(epoch(Team()), epoch(Team(0, 2)), epoch(Team(1, 2)), strict=True):
        together = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Seen.__slots__}
        assert_equal(whole, Seen(**together))


@pytest.mark.parametrize(
    "settings",
    [TrainSettings(crop=0.3), TrainSettings(policy="trivial"), TrainSettings(erase=1.0), TrainSettings(colour=0.5)],
)
def test_each_kind_of_augmentation_changes_pictures_and_keeps_their_size(settings: TrainSettings) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    seen = [vary(wide, 24, settings, np.random.default_rng([1, epoch])) for epoch in range(60)]
    assert {(picture.shape, picture.dtype) for picture in seen} == {((24, 24, 3), np.dtype(np.uint8))}
    assert len({picture.tobytes() for picture in seen}) > 50
    assert np.array_equal(seen[7], vary(wide, 24, settings, np.random.default_rng([1, 7])))


def test_the_papers_colour_jitter_adds_one_light_to_all_pixels() -> None:
    grey = np.full((8, 8, 3), 128, np.uint8)
    lights = {tuple(vary(grey, 8, TrainSettings(colour=0.1), np.random.default_rng(seed))[0, 0]) for seed in range(50)}
    assert len(lights) > 10
    assert all(
        len(np.unique(vary(grey, 8, TrainSettings(colour=0.1), np.random.default_rng(s)).reshape(-1, 3), axis=0)) == 1
        for s in range(5)
    )


def test_neighbours_are_mixed_with_each_other_by_one_share() -> None:
    pictures = np.random.default_rng(0).normal(size=(5, 2, 2, 3)).astype(np.float32)
    seen = mixed(Seen(pictures.copy(), np.arange(5)), 0.4, [[pair] for pair in range(3)])
    assert seen.others is not None
    assert seen.shares is not None
    assert seen.others.tolist() == [1, 0, 3, 2, 4]
    assert seen.shares[0] == seen.shares[1] != seen.shares[2] == seen.shares[3]
    assert seen.shares[4] == 1
    share = seen.shares[:, None, None, None]
    np.testing.assert_allclose(seen.pictures, share * pictures + (1 - share) * pictures[seen.others], rtol=1e-5, atol=1e-6)
