"""Folders of picture files: one subfolder a class, one folder of each for training and testing, or flat and unlabelled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet_deploy.datasets.found import UNLABELLED, Found, Part, Parts
from alexnet_deploy.errors import DataError, DataWarning
from alexnet_deploy.preprocess import SUFFIXES

LAYOUT = "picture files: train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg, or *.jpg without labels"
_HELD_OUT_NAMES = ("val", "valid", "validation", "test")


def find(folder: Path) -> Parts | None:
    """The parts of a folder of picture files, or None where there is none."""
    train = folder / "train"
    if train.is_dir() and _subfolders(train):
        _say_what_is_left_out(folder)
        held_out = next((folder / name for name in _HELD_OUT_NAMES if (folder / name).is_dir()), None)
        parts: dict[Part, Callable[[], Found]] = {"train": lambda: read(train)}
        if held_out is not None:
            parts["test"] = lambda: read(held_out)
        return parts
    if _subfolders(folder) or _pictures_in(folder):
        return {"": lambda: read(folder)}
    return None


def read(folder: Path) -> Found:
    """One subfolder a class, or, where there are no subfolders, pictures without labels. Raises DataError.

    Pictures beside class folders have no class; they are left out, with a DataWarning.
    """
    class_folders = _subfolders(folder)
    if not class_folders:
        files = _pictures_in(folder)
        return Found(str(folder), (), np.full(len(files), UNLABELLED, np.int64), files, [str(file) for file in files])
    _say_what_is_left_out(folder)
    files, labels = [], []
    for label, class_folder in enumerate(class_folders):
        own = _pictures_in(class_folder)
        if not own:
            raise DataError(f"class folder {class_folder} holds no pictures", expected="at least one picture a class")
        files += own
        labels += [label] * len(own)
    classes = tuple(path.name for path in class_folders)
    return Found(str(folder), classes, np.array(labels, np.int64), files, [str(file.relative_to(folder)) for file in files])


def _say_what_is_left_out(folder: Path) -> None:
    if count := sum(map(_is_picture, folder.iterdir())):
        warnings.warn(
            f"pictures that lie beside the folders of {folder} are left out, {count:,} of them: they have no class",
            DataWarning,
            stacklevel=2,
        )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(filter(_is_picture, folder.rglob("*")))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
