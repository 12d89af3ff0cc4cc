"""Picture sets in the layouts that they are distributed in, recognised by what is in them, and read in place.

folders.py      files in class folders; train/ and val/
imagenet.py     ILSVRC2012, packed or unpacked, with its development kit or Kaggle's table
cifar.py        CIFAR-10 and CIFAR-100, binary version
idx.py          the MNIST family
shards.py       WebDataset tars
matlab.py       meta.mat of ImageNet's development kit
tars.py         what lies where in a tar
division.py     a tenth of each class held out, where a set has no test pictures of its own
found.py        what all of them give back

A set that is divided into training and test pictures has two parts: "cifar-10:train", "cifar-10:test". One that is not has
them too when they are asked for: "photos:test" is a tenth of it, and "photos:train" the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from alexnet_deploy.datasets import cifar, folders, idx, imagenet, shards
from alexnet_deploy.datasets.division import divided
from alexnet_deploy.datasets.found import Found, Part, Parts
from alexnet_deploy.errors import DataError

_FIND: tuple[Callable[[Path], Parts | None], ...] = (  # the most particular first
    imagenet.find, cifar.find, idx.find, folders.find, shards.find,
)  # fmt: skip
_PARTS: dict[str, Part] = {"train": "train", "test": "test", "val": "test"}
_SHORT = "picture files, or another layout of those in docs/howto/data.md"
_PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")


def layouts() -> str:
    """All layouts that are read, in one sentence."""
    return "; or ".join(reader.LAYOUT for reader in (folders, imagenet, cifar, idx, shards))


def split_location(location: str) -> tuple[str, Part]:
    """`photos:train` as the place and the part; the part is "" where none is named."""
    place, colon, part = location.rpartition(":")
    if colon and part in _PARTS and not Path(location).exists():
        return place, _PARTS[part]
    return location, ""


def is_set(location: str) -> bool:
    """Whether a location means a set, and no picture file."""
    place, _ = split_location(location)
    return os.path.isdir(place) or place.endswith(".tar")  # noqa: PTH112 (as `Path.is_dir`, but False where one may not look)


def locations_of_parts(location: str) -> list[str]:
    """Locations that together are all pictures of a set: "photos:train" and "photos:test", or the location itself."""
    place, part = split_location(location)
    return [location] if part else [f"{place}:{name}" if name else place for name in parts(place)]


def training_part(location: str) -> str:
    """The location of the training pictures of a set, where it is divided and no part is named; else the location itself."""
    place, part = split_location(location)
    return f"{place}:train" if not part and "train" in parts(place) else location


def parts(place: str | Path, expected: str = _SHORT) -> Parts:
    """What a place holds: training and test pictures, one of them, or (part "") a set that is not divided.

    Args:
        place: a folder, a .tar, or a pattern of .tar files.
        expected: what the error says of a folder in no layout.

    Raises:
        DataError: nothing is there, or nothing in a layout that is known.
    """
    if "://" in str(place):
        raise DataError(f"{place} is read only while it is trained on", expected="pictures on this machine", fix="--data FOLDER")
    path = Path(place)
    if path.is_dir():
        folder = path.resolve()
        for find in _FIND:
            if found := find(folder):
                return found
        raise DataError(f"{folder} holds no pictures in a known layout", expected=expected)
    if path.name.endswith(".tar"):
        files = [Path(name) for name in shards.expand(str(place))]
        missing = [file for file in files if not file.is_file()]
        if not missing:
            location = str(place) if "{" in str(place) else str(path.resolve())
            return {"": lambda: shards.read(files, location)}
        raise DataError(f"{missing[0]} does not exist", expected=shards.LAYOUT)
    if path.is_file() and path.name.endswith(_PACKED):
        raise DataError(f"{path} is packed", expected="a folder, or an uncompressed .tar", fix=f"unpack it: tar xf {path}")
    raise DataError(
        f"{path} is no folder" if path.exists() else f"{path} does not exist",
        expected="a folder with one subfolder of pictures a class, another layout of those in docs/howto/data.md, or demo:test",
    )


def read(location: str) -> Found:
    """The pictures at a location: of the part that it names, else the test pictures of a divided set, or all of another.

    A part of a set that is not divided is what `division` makes of it; so is "cifar-10:train:test", the test part of a part.

    Raises:
        DataError: as `parts`, or there is no such part.
    """
    place, part = split_location(location)
    if part and split_location(place)[1]:
        return divided(read(place), part)
    found = parts(place)
    if part and "" in found:
        return divided(found[""](), part)
    if part and part not in found:
        raise DataError(f"{place} has no part {part}", expected=" and ".join(found))
    order: tuple[Part, ...] = ("", "test", "train")
    return found[part or next(name for name in order if name in found)]()
