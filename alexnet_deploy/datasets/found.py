"""What a reader of picture sets gives back, before it becomes a PictureSet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from alexnet_deploy.decoding import Source
from alexnet_deploy.errors import DataError

Labels = npt.NDArray[np.int64]
UNLABELLED = -1

Part = Literal["", "train", "test"]  # "": a set that is not divided


@dataclass(frozen=True, eq=False)
class Found:
    """Pictures of one part of a set, labelled or not.

    Attributes:
        location: what opens the same pictures again.
        classes: their names, or () when unlabelled.
        labels: int64 (N,), an index into `classes`; -1 where unlabelled.
        sources: one a picture: files, files inside files, or uint8 (H, W, 3) arrays.
        names: how each is called in reports.

    Raises:
        DataError: no pictures, or a class without any.
    """

    location: str
    classes: tuple[str, ...]
    labels: Labels
    sources: Sequence[Source]
    names: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.sources):
            raise DataError(f"{self.location} holds no pictures", expected="at least one")
        if self.classes:
            empty = np.flatnonzero(np.bincount(self.labels, minlength=len(self.classes)) == 0)
            if len(empty):
                names = ", ".join(self.classes[i] for i in empty[:5])
                raise DataError(f"{self.location} has no pictures of {names}", expected="at least one picture a class")


# What a reader has recognised: for each part of the set, how to read it.
Parts = Mapping[Part, Callable[[], Found]]


def named(location: str, labels: Labels, classes: Sequence[str]) -> list[str]:
    """Names for pictures that have none of their own: "test/bird/00017"."""
    part = location.rpartition(":")[2]
    return [f"{part}/{classes[label]}/{index:05}" for index, label in enumerate(labels)]
