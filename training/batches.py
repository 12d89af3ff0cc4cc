"""From pictures to batches: order, augmentation and mixing, each a function of (seed, epoch, picture) alone.

Because nothing is drawn from a running generator, a training that resumes at any step sees what it would have seen, and two
processes that share a batch see together what one would have.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import structs

from alexnet_deploy.decoding import Fitted, Source, fitted_one, in_threads
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import Labels, PictureSet
from alexnet_deploy.preprocess import Batch, Pixels, normalise
from training.augment import vary
from training.distributed import ALONE, Team
from training.dropout import Keys, keys_of
from training.makers import Arrays, Given, Made, Makers, can_fork, in_order, number_of_makers, shared_memory
from training.settings import TrainSettings

_MEMORY_SHARE = 0.25  # of the machine's memory, at most, for decoded pictures
_BYTES_BESIDE = 256  # a picture: its label, its keys, and where arrays begin
_MIXING = 1  # tells the numbers that mix a picture from those that vary it

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step sees.

    Attributes:
        pictures: float32 (n, H, W, 3): the values that deployment computes, in the order that PyTorch's CPU kernels are
            fastest with (measured: 1.1 to 1.5 times NCHW).
        labels: of each picture, (n,).
        keys: of each picture's dropout, int32 (n,); None where nothing is left out.
        others: of the picture that was mixed into it, (n,); None where nothing is mixed.
        shares: of the picture itself in the mixture, float32 (n,); None where nothing is mixed.
    """

    pictures: Batch
    labels: Labels
    keys: Keys | None = None
    others: Labels | None = None
    shares: npt.NDArray[np.float32] | None = None

    def arrays(self) -> Arrays:
        """What `Seen` is made of."""
        return [getattr(self, name) for name in self.__slots__]

    def parts(self, count: int) -> list[Seen]:
        """Cut into so many, as long as one another but for one picture."""
        cut = [[None] * count if part is None else np.array_split(part, count) for part in self.arrays()]
        return [Seen(*part) for part in zip(*cut, strict=True)]


class Pictures:
    """Decoded pictures of one size, kept in memory as far as it goes, so that later epochs need not decode them again.

    Attributes:
        unreadable: by index, why a picture cannot be decoded.
    """

    def __init__(self, pictures: PictureSet, recipe: Preprocess, margin: int = 0) -> None:
        self.labels = pictures.labels
        self.unreadable: dict[int, str] = {}
        self._sources = pictures.sources
        self._fit = with_margin(recipe, margin)
        shape = (recipe.height + 2 * margin, recipe.width + 2 * margin, 3)
        room = min(len(pictures), int(_memory_bytes() * _MEMORY_SHARE) // math.prod(shape))
        self._kept = _shared(np.uint8, room, *shape)
        self._is_kept = _shared(np.bool_, len(pictures))

    def __len__(self) -> int:
        return len(self._sources)

    def read(self, index: int) -> Pixels | None:
        """uint8 (height, width, 3), the margin included, or None for one that cannot be decoded.

        Threads may call this, and forks: a picture that one of them keeps is kept for all.
        """
        if self._is_kept[index]:
            return self._kept[index]  # type: ignore[no-any-return]
        if index in self.unreadable:
            return None
        pixels = self._fit(self._sources[index])
        if isinstance(pixels, Exception):
            self.unreadable[index] = str(pixels)
            return None
        if index < len(self._kept):
            self._kept[index] = pixels
            self._is_kept[index] = True
        return pixels


class Step(NamedTuple):
    """The pictures of a step, by their places in the set."""

    epoch: int
    indices: list[int]


class BatchesAhead(ABC, Generic[Given]):
    """One process's part of each batch, made before a step asks for it.

    Args:
        given: of what a batch is made, a NamedTuple of one step; see `Makers`.
        count: pictures of an epoch.

    Attributes:
        batch_size: pictures of a step, of all processes.
        steps: of an epoch.
    """

    def __init__(self, given: type[Given], count: int, recipe: Preprocess, settings: TrainSettings, team: Team) -> None:
        self.batch_size = min(settings.batch_size, count // team.size * team.size)
        self.steps = count // self.batch_size
        self._given = given
        self._recipe = recipe
        self._settings = settings
        self._team = team
        self._part = team.part(self.batch_size)
        self._own = self._part.stop - self._part.start

    @abstractmethod
    def _made(self, step: Given) -> Made:
        """`Seen.arrays`, and what could not be read. It runs in other processes, and must not use PyTorch."""

    def _in_order(self, steps: Iterable[Given]) -> Generator[Made, None, None]:
        return in_order(self._made, self._makers, steps)

    def close(self) -> None:
        """Ends the processes that make batches."""
        if self._makers:
            self._makers.close()

    @cached_property
    def _makers(self) -> Makers[Given] | None:
        if not can_fork():
            return None
        slot_bytes = bytes_of(self._own, self._recipe)
        return Makers(self._made, self._given, slot_bytes, number_of_makers(), yielding=self._team.device == "cpu")


class TrainingBatches(BatchesAhead[Step]):
    """Shuffled, augmented, mixed batches, or one process's part of each.

    The pictures that fill no whole batch wait for another epoch's shuffle.
    """

    def __init__(self, pictures: PictureSet, recipe: Preprocess, settings: TrainSettings, team: Team = ALONE) -> None:
        super().__init__(Step, len(pictures), recipe, settings, team)
        self.pictures = Pictures(pictures, recipe, margin_of(recipe, settings))

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Seen, None, None]:
        """The batches of one epoch from `first_step` on, made ahead; close it to end that."""
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(len(self.pictures))
        parts = (Step(epoch, order[step * self.batch_size :][self._part].tolist()) for step in range(first_step, self.steps))
        for arrays, unread in self._in_order(parts):
            self.pictures.unreadable |= {int(index): why for index, why in unread.items()}
            yield Seen(*arrays)

    def _made(self, step: Step) -> Made:
        pictures_of = ((index, self.pictures.read(index)) for index in step.indices)
        found = [(index, self._varied(step.epoch, index, wide)) for index, wide in pictures_of if wide is not None]
        readable = np.array([index for index, _ in found], np.int64)
        labels = self.pictures.labels[readable]
        seen = presented([picture for _, picture in found], labels, readable, self._recipe, self._settings, step.epoch)
        unread = self.pictures.unreadable
        return seen.arrays(), {str(index): unread[index] for index in step.indices if index in unread}

    def _varied(self, epoch: int, index: int, wide: Pixels) -> Pixels:
        return vary(wide, self._recipe.height, self._settings, np.random.default_rng([self._settings.seed, epoch, index]))


class ValidationBatches:
    """The pictures as deployment will see them: the recipe, and nothing random; or one process's part of them."""

    def __init__(self, pictures: PictureSet, recipe: Preprocess, batch_size: int, *, margin: int = 0, team: Team = ALONE) -> None:
        self.pictures = Pictures(pictures, recipe, margin)
        self._recipe = structs.replace(recipe, height=recipe.height + 2 * margin, width=recipe.width + 2 * margin, resize=None)
        self._batch_size = batch_size
        self._team = team

    def __iter__(self) -> Iterator[Seen]:
        own = np.arange(self._team.rank, len(self.pictures), self._team.size)
        for start in range(0, len(own), self._batch_size):
            part = own[start : start + self._batch_size].tolist()
            found = [
                (index, picture)
                for index, picture in zip(part, in_threads(self.pictures.read, part), strict=True)
                if picture is not None
            ]
            labels = self.pictures.labels[[index for index, _ in found]]
            yield Seen(stacked([picture for _, picture in found], self._recipe), labels)


def presented(
    pictures: list[Pixels], labels: Labels, places: Indices, recipe: Preprocess, settings: TrainSettings, epoch: int
) -> Seen:
    """Varied pictures as a step sees them.

    Args:
        pictures: uint8 (height, width, 3) each.
        labels, places: of each, (n,); its place in the set decides on its dropout, and on the mixing of the pair that it begins.
    """
    seen = Seen(stacked(pictures, recipe), labels, keys_of(settings.seed, epoch, places))
    if not settings.mixup:
        return seen
    return mixed(seen, settings.mixup, [[settings.seed, epoch, place, _MIXING] for place in places[::2].tolist()])


def mixed(seen: Seen, alpha: float, seeds: list[list[int]]) -> Seen:
    """Each picture with its neighbour's light laid over it: the first with the second, the third with the fourth.

    Args:
        seen: its pictures are written to.
        alpha: of the Beta distribution of the shares; both of a pair have the same.
        seeds: of each pair's share; a last picture without a neighbour stays as it is.
    """
    count = len(seen.labels)
    paired = count // 2 * 2
    shares = np.ones(count, np.float32)
    others = seen.labels.copy()
    drawn = np.array([np.random.default_rng(seed).beta(alpha, alpha) for seed in seeds[: count // 2]], np.float32)
    shares[:paired] = np.repeat(drawn, 2)
    others[:paired] = seen.labels[:paired].reshape(-1, 2)[:, ::-1].ravel()
    for pair, share in enumerate(drawn):
        first, second = seen.pictures[2 * pair], seen.pictures[2 * pair + 1]
        difference = (1 - share) * (second - first)
        first += difference
        second -= difference
    return replace(seen, others=others, shares=shares)


def margin_of(recipe: Preprocess, settings: TrainSettings) -> int:
    """Pixels on each side that crops move in; none beyond a whole picture that random crops are taken of."""
    return 0 if recipe.resize is None and settings.crop < 1 else round(settings.shift * recipe.height)


def stacked(pictures: list[Pixels], recipe: Preprocess) -> Batch:
    """float32 (n, H, W, 3), normalised."""
    pixels = np.stack(pictures) if pictures else np.empty((0, recipe.height, recipe.width, 3), np.uint8)
    return normalise(pixels, structs.replace(recipe, layout="nhwc"))


def with_margin(recipe: Preprocess, margin: int) -> Callable[[Source], Fitted]:
    """Decodes and fits a picture to the recipe's size and `margin` more on each side.

    Where the recipe crops the centre, the margin is of what the crop would lose, then of repeated border pixels; where it
    scales the whole picture, there is only the border to repeat.
    """
    spare = 0 if recipe.resize is None else min(margin, (recipe.resize - recipe.height) // 2)
    wide = structs.replace(recipe, height=recipe.height + 2 * spare, width=recipe.width + 2 * spare)
    border = margin - spare

    def fit_wide(source: Source) -> Fitted:
        fitted = fitted_one(source, wide)
        if isinstance(fitted, Exception) or not border:
            return fitted
        return np.pad(fitted, ((border, border), (border, border), (0, 0)), "edge")

    return fit_wide


def bytes_of(count: int, recipe: Preprocess) -> int:
    """What so many pictures take in a batch, with all that is known of them."""
    return count * (4 * recipe.height * recipe.width * recipe.channels + _BYTES_BESIDE) + _BYTES_BESIDE


def _shared(kind: type[np.generic], *shape: int) -> npt.NDArray[Any]:
    """Zeroes that forks see each other write to."""
    count = math.prod(shape)
    return np.frombuffer(shared_memory(count * np.dtype(kind).itemsize), kind, count).reshape(shape)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
