"""From pictures to training batches: order, cropping and flipping, each a function of (seed, epoch, step) alone.

Because nothing is drawn from a running generator, a training that resumes at any step sees what it would have seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import PictureError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import Labels, PictureSet
from alexnet_deploy.preprocess import Batch, Pixels, fit, normalise

_MEMORY_SHARE = 0.25  # of the machine's memory, at most, for decoded pictures


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is varied at random from epoch to epoch.

    Attributes:
        flip: mirror left and right, half of the time.
        shift: how far the crop may move each way, as a fraction of the input size.
    """

    flip: bool = True
    shift: float = 1 / 16


class Pictures:
    """Decoded pictures of one size, kept in memory as far as it goes, so that later epochs need not decode them again.

    Attributes:
        unreadable: names of the pictures that cannot be decoded; they are left out of their batches.
    """

    def __init__(self, pictures: PictureSet, shape: tuple[int, int], fit_to_shape: Callable[[Pixels], Pixels]) -> None:
        self.labels = pictures.labels
        self.unreadable: dict[int, str] = {}
        self._pictures = pictures
        self._shape = shape
        self._fit = fit_to_shape
        room = int(_memory_bytes() * _MEMORY_SHARE) // (3 * shape[0] * shape[1])
        self._kept = np.empty((min(room, len(pictures)), *shape, 3), np.uint8)  # the system gives memory as it is written to
        self._is_kept = np.zeros(len(pictures), bool)
        self._workers = ThreadPoolExecutor(_cores(), "decode")  # Pillow decodes and resizes without the interpreter's lock

    def __len__(self) -> int:
        return len(self._pictures)

    def take(self, indices: npt.NDArray[np.int64]) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        """The pictures at `indices`, uint8 (n, height, width, 3), and which of them could be read."""
        out = np.empty((len(indices), *self._shape, 3), np.uint8)
        kept = self._is_kept[indices]
        if kept.any():
            out[kept] = self._kept[indices[kept]]
        missing = np.flatnonzero(~kept)
        for place, pixels in zip(missing, self._workers.map(self._read, indices[missing].tolist()), strict=True):
            if pixels is not None:
                out[place] = pixels
        readable = np.array([int(i) not in self.unreadable for i in indices]) if self.unreadable else np.ones(len(indices), bool)
        return out, readable

    def _read(self, index: int) -> Pixels | None:
        if index in self.unreadable:
            return None
        try:
            pixels = self._fit(self._pictures.picture(index))
        except PictureError as error:
            self.unreadable[index] = str(error)
            return None
        if index < len(self._kept):
            self._kept[index] = pixels
            self._is_kept[index] = True
        return pixels


class TrainingBatches:
    """Shuffled, augmented batches; the pictures that fill no whole batch wait for another epoch's shuffle."""

    def __init__(self, pictures: PictureSet, recipe: Preprocess, augmentation: Augmentation, batch_size: int, seed: int) -> None:
        margin = round(augmentation.shift * recipe.height)
        size = recipe.height + 2 * margin
        self.pictures = Pictures(pictures, (size, size), _with_margin(recipe, margin))
        self.batch_size = min(batch_size, len(pictures))
        self.steps = len(pictures) // self.batch_size
        self._recipe = recipe
        self._augmentation = augmentation
        self._margin = margin
        self._seed = seed

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Batch, Labels]]:
        """The batches of one epoch from `first_step` on: float32 (n, H, W, 3) and labels (n,)."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self.pictures))
        for step in range(first_step, self.steps):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            pixels, readable = self.pictures.take(indices)
            varied = self._vary(pixels, np.random.default_rng([self._seed, epoch, step]))
            yield normalise(varied[readable], _channels_last(self._recipe)), self.pictures.labels[indices[readable]]

    def _vary(self, pixels: Pixels, generator: np.random.Generator) -> Pixels:
        height, width = self._recipe.height, self._recipe.width
        corners = generator.integers(0, 2 * self._margin + 1, (len(pixels), 2))
        mirrored = generator.random(len(pixels)) < 0.5
        out = np.empty((len(pixels), height, width, 3), np.uint8)
        for place, (picture, (top, left), mirror) in enumerate(zip(pixels, corners, mirrored, strict=True)):
            crop = picture[top : top + height, left : left + width]
            out[place] = crop[:, ::-1] if mirror and self._augmentation.flip else crop
        return out


class ValidationBatches:
    """The pictures as deployment will see them: the recipe, and nothing random."""

    def __init__(self, pictures: PictureSet, recipe: Preprocess, batch_size: int) -> None:
        self.pictures = Pictures(pictures, (recipe.height, recipe.width), lambda pixels: fit(pixels, recipe))
        self._recipe = recipe
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Batch, Labels]]:
        """float32 (n, H, W, 3) and labels (n,)."""
        for start in range(0, len(self.pictures), self._batch_size):
            indices = np.arange(start, min(start + self._batch_size, len(self.pictures)))
            pixels, readable = self.pictures.take(indices)
            yield normalise(pixels[readable], _channels_last(self._recipe)), self.pictures.labels[indices[readable]]


def _channels_last(recipe: Preprocess) -> Preprocess:
    """The same values in the order that PyTorch's CPU kernels are fastest with (measured: 1.1 to 1.5 times NCHW)."""
    return replace(recipe, layout="nhwc")


def _with_margin(recipe: Preprocess, margin: int) -> Callable[[Pixels], Pixels]:
    """Fits a picture to the recipe's size and `margin` more on each side.

    Where the recipe crops the centre, the margin is of what the crop would lose, then of repeated border pixels; where it
    scales the whole picture, there is only the border to repeat.
    """
    spare = 0 if recipe.resize is None else min(margin, (recipe.resize - recipe.height) // 2)
    wide = replace(recipe, height=recipe.height + 2 * spare, width=recipe.width + 2 * spare)
    border = margin - spare

    def fit_wide(pixels: Pixels) -> Pixels:
        fitted = fit(pixels, wide)
        return np.pad(fitted, ((border, border), (border, border), (0, 0)), "edge") if border else fitted

    return fit_wide


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cores() -> int:
    return len(os.sched_getaffinity(0))
