"""WebDataset shards: tars whose pictures and labels share a name up to its first dot (https://github.com/webdataset/webdataset).

    shard-0000.tar:  000017.jpg 000017.cls 000018.jpg 000018.cls ...

A label is a `.cls` (a number, or a name) or a `.json` with "label" in it; where a shard has neither, the folder that a
picture lies in is its class, so that the tar of a folder of class folders is a set too. Numbers are named by a
`classes.txt` beside the shards, one name a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Generic, Protocol, TypeVar

import numpy as np

from alexnet_deploy.datasets.found import UNLABELLED, Found, Part, Parts
from alexnet_deploy.datasets.tars import members
from alexnet_deploy.decoding import Packed
from alexnet_deploy.errors import DataError
from alexnet_deploy.preprocess import SUFFIXES

LAYOUT = "WebDataset shards: a folder of *.tar, one .tar, or a pattern such as shards/train-{0000..0127}.tar"
CLASS_NAMES = "classes.txt"
_MOST_LABEL_BYTES = 1 << 20
_MOST_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_TEST = re.compile(r"val|test", re.IGNORECASE)
_TRAIN = re.compile(r"train", re.IGNORECASE)


def find(folder: Path) -> Parts | None:
    """The parts of a folder of shards, told apart by their names, or None where there are none."""
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        return None
    of_training = [path for path in shards if _TRAIN.search(path.name)]
    of_test = [path for path in shards if path not in of_training and _TEST.search(path.name)]
    divided: dict[Part, list[Path]] = {"train": of_training, "test": of_test} if of_training and of_test else {"": shards}
    return {part: partial(read, own, f"{folder}:{part}" if part else str(folder)) for part, own in divided.items()}


def expand(pattern: str) -> list[str]:
    """`a-{00..02}.tar` and `{a,b}.tar` as the names that they stand for, in order.

    Raises:
        DataError: braces that do not pair up, or over a million names.
    """
    pieces = _BRACES.split(pattern)
    if any(sign in piece for piece in pieces[::2] for sign in "{}"):
        raise DataError(f"{pattern!r} has braces that do not pair up", expected=LAYOUT)
    choices = [[piece] if i % 2 == 0 else _choices(piece) for i, piece in enumerate(pieces)]
    count = int(np.prod([len(choice) for choice in choices], dtype=object))
    if count > _MOST_SHARDS:
        raise DataError(f"{pattern!r} stands for {count:,} shards", expected=f"at most {_MOST_SHARDS:,}")
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    if int(last) - int(first) > _MOST_SHARDS:
        raise DataError(f"{{{inside}}} stands for over {_MOST_SHARDS:,} shards", expected=f"at most {_MOST_SHARDS:,}")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


class File(Protocol):
    """A file of a shard: in place (Packed), or in memory."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self) -> bytes: ...


Kind = TypeVar("Kind", bound=File)


@dataclass(frozen=True, slots=True)
class Sample(Generic[Kind]):
    """What one name in a shard stands for.

    Attributes:
        picture: its file in the shard.
        label: the file that names its class, None where its folder does.
    """

    picture: Kind
    label: Kind | None


def samples(files: Iterable[Kind]) -> Iterator[Sample[Kind]]:
    """Files that follow each other and share a name up to its first dot, as samples; those without a picture are left out."""
    key = ""
    picture: Kind | None = None
    label: Kind | None = None
    for file in files:
        own, extension = split_name(file.name)
        if own != key:
            if picture is not None:
                yield Sample(picture, label)
            key, picture, label = own, None, None
        if f".{extension}" in SUFFIXES:
            picture = file
        elif extension in ("cls", "json") and (label is None or extension == "cls"):
            label = file
    if picture is not None:
        yield Sample(picture, label)


def split_name(name: str) -> tuple[str, str]:
    """`shard.tar/a/000017.jpg` as its key (without the extension) and its extension, which begins at the file's first dot."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, extension.lower()


def label_of(sample: Sample[Kind]) -> str:
    """What the class of a sample is called, or numbered; "" where it is not told. Raises DataError."""
    if sample.label is None:
        return PurePosixPath(sample.picture.name).parent.name if "/" in sample.picture.name.partition("/")[2] else ""
    if sample.label.size > _MOST_LABEL_BYTES:
        raise DataError(f"{sample.label.name} has {sample.label.size:,} bytes", expected="a label")
    content = sample.label.read()
    try:
        if not sample.label.name.lower().endswith(".json"):
            return content.decode("utf-8").strip()
        label = json.loads(content)["label"]
        if isinstance(label, (str, int)) and not isinstance(label, bool):
            return str(label)
        raise ValueError(f"its label is {label!r:.40}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{sample.label.name} names no class ({error})", expected='a number or a name, or JSON with "label" in it'
        ) from error


def class_names(labels: Iterable[str], names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes in order, and what each label is in it.

    Args:
        labels: as they stand in the shards.
        names: of the numbers, where they are known.

    Raises:
        DataError: a number without a name, or a class that only some have.
    """
    used = sorted(set(labels), key=lambda label: (0, int(label), "") if label.isdecimal() else (1, 0, label))
    if used in ([], [""]):
        return (), {"": UNLABELLED}
    if "" in used:
        raise DataError("some pictures of these shards have labels and some have none", expected="a .cls for each picture")
    if names and all(label.isdecimal() for label in used):
        if int(used[-1]) >= len(names):
            raise DataError(f"there are pictures of class {used[-1]}", expected=f"the {len(names)} classes of {CLASS_NAMES}")
        return tuple(names), {label: int(label) for label in used}
    return tuple(used), {label: index for index, label in enumerate(used)}


def names_beside(shard: Path) -> tuple[str, ...]:
    """What classes.txt says, beside a shard."""
    path = shard.with_name(CLASS_NAMES)
    return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()) if path.is_file() else ()


def read(shards: Sequence[Path], location: str) -> Found:
    """All pictures of shards on the disk; their headers and labels are read now, pictures when they are asked for."""
    found: list[Sample[Packed]] = []
    labels: list[str] = []
    for shard in shards:
        for sample in samples(members(shard)):
            found.append(sample)
            labels.append(label_of(sample))
    classes, index = class_names(labels, names_beside(shards[0]))
    numbers = np.array([index[label] for label in labels], np.int64)
    pictures = [sample.picture for sample in found]
    return Found(location, classes, numbers, pictures, [picture.name for picture in pictures])
