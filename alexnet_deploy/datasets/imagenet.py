"""ImageNet (ILSVRC2012) as it is distributed: https://image-net.org/download, and the same from Kaggle.

    ILSVRC2012_img_train.tar              1,000 tars in a tar, read in place; or unpacked as train/n01440764/*.JPEG
    ILSVRC2012_img_val.tar                50,000 pictures, read in place; or unpacked as val/ILSVRC2012_val_00000001.JPEG
    ILSVRC2012_devkit_t12.tar.gz          the classes of the latter; or unpacked in the same folder
    LOC_val_solution.csv                  the same from Kaggle, where the pictures are in ILSVRC/Data/CLS-LOC/

Classes are called by their WordNet ids and sorted by them, which is the order of every published ImageNet model.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alexnet_deploy.datasets import folders
from alexnet_deploy.datasets.found import Found, Part, Parts
from alexnet_deploy.datasets.matlab import structs
from alexnet_deploy.datasets.tars import members
from alexnet_deploy.decoding import Packed
from alexnet_deploy.errors import DataError

LAYOUT = (
    "ImageNet: ILSVRC2012_img_train.tar or train/n*/, ILSVRC2012_img_val.tar or val/*.JPEG, "
    "and ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv"
)
_TRAIN_TAR, _VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_TRUTH, _SYNSETS, _SOLUTION = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv"
_KAGGLE = Path("ILSVRC/Data/CLS-LOC")
_VAL_PICTURE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_MOST_BYTES = 64 << 20  # of a file of the development kit


def find(folder: Path) -> Parts | None:
    """The parts of an ImageNet folder, or None where it is none."""
    pictures = folder / _KAGGLE if (folder / _KAGGLE).is_dir() else folder
    readers: dict[Part, Callable[[], Found]] = {}
    val = pictures / "val"
    if (folder / _VAL_TAR).is_file():
        readers["test"] = lambda: _validation(folder, list(members(folder / _VAL_TAR)))
    elif val.is_dir() and any(_VAL_PICTURE.fullmatch(path.name) for path in val.iterdir()):
        readers["test"] = lambda: _validation(folder, sorted(val.iterdir()))
    if (folder / _TRAIN_TAR).is_file():
        readers["train"] = lambda: _packed_training(folder)
    elif readers and (pictures / "train").is_dir():
        readers["train"] = lambda: folders.read(pictures / "train")
    return readers or None


def _packed_training(folder: Path) -> Found:
    """The tar of tars, one a class."""
    packed = {Path(inner.name).stem: inner for inner in members(folder / _TRAIN_TAR)}
    classes = tuple(sorted(packed))
    labels: list[int] = []
    sources: list[Packed] = []
    for label, name in enumerate(classes):
        own = list(members(folder / _TRAIN_TAR, packed[name].offset, packed[name].size))
        sources += own
        labels += [label] * len(own)
    return Found(f"{folder}:train", classes, np.array(labels, np.int64), sources, [source.name for source in sources])


def _validation(folder: Path, files: Sequence[Path] | Sequence[Packed]) -> Found:
    """Flat pictures, whose classes stand elsewhere."""
    numbered = [(int(match[1]), file) for file in files if (match := _VAL_PICTURE.fullmatch(Path(file.name).name))]
    truth = _truth(folder)
    unknown = [number for number, _ in numbered if number not in truth]
    if unknown:
        raise DataError(f"the class of validation picture {unknown[0]} is not known", expected=f"{len(truth):,} pictures")
    classes = tuple(sorted(set(truth.values())))
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[truth[number]] for number, _ in numbered], np.int64)
    sources = [file for _, file in numbered]
    return Found(f"{folder}:test", classes, labels, sources, [source.name for source in sources])


def _truth(folder: Path) -> dict[int, str]:
    """WordNet ids by the number of the validation picture."""
    solution = _file(folder, _SOLUTION)
    try:
        if solution is not None:
            with solution.open(newline="", encoding="utf-8") as file:
                rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
            return {int(name.rpartition("_")[2]): wordnet_id for name, wordnet_id in rows}
        truth, synsets = _development_kit(folder)
        names = {int(s["ILSVRC2012_ID"] or 0): str(s["WNID"]) for s in structs(synsets, _SYNSETS)}
        return {number: names[int(line)] for number, line in enumerate(truth.decode("ascii").split(), 1)}
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        raise DataError(
            f"the classes of ImageNet's validation pictures in {folder} cannot be read ({error})",
            expected=f"{_SOLUTION} as Kaggle has it, or {_TRUTH} and {_SYNSETS} as the development kit has them",
            fix="fetch them again",
        ) from error


def _file(folder: Path, name: str) -> Path | None:
    """Where a table lies: in the folder itself, or in a development kit unpacked there."""
    places = [folder, folder / "data", *folder.glob("ILSVRC2012_devkit*"), *folder.glob("ILSVRC2012_devkit*/data")]
    return next((place / name for place in places if (place / name).is_file()), None)


def _development_kit(folder: Path) -> tuple[bytes, bytes]:
    """The ground truth and the synsets, from a development kit that is unpacked or not."""
    truth, synsets = _file(folder, _TRUTH), _file(folder, _SYNSETS)
    if truth is not None and synsets is not None:
        return truth.read_bytes(), synsets.read_bytes()
    kit = folder / _DEVKIT
    if not kit.is_file():
        raise DataError(
            f"the classes of ImageNet's validation pictures are not to be found in {folder}",
            expected=f"{_DEVKIT}, or {_TRUTH} and {_SYNSETS}, or {_SOLUTION}",
            fix=f"put {_DEVKIT} there; it is offered on the same page as the pictures",
        )
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(kit, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in (_TRUTH, _SYNSETS) and member.isfile() and member.size <= _MOST_BYTES:
                    found[name] = (archive.extractfile(member) or io.BytesIO()).read()
        return found[_TRUTH], found[_SYNSETS]
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise DataError(f"{kit} cannot be read ({error})", expected="the whole development kit", fix="fetch it again") from error
