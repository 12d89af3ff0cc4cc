"""Many pictures at once: in order, in bounded memory, and the same as one by one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from alexnet_deploy.decoding import fitted, in_threads
from alexnet_deploy.errors import InputError, PictureError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.preprocess import decode, decode_fitted, fit
from tests.tiny import picture_batch

RECIPE = Preprocess(height=64, width=64, resize=72)


def threads() -> int:
    return int(psutil.Process().num_threads())


def photograph(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Noise with the spectrum of photographs: amplitude falls as 1/frequency."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(random.standard_normal((3, height, width))) / np.maximum(frequency, 1 / height)
    pixels = np.fft.irfft2(spectrum, (height, width)).transpose(1, 2, 0)
    pixels -= pixels.min()
    return (pixels / pixels.max() * 255).astype(np.uint8)


@pytest.mark.parametrize("workers", [1, 3])
def test_pictures_come_in_order_and_as_one_by_one(tmp_path: Path, workers: int) -> None:
    pictures = [picture_batch(1, 40 + 7 * i, 90 - 5 * i, seed=i)[0] for i in range(10)]
    sources: list[Path | npt.NDArray[np.uint8]] = []
    for index, picture in enumerate(pictures):
        if index % 2:
            sources.append(picture)
        else:
            Image.fromarray(picture).save(tmp_path / f"{index}.png")
            sources.append(tmp_path / f"{index}.png")
    found = list(fitted(sources, RECIPE, ahead=3, workers=workers))
    np.testing.assert_array_equal(found, [fit(picture, RECIPE) for picture in pictures])


def test_as_many_are_worked_on_at_once_as_there_are_workers() -> None:
    met = threading.Barrier(3)
    assert list(in_threads(lambda _: met.wait(30) >= 0, range(6), ahead=3, workers=3)) == [True] * 6


def test_a_broken_picture_takes_its_place_as_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sources = [picture_batch(1)[0], tmp_path / "broken.png", np.zeros((2, 2), np.uint8), picture_batch(1)[0]]
    assert [type(found) for found in fitted(sources, RECIPE)] == [np.ndarray, PictureError, InputError, np.ndarray]


def settled_threads() -> int:
    """Once those of the test before are gone: the system takes a moment to end them."""
    count = -1
    while count != (count := threads()):
        time.sleep(0.05)
    return count


def test_threads_end_when_the_caller_stops_early() -> None:
    before = settled_threads()
    pictures = fitted((picture_batch(1)[0] for _ in range(1000)), RECIPE, ahead=8, workers=2)
    next(pictures)
    assert threads() > before
    pictures.close()
    end = time.monotonic() + 10
    while threads() > before and time.monotonic() < end:
        time.sleep(0.01)  # they are told to end; the system takes a moment
    assert threads() == before


@pytest.mark.parametrize(
    ("height", "width", "decoded"),
    [(600, 800, (200, 150)), (601, 803, (201, 151)), (1153, 1159, (145, 145)), (300, 1200, (600, 150)), (287, 287, (287, 287))],
)
def test_a_large_jpeg_is_decoded_smaller_and_gives_nearly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, decoded: tuple[int, int]
) -> None:
    """Of both sides at least twice the 72 pixels of the recipe stay."""
    Image.fromarray(photograph(height, width)).save(tmp_path / "a.jpg", quality=92)
    exact = fit(decode(tmp_path / "a.jpg"), RECIPE).astype(int)
    resize, sizes = Image.Image.resize, []
    monkeypatch.setattr(Image.Image, "resize", lambda own, *to, **how: sizes.append(own.size) or resize(own, *to, **how))
    difference = np.abs(decode_fitted(tmp_path / "a.jpg", RECIPE) - exact)
    assert sizes == [decoded]
    assert difference.max() <= 8
    assert difference.mean() < 1


@pytest.mark.parametrize("orientation", range(10))
def test_a_large_jpeg_that_is_turned_lies_where_it_would_have_lain(tmp_path: Path, orientation: int) -> None:
    """601 and 803 are not whole at a quarter: where that last pixel comes to lie is up to the camera's position."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photograph(601, 803)).save(tmp_path / "a.jpg", quality=92, exif=exif)
    for recipe in (RECIPE, Preprocess(height=40, width=70)):
        difference = np.abs(decode_fitted(tmp_path / "a.jpg", recipe).astype(int) - fit(decode(tmp_path / "a.jpg"), recipe))
        assert difference.mean() < 1


def test_pictures_of_other_formats_and_single_pixel_sampling_are_exact(tmp_path: Path) -> None:
    Image.fromarray(photograph(600, 800)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_fitted(tmp_path / "a.png", RECIPE), fit(decode(tmp_path / "a.png"), RECIPE))
    nearest = Preprocess(height=64, width=64, interpolation="nearest")
    Image.fromarray(photograph(600, 800)).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(decode_fitted(tmp_path / "a.jpg", nearest), fit(decode(tmp_path / "a.jpg"), nearest))


def test_it_can_be_interrupted_at_any_moment() -> None:
    program = """
import random, signal
from alexnet_deploy.decoding import in_threads

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
draw, interrupted = random.Random(0), 0
for _ in range(500):
    try:
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 3e-3))
        assert list(in_threads(abs, range(200), ahead=16, workers=2)) == list(range(200))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
print(interrupted)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 0
