"""What is calibrated on is looked at first. (Too few pictures, and overlap: test_calibration, test_parity.)"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.errors import DataWarning
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.fitness import warn_of_noise

RANDOM = np.random.default_rng(0)


def saved(folder: Path, pictures: list[np.ndarray], suffix: str) -> PictureSet:
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02d}{suffix}")
    return PictureSet.open(folder)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_noise_is_warned_of(tmp_path: Path, suffix: str) -> None:
    pictures = saved(tmp_path, [RANDOM.integers(0, 256, (48, 64, 3)) for _ in range(20)], suffix)
    with pytest.warns(DataWarning, match="are random noise"):
        warn_of_noise(pictures)


def test_empty_pictures_are_warned_of(tmp_path: Path) -> None:
    pictures = saved(tmp_path, [np.full((20, 20, 3), 5 * index) for index in range(40)], ".png")
    with pytest.warns(DataWarning, match="are of one colour"):
        warn_of_noise(pictures)


def test_pictures_of_things_are_not_even_where_some_are_noise(tmp_path: Path) -> None:
    demo = PictureSet.open("demo:train")
    things = [demo.picture(index) for index in range(14)]
    noise = [RANDOM.integers(0, 256, (28, 28, 3)) for _ in range(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_noise(demo)
        warn_of_noise(saved(tmp_path, [*things, *noise], ".png"))
