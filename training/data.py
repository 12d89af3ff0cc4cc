"""Which pictures to train on, and which to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.errors import DataError
from alexnet_deploy.pictures import PictureSet

HELD_OUT = 0.1  # of a folder that comes without a validation set
_VALIDATION_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures to train on, and others to measure on."""

    train: PictureSet
    validation: PictureSet


def open_split(location: str | Path, seed: int) -> Split:
    """The training and validation pictures at a location.

    Args:
        location: "demo"; a folder with train/ and val/ (or valid, validation, test) in it, one subfolder a class in each;
            or one folder of class folders, of which a tenth of each class is held out.
        seed: of what is held out.

    Raises:
        DataError: no pictures, no labels, fewer than two classes, an empty class, or classes that differ between the two.
    """
    if str(location) in ("demo", "demo:train"):
        return Split(PictureSet.open("demo:train"), PictureSet.open("demo:test"))
    folder = Path(location)
    if (folder / "train").is_dir():
        found = [folder / name for name in _VALIDATION_NAMES if (folder / name).is_dir()]
        if not found:
            raise DataError(f"{folder} has a train/ but no validation pictures", expected=f"a folder {folder / 'val'} beside it")
        split = Split(_labelled(PictureSet.open(folder / "train")), PictureSet.open(found[0]))
        if split.train.classes != split.validation.classes:
            different = sorted(set(split.train.classes) ^ set(split.validation.classes))
            raise DataError(
                f"{folder / 'train'} and {found[0]} have different classes: {', '.join(different[:5])}",
                expected="the same class folders in both",
            )
        return split
    return _hold_out(_labelled(PictureSet.open(folder)), seed)


def _labelled(pictures: PictureSet) -> PictureSet:
    if len(pictures.classes) < 2:
        found = f"one class ({pictures.classes[0]})" if pictures.classes else "pictures but no class folders"
        raise DataError(f"{pictures.location} holds {found}", expected="one subfolder of pictures a class, at least two")
    return pictures


def _hold_out(pictures: PictureSet, seed: int) -> Split:
    generator = np.random.default_rng([seed, 0x5711])
    held_out: list[int] = []
    for label, name in enumerate(pictures.classes):
        own = np.flatnonzero(pictures.labels == label)
        if len(own) < 2:
            raise DataError(f"class {name} has one picture", expected="two: one to train on, one to hold out")
        held_out += generator.permutation(own)[: max(1, round(HELD_OUT * len(own)))].tolist()
    rest = np.setdiff1d(np.arange(len(pictures)), held_out)
    return Split(pictures.subset(rest), pictures.subset(sorted(held_out)))
