"""Which pictures to train on, and which to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy import datasets
from alexnet_deploy.errors import DataError
from alexnet_deploy.pictures import PictureSet
from training.streams import ShardStream, is_stream


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures to train on, and others to measure on."""

    train: PictureSet | ShardStream
    validation: PictureSet


def open_split(location: str | Path, validation: str = "") -> Split:
    """The training and validation pictures at a location.

    Args:
        location: "demo"; a set in any layout that `alexnet_deploy.datasets` reads, a tenth of each class of which is held out
            where it is not divided; or the URLs of WebDataset shards ("https://host/train-{0000..0127}.tar"), which are
            trained on as they come.
        validation: where the validation pictures are, when they are elsewhere.

    Raises:
        DataError: no pictures, no labels, fewer than two classes, an empty class, or classes that differ between the two.
    """
    if is_stream(str(location)):
        return _streamed(str(location), validation)
    if validation:
        return _checked(Split(_labelled(PictureSet.open_training(location)), PictureSet.open(validation)))
    place, part = datasets.split_location(str(location))
    if place == "demo":
        return Split(PictureSet.open("demo:train"), PictureSet.open("demo:test"))
    found = datasets.parts(place, datasets.layouts())
    if part:
        place = str(location)  # a part that is named is divided in turn
    elif "" not in found and len(found) == 1:
        lacks, name = ("training", "train") if "test" in found else ("validation", "val")
        raise DataError(
            f"{place} has no {lacks} pictures",
            expected=f"a folder {Path(place) / name}, or such files of its layout",
            fix=f"--data {place}:train, which holds out a tenth of each class, or --validation" if lacks == "validation" else "",
        )
    return _checked(Split(_labelled(PictureSet.open(f"{place}:train")), PictureSet.open(f"{place}:test")))


def open_validation(location: str, validation: str = "") -> PictureSet:
    """The validation pictures of `open_split` alone: nothing of a stream is read. Raises DataError."""
    return PictureSet.open(validation) if validation else open_split(location).validation


def _streamed(urls: str, validation: str) -> Split:
    if not validation or is_stream(validation):
        raise DataError(
            f"nothing to measure on while {urls} is trained on",
            expected="validation pictures on this machine; they name the classes too",
            fix="--validation FOLDER, or --validation val-{0000..0003}.tar, fetched before",
        )
    measured = _labelled(PictureSet.open(validation))
    return Split(ShardStream(urls, measured.classes), measured)


def _checked(split: Split) -> Split:
    if split.train.classes != split.validation.classes:
        different = sorted(set(split.train.classes) ^ set(split.validation.classes))
        raise DataError(
            f"{split.train.location} and {split.validation.location} have different classes: {', '.join(different[:5])}",
            expected="the same classes in both",
        )
    return split


def _labelled(pictures: PictureSet) -> PictureSet:
    if len(pictures.classes) < 2:
        found = f"one class ({pictures.classes[0]})" if pictures.classes else "pictures but no class folders"
        raise DataError(
            f"{pictures.location} holds {found}",
            expected="labelled pictures of at least two classes, such as one subfolder a class",
        )
    return pictures
