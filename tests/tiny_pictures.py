"""A picture set of noise, held in memory, with the classes of `tiny`."""

from __future__ import annotations

import numpy as np
from tiny import LABELS, SIZE

from alexnet_deploy.pictures import UNLABELLED, PictureSet


def picture_set(count: int, *, labelled: bool = True, classes: tuple[str, ...] = LABELS, size: int = SIZE) -> PictureSet:
    random = np.random.default_rng(3)
    pixels = tuple(random.integers(0, 256, (count, size, size, 3), np.uint8))
    labels = np.arange(count) % len(classes) if labelled else np.full(count, UNLABELLED)
    return PictureSet("memory", classes if labelled else (), labels.astype(np.int64), pixels, [f"p{i}" for i in range(count)])
