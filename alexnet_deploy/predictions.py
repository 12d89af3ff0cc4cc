"""Many pictures through one Runtime: what `alexnet-deploy predict` reports."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from alexnet_deploy import datasets
from alexnet_deploy.decoding import Source
from alexnet_deploy.errors import DataError
from alexnet_deploy.pictures import PictureSet
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


def collect(locations: Iterable[str]) -> Iterator[NamedPicture]:
    """The pictures that are meant, one after another. A file that is missing is found out when it is read.

    Args:
        locations: files; folders and other picture sets; "demo:test"; glob patterns ("photos/**/*.jpg"); "@list.txt", a file
            with one location a line; "-", the same from stdin, taken as it comes.

    Raises:
        DataError: a folder or a pattern without pictures, or a list that cannot be read.
    """
    for location in locations:
        if location == "-":
            yield from collect(line.rstrip("\r\n") for line in sys.stdin if line.strip())
        elif location.startswith("@"):
            yield from collect(_lines(Path(location[1:])))
        elif location.partition(":")[0] == "demo" or datasets.is_set(location):
            yield from _picture_set(location)
        elif any(sign in location for sign in "*?[") and not Path(location).exists():
            yield from _matching(location)
        else:
            yield NamedPicture(location, Path(location))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read ({error})", expected="a text file with one picture a line") from error


def _picture_set(location: str) -> Iterator[NamedPicture]:
    """All pictures of a set, those of every part of it; files are called by the path that was given."""
    root = Path(location).resolve()
    for part in [location] if location.partition(":")[0] == "demo" else datasets.locations_of_parts(location):
        pictures = PictureSet.open(part)
        for name, source in zip(pictures.names, pictures.sources, strict=True):
            yield NamedPicture(str(Path(location) / source.relative_to(root)) if isinstance(source, Path) else name, source)


def _matching(pattern: str) -> Iterator[NamedPicture]:
    found = sorted(name for name in glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not found:
        raise DataError(f"nothing matches {pattern!r}", expected="a pattern of picture files, such as 'photos/**/*.jpg'")
    for name in found:
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
