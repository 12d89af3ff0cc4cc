"""Many pictures through one Runtime: what `alexnet-deploy predict` reports."""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path

from alexnet_deploy import datasets
from alexnet_deploy.decoding import Source
from alexnet_deploy.errors import DataError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import SUFFIXES
from alexnet_deploy.ran import Ran
from alexnet_deploy.runtime import Prediction, Runtime
from alexnet_deploy.types import Progress, silent


@dataclass(frozen=True, slots=True)
class NamedPicture:
    """A picture to classify, and how it is called in the report."""

    name: str
    source: Source


@dataclass(frozen=True, slots=True)
class PicturePrediction:
    """What became of one picture.

    Attributes:
        name: the file, or "test/Sandal/0003" for one of the demo set.
        predictions: the most probable classes, the most probable first; () where `error` says why.
        error: why it could not be classified, or "".
    """

    name: str
    predictions: tuple[Prediction, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class PredictionReport:
    """Classes of many pictures.

    Attributes:
        ran: what classified them.
        pictures: in the order they were named.
        seconds: from the first file to the last answer, decoding included.
    """

    ran: Ran
    pictures: tuple[PicturePrediction, ...]
    seconds: float

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(picture.error for picture in self.pictures if picture.error)


def collect(locations: Iterable[str], within: tuple[str, ...] = ()) -> Iterator[NamedPicture]:
    """The pictures that are meant, one after another. A file that is missing is found out when it is read.

    Args:
        locations: files; folders, with all that is below them; other picture sets; "demo:test"; glob patterns
            ("photos/**/*.jpg"); "@list.txt", a file with one location a line; "-", the same from stdin, taken as it comes.
        within: the lists that these locations stand in.

    Raises:
        DataError: a folder, a pattern or a list without pictures, or a list that cannot be read or names itself.
    """
    for location in locations:
        if location == "-":
            yield from _listed(sys.stdin.buffer, "stdin", within)
        elif location.startswith("@"):
            if location in within:
                raise DataError(f"the list {location[1:]} names itself", expected="pictures, folders and patterns")
            yield from _listed(_lines(Path(location[1:])), f"the list {location[1:]}", (*within, location))
        elif os.path.isdir(location):  # noqa: PTH112 (which is not stopped by what may not be looked at)
            yield from _folder(location)
        elif location.partition(":")[0] == "demo" or datasets.is_set(location):
            yield from _picture_set(location)
        elif any(sign in location for sign in "*?[") and not os.path.exists(location):  # noqa: PTH110
            yield from _matching(location)
        else:
            yield NamedPicture(location, Path(location))


def _listed(lines: Iterable[bytes], name: str, within: tuple[str, ...]) -> Iterator[NamedPicture]:
    """The pictures that lines name, which are bytes because names of files are. Raises DataError where there are no lines."""
    empty = True
    for line in lines:
        if line.strip():
            empty = False
            yield from collect([os.fsdecode(line.rstrip(b"\r\n"))], within)
    if empty:
        raise DataError(f"{name} names no pictures", expected="one picture, folder or pattern a line")


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}", expected="a file with one picture a line") from error
    if b"\0" in content:
        raise DataError(f"the list {path} is no text: it holds zeros", expected="one picture a line, in UTF-8 or ASCII")
    return content.removeprefix(codecs.BOM_UTF8).split(b"\n")


def _folder(location: str) -> Iterator[NamedPicture]:
    """Every picture file in it, at any depth, whatever they are to training; else those that a packed set holds."""
    empty, closed = True, list[str]()
    for folder, below, files in os.walk(location, onerror=lambda error: closed.append(error.filename)):
        below.sort()  # in place: they are visited in this order
        for file in sorted(file for file in files if Path(file).suffix.lower() in SUFFIXES):
            empty = False
            yield NamedPicture(str(Path(folder, file)), Path(folder, file))
    if empty and not closed:
        yield from _picture_set(location)
    yield from (NamedPicture(folder, Path(folder)) for folder in closed)  # reading them says why they are


def _picture_set(location: str) -> Iterator[NamedPicture]:
    """All pictures of a set, those of every part of it; files are called by the path that was given."""
    root = Path(location).resolve()
    for part in [location] if location.partition(":")[0] == "demo" else datasets.locations_of_parts(location):
        pictures = PictureSet.open(part)
        for name, source in zip(pictures.names, pictures.sources, strict=True):
            yield NamedPicture(str(Path(location) / source.relative_to(root)) if isinstance(source, Path) else name, source)


def _matching(pattern: str) -> Iterator[NamedPicture]:
    """Each file once: by way of a link to a folder above it, a pattern would find it forty times over."""
    found: dict[str, str] = {}
    true_folder = cache(os.path.realpath)
    matches = (name for name in glob(pattern, recursive=True) if os.path.isfile(name))  # noqa: PTH113, PTH207 (Path.glob takes no absolute pattern)
    for name in sorted(matches, key=len):
        folder, file = os.path.split(name)
        found.setdefault(os.path.join(true_folder(folder), file), name)  # noqa: PTH118 (a million of them)
    if not found:
        raise DataError(f"nothing matches {pattern!r}", expected="a pattern of picture files, such as 'photos/**/*.jpg'")
    for name in sorted(found.values()):
        yield NamedPicture(name, Path(name))


def predict_each(
    runtime: Runtime, pictures: Iterable[NamedPicture], *, top: int = 5, batch_size: int | None = None
) -> Iterator[PicturePrediction]:
    """Classifies pictures as they come, in bounded memory; one that cannot be read is reported, and does not stop the rest.

    Args:
        runtime: what classifies.
        pictures: any number; taken no sooner than they are needed.
        top: classes to name for each.
        batch_size: pictures in one call; the artifact's favourite when None.
    """
    names: deque[str] = deque()

    def sources() -> Iterator[Source]:
        for picture in pictures:
            names.append(picture.name)
            yield picture.source

    for outcome in runtime.classify_each(sources(), top, batch_size=batch_size):
        yield PicturePrediction(names.popleft(), outcome.predictions, str(outcome.error or ""))


def predict_pictures(
    runtime: Runtime,
    pictures: Sequence[NamedPicture],
    *,
    top: int = 5,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> PredictionReport:
    """`predict_each`, all of it in one report. Raises DataError where there are no pictures."""
    if not pictures:
        raise DataError("there are no pictures to classify", expected="files, a folder, or demo:test")
    begun = time.perf_counter()
    done: list[PicturePrediction] = []
    for prediction in predict_each(runtime, pictures, top=top, batch_size=batch_size):
        done.append(prediction)
        progress("classify", len(done), len(pictures))
    return PredictionReport(Ran.of(runtime), tuple(done), time.perf_counter() - begun)
