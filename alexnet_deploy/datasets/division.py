"""A set without test pictures of its own, divided: a tenth of each class is held out, and it is the same tenth whoever asks.

Which pictures those are follows from their names alone, each name's SHA-256 being its place in its class. A training, a
calibration and a comparison that know nothing of each other so keep apart what must be kept apart, also when photos were
added meanwhile: those that were trained on before are, but for one a class at most, trained on again.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import numpy as np

from alexnet_deploy.datasets.found import Found
from alexnet_deploy.errors import DataError

HELD_OUT = 0.1


def divided(found: Found, part: Literal["train", "test"]) -> Found:
    """The pictures to learn from, or those that are held out: a tenth of each class, and at least one.

    Raises:
        DataError: the pictures have no classes, or a class has a single picture.
    """
    if not found.classes:
        raise DataError(
            f"{found.location} holds pictures but no class folders", expected="one subfolder a class, to tell :train from :test"
        )
    held_out = np.zeros(len(found.labels), bool)
    for label, name in enumerate(found.classes):
        own = np.flatnonzero(found.labels == label).tolist()
        if len(own) < 2:
            raise DataError(f"class {name} has one picture", expected="two: one to train on, one to hold out")
        own.sort(key=lambda index: sha256(found.names[index].encode()).digest())
        held_out[own[: max(1, round(HELD_OUT * len(own)))]] = True
    chosen = np.flatnonzero(held_out if part == "test" else ~held_out).tolist()
    return Found(
        f"{found.location}:{part}",
        found.classes,
        found.labels[chosen],
        [found.sources[index] for index in chosen],
        [found.names[index] for index in chosen],
    )
