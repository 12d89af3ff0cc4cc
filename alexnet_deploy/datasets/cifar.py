"""CIFAR-10 and CIFAR-100 in their binary version, as https://www.cs.toronto.edu/~kriz/cifar.html describes it.

A record is one label byte (CIFAR-100: coarse, then fine) and 3,072 bytes of pixels, red, green and blue planes of 32x32.
The Python version of the same pictures is pickled, and unpickling runs whatever is in the file: it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from alexnet_deploy.datasets.found import Found, Part, Parts, named
from alexnet_deploy.errors import DataError
from alexnet_deploy.preprocess import Pixels

LAYOUT = "CIFAR-10 or CIFAR-100, binary version: data_batch_*.bin and test_batch.bin, or train.bin and test.bin"
_PIXEL_BYTES = 3 * 32 * 32
_NAMES = {1: "batches.meta.txt", 2: "fine_label_names.txt"}  # by the number of label bytes
_MOST_CLASSES = {1: 10, 2: 100}
_PICKLED = ("data_batch_1", "test_batch", "train", "test")


def find(folder: Path) -> Parts | None:
    """The parts of a CIFAR folder, or None where it is none. Raises DataError for the pickled version."""
    files = sorted(folder.glob("*.bin"))
    label_bytes = _label_bytes(files)
    if label_bytes is None:
        _refuse_pickles(folder)
        return None
    of_test = [file for file in files if file.name.startswith("test")]
    of_training = [file for file in files if file not in of_test]
    divided: dict[Part, list[Path]] = {"train": of_training, "test": of_test}
    return {part: partial(_read, folder, part, own, label_bytes) for part, own in divided.items() if own}


def _label_bytes(files: list[Path]) -> int | None:
    """How many bytes of label each record has, or None when these are not CIFAR's files."""
    for count in (1, 2):
        if files and all(file.stat().st_size and file.stat().st_size % (count + _PIXEL_BYTES) == 0 for file in files):
            return count
    return None


def _refuse_pickles(folder: Path) -> None:
    for name in _PICKLED:
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(1) == b"\x80":  # how every pickle since Python 2.3 begins
                raise DataError(
                    f"{folder} is CIFAR's Python version ({name} is a pickle, which can run code when it is opened)",
                    expected=LAYOUT,
                    fix="the archive that says binary on the same page: cifar-10-binary.tar.gz or cifar-100-binary.tar.gz",
                )


def _read(folder: Path, part: Part, files: list[Path], label_bytes: int) -> Found:
    records = np.concatenate([_records(file, label_bytes) for file in files])
    labels = records[:, label_bytes - 1].astype(np.int64)
    pictures = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    classes = _classes(folder / _NAMES[label_bytes], int(labels.max()))
    if labels.max() >= min(len(classes), _MOST_CLASSES[label_bytes]):
        raise DataError(f"{folder} has pictures of class {labels.max()}", expected=f"one of the {len(classes)} classes; {LAYOUT}")
    location = f"{folder}:{part}"
    return Found(location, classes, labels, cast("Sequence[Pixels]", pictures), named(location, labels, classes))


def _records(file: Path, label_bytes: int) -> npt.NDArray[np.uint8]:
    return np.memmap(file, np.uint8, "r").reshape(-1, label_bytes + _PIXEL_BYTES)


def _classes(file: Path, highest: int) -> tuple[str, ...]:
    """The names beside the pictures; numbers where there are none."""
    if not file.is_file():
        return tuple(str(label) for label in range(highest + 1))
    return tuple(file.read_text("utf-8", errors="replace").split())
