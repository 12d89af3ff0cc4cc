"""Many pictures through one Runtime: what `alexnet-deploy predict` reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import DataError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import Pixels
from alexnet_deploy.ran import Ran
from alexnet_deploy.runtime import Prediction, Runtime
from alexnet_deploy.types import Progress, silent


@dataclass(frozen=True, slots=True)
class NamedPicture:
    """A picture to classify, and how it is called in the report."""

    name: str
    source: Path | Pixels


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


def collect(locations: Sequence[str]) -> list[NamedPicture]:
    """Picture files, folders of them, and the demo set, as one list. A file that is missing is found out when it is read.

    Raises:
        DataError: a folder without pictures.
    """
    found: list[NamedPicture] = []
    for location in locations:
        if location.partition(":")[0] == "demo" or Path(location).is_dir():
            pictures = PictureSet.open(location)
            in_folder = Path(location) if Path(location).is_dir() else None
            names = [str(in_folder / name) if in_folder else name for name in pictures.names]
            found += [NamedPicture(name, pictures.sources[index]) for index, name in enumerate(names)]
        else:
            found.append(NamedPicture(location, Path(location)))
    if not found:
        raise DataError("there are no pictures to classify", expected="files, a folder, or demo:test")
    return found


def predict_pictures(
    runtime: Runtime,
    pictures: Sequence[NamedPicture],
    *,
    top: int = 5,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> PredictionReport:
    """Classifies pictures; one that cannot be read is reported, and does not stop the rest.

    Args:
        runtime: what classifies.
        pictures: any number.
        top: classes to name for each.
        batch_size: pictures in one call; the artifact's favourite when None.
    """
    begun = time.perf_counter()
    done: list[PicturePrediction] = []
    outcomes = runtime.classify_each((picture.source for picture in pictures), top, batch_size=batch_size)
    for picture, outcome in zip(pictures, outcomes, strict=True):
        done.append(PicturePrediction(picture.name, outcome.predictions, str(outcome.error or "")))
        progress("classify", len(done), len(pictures))
    return PredictionReport(Ran.of(runtime), tuple(done), time.perf_counter() - begun)
