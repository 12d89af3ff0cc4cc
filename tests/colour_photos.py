"""Small photos of three classes that differ by colour: learnt in a few epochs, and different from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")


def write_photos(folder: Path, *, train: int, val: int, size: int = 48) -> Path:
    """train/ and val/ with so many pictures a class; returns the folder."""
    random = np.random.default_rng(0)
    for split, count in {"train": train, "val": val}.items():
        for channel, name in enumerate(reversed(CLASSES)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 120, (size, size, 3), np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder
