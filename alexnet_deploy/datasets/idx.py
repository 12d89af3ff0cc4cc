"""IDX files, plain or gzipped: MNIST, Fashion-MNIST, KMNIST, EMNIST (http://yann.lecun.com/exdb/mnist, at its end).

Two zero bytes, 08 for unsigned bytes, the number of axes, the length of each axis (32 bits, big-endian), then the values.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from alexnet_deploy.datasets.found import Found, Part, Parts, named
from alexnet_deploy.errors import DataError
from alexnet_deploy.preprocess import Pixels

LAYOUT = "IDX, gzipped or not: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
CLASS_NAMES = "classes.txt"  # one name a line; where there is none, the labels themselves are the names
_MOST_BYTES = 4 << 30
_TEST = re.compile(r"t10k|test|val", re.IGNORECASE)
_IMAGES = re.compile("images", re.IGNORECASE)


def find(folder: Path) -> Parts | None:
    """The parts of a folder of IDX files, or None where there are none."""
    pictures = [path for path in sorted(folder.iterdir()) if _IMAGES.search(path.name) and _axes(path) in (3, 4)]
    divided: dict[Part, list[Path]] = {"train": [], "test": []}
    for path in pictures:
        divided["test" if _TEST.search(path.name) else "train"].append(path)
    for part, own in divided.items():
        if len(own) > 1:
            names = ", ".join(path.name for path in own)
            raise DataError(f"{folder} holds several sets: {names}", expected=f"one file of {part} pictures a folder")
    return {part: partial(_read, folder, part, own[0]) for part, own in divided.items() if own} or None


def _read(folder: Path, part: Part, path: Path) -> Found:
    pixels = _values(path)
    numbers = _values(_labels_of(path)).astype(np.int64)
    if numbers.shape != pixels.shape[:1]:
        raise DataError(f"{path.name} holds {len(pixels)} pictures, its labels {numbers.shape}", expected="one label a picture")
    if pixels.ndim == 3:
        pixels = np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
    elif pixels.shape[-1] != 3:
        raise DataError(
            f"{path.name} holds values of shape {pixels.shape}", expected="(N, height, width), or (N, height, width, 3)"
        )
    location = f"{folder}:{part}"
    names = folder / CLASS_NAMES
    if names.is_file():
        classes = tuple(line.strip() for line in names.read_text("utf-8").splitlines() if line.strip())
        if len(numbers) and numbers.max() >= len(classes):
            raise DataError(
                f"{path.name} has pictures of class {numbers.max()}", expected=f"the {len(classes)} classes of {names}"
            )
        labels = numbers
    else:
        used, labels = np.unique(numbers, return_inverse=True)  # EMNIST's letters begin at 1
        classes = tuple(str(number) for number in used)
    sources = cast("Sequence[Pixels]", pixels)
    return Found(location, classes, labels.astype(np.int64), sources, named(location, labels, classes))


def _labels_of(pictures: Path) -> Path:
    """The file of labels beside a file of pictures, gzipped or not."""
    name = _IMAGES.sub("labels", pictures.name).replace("idx3", "idx1").replace("idx4", "idx1").removesuffix(".gz")
    for path in (pictures.with_name(name), pictures.with_name(f"{name}.gz")):
        if path.is_file():
            return path
    raise DataError(f"{pictures} has no labels beside it", expected=f"the file {name}, or {name}.gz")


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb")


def _axes(path: Path) -> int | None:
    """How many axes an IDX file of bytes has; None for any other file."""
    if not path.is_file():
        return None
    try:
        with _opened(path) as file:
            start = file.read(4)
    except (OSError, EOFError, zlib.error):
        return None
    return start[3] if len(start) == 4 and start[:3] == b"\0\0\x08" else None


def _values(path: Path) -> npt.NDArray[np.uint8]:
    """uint8, of the shape that the file states."""
    axes = _axes(path)
    if axes is None or not 1 <= axes <= 4:
        raise DataError(f"{path} is no IDX file of bytes", expected=LAYOUT)
    try:
        with _opened(path) as file:
            header = file.read(4 + 4 * axes)
            shape = tuple(int(n) for n in np.frombuffer(header[4:].ljust(4 * axes, b"\0"), ">u4"))
            count = int(np.prod(shape, dtype=object))
            if count > _MOST_BYTES:
                raise DataError(f"{path} states a shape of {shape}", expected=f"at most {_MOST_BYTES >> 30} GB of pixels")
            content = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})", expected="a whole file") from error
    if len(content) != count:
        more = "more" if len(content) > count else f"{len(content):,}"
        raise DataError(
            f"{path} states {shape}, {count:,} bytes, and holds {more}", expected="a whole file", fix="fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
