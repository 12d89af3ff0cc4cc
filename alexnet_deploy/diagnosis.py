"""Where a classifier is wrong: which classes it takes for which others, and which pictures it is surest about in vain."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from alexnet_deploy.answers import TOP, ranks
from alexnet_deploy.decoding import fitted
from alexnet_deploy.errors import DataError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.statistics import Rate, rate
from alexnet_deploy.types import Progress, silent

_BATCH = 64
MISTAKES = 12


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture whose right class was thought improbable.

    Attributes:
        index: in the picture set.
        name: as reports call it.
        truth, said: names of classes.
        probability, truth_probability: of the class that was said, and of the right one.
    """

    index: int
    name: str
    truth: str
    said: str
    probability: float
    truth_probability: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a classifier does with labelled pictures.

    Attributes:
        location: of the pictures.
        classes: their names.
        top1, top5: pictures whose class was said first, or among the first five; top5 is None with five classes or fewer.
        confusion: for each class, how many of its pictures were taken for each class.
        mistakes: wrong answers, the least probable truth first, at most MISTAKES.
        unreadable: pictures that could not be read, and are left out.
    """

    location: str
    classes: tuple[str, ...]
    top1: Rate
    top5: Rate | None
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    unreadable: int

    def recall(self, label: int) -> Rate | None:
        """The pictures of a class that were recognised; None for a class without any."""
        row = self.confusion[label]
        return rate(row[label], sum(row)) if sum(row) else None

    def confusions(self) -> list[tuple[str, str, int]]:
        """Which class was taken for which other, how often; the most frequent first."""
        found = [
            (self.classes[truth], self.classes[said], count)
            for truth, row in enumerate(self.confusion)
            for said, count in enumerate(row)
            if count and truth != said
        ]
        return sorted(found, key=lambda one: -one[2])


def diagnose(runtime: Runtime, pictures: PictureSet, progress: Progress = silent) -> Diagnosis:
    """Asks about every picture that can be read, once.

    Args:
        runtime: a classifier of the same classes, in the same order.
        pictures: labelled.

    Raises:
        DataError: they have no labels, other classes, or none can be read.
    """
    count = runtime.manifest.classes or 0
    if not pictures.labelled or len(pictures.classes) != count:
        raise DataError(
            f"{pictures.location} has {len(pictures.classes)} classes, {runtime.manifest.file} {count}",
            expected="labelled pictures of the classes it was trained on",
        )
    probabilities = np.full((len(pictures), count), np.nan, np.float32)
    with closing(fitted(pictures.sources, runtime.recipe, ahead=2 * _BATCH)) as decoded:
        for start in range(0, len(pictures), _BATCH):
            batch = list(islice(decoded, _BATCH))
            sound = {start + place: pixels for place, pixels in enumerate(batch) if isinstance(pixels, np.ndarray)}
            if sound:
                probabilities[list(sound)] = runtime.predict(np.stack(list(sound.values())))
            progress("measure", start + len(batch), len(pictures))
    return _diagnosis(pictures, probabilities)


def _diagnosis(pictures: PictureSet, probabilities: npt.NDArray[np.float32]) -> Diagnosis:
    read = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    if not len(read):
        raise DataError(f"no picture of {pictures.location} can be read", expected="whole pictures")
    labels, answers = pictures.labels[read], probabilities[read]
    said = answers.argmax(axis=1)
    of_truth = answers[np.arange(len(read)), labels]
    confusion = np.zeros((len(pictures.classes),) * 2, np.int64)
    np.add.at(confusion, (labels, said), 1)
    wrong = np.flatnonzero(said != labels)
    worst = wrong[np.argsort(of_truth[wrong], kind="stable")][:MISTAKES]
    return Diagnosis(
        location=pictures.location,
        classes=pictures.classes,
        top1=rate(int((said == labels).sum()), len(read)),
        top5=rate(int((ranks(answers, labels) < TOP).sum()), len(read)) if len(pictures.classes) > TOP else None,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        mistakes=tuple(
            Mistake(
                int(read[i]),
                pictures.names[read[i]],
                pictures.classes[labels[i]],
                pictures.classes[said[i]],
                float(answers[i, said[i]]),
                float(of_truth[i]),
            )
            for i in worst
        ),
        unreadable=len(pictures) - len(read),
    )
