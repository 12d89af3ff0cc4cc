"""Training pictures that come over the network, shard by shard: WebDataset sets that are larger than the disk.

Shards are read from front to back, in several lanes at once; each lane shuffles what it reads in a buffer. Lanes, their shards
and their shuffling follow from (seed, epoch). A lane that has come to its end begins again, so that an epoch always has as many
pictures as the first shard has, times the number of shards.
"""

from __future__ import annotations

import hashlib
import queue
import tarfile
import threading
import time
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from http.client import HTTPException
from itertools import chain, cycle, islice
from typing import IO, NamedTuple, TypeVar, cast

import numpy as np

from alexnet_deploy.datasets import shards
from alexnet_deploy.datasets.shards import Sample
from alexnet_deploy.decoding import InMemory
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.manifest import DataReference, Preprocess
from alexnet_deploy.pictures import PictureSet
from training.augment import vary
from training.batches import BatchesAhead, Seen, TrainingBatches, margin_of, presented, with_margin
from training.distributed import ALONE, Team
from training.makers import Made
from training.settings import TrainSettings

SCHEMES = ("http://", "https://", "file://")
_LANES = 8
_SHUFFLED = 4096  # pictures in the buffers of one process, still packed
_AHEAD = 32  # pictures that each lane has read before they are asked for
_TRIES = 5  # to go on where a connection broke off
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 60.0

Item = TypeVar("Item")


def is_stream(location: str) -> bool:
    return location.startswith(SCHEMES)


class ShardStream:
    """Shards at URLs, never stored.

    Attributes:
        location: the pattern of their URLs.
        classes: those of the validation pictures.

    Raises:
        DataError: the first shard cannot be read, holds no pictures, or has others than those classes.
    """

    def __init__(self, location: str, classes: Sequence[str]) -> None:
        self.location = location
        self.classes = tuple(classes)
        self.urls = shards.expand(location)
        self._index = {name: label for label, name in enumerate(classes)}
        self._digest = hashlib.sha256(self.location.encode())
        first = 0
        for sample in shards.samples(_files(self.urls[0])):
            self.label(sample)
            self._digest.update(hashlib.sha256(sample.picture.content).digest())
            first += 1
        if not first:
            raise DataError(f"{self.urls[0]} holds no pictures", expected="a WebDataset shard")
        self._count = first * len(self.urls)

    def __len__(self) -> int:
        return self._count

    def reference(self) -> DataReference:
        """The set, known by its URLs and by the content of the first."""
        return DataReference(location=self.location, count=len(self), sha256=self._digest.hexdigest())

    def label(self, sample: Sample[InMemory]) -> int:
        """An index into `classes`. Raises DataError."""
        name = shards.label_of(sample)
        if name in self._index:
            return self._index[name]
        if name.isdecimal() and int(name) < len(self.classes):
            return int(name)
        raise DataError(
            f"{sample.picture.name} is of class {name!r}" if name else f"{sample.picture.name} has no label",
            expected=f"one of the {len(self.classes)} classes of the validation pictures",
        )

    def samples(self, seed: int, epoch: int, team: Team = ALONE) -> Generator[Sample[InMemory], None, None]:
        """One process's samples, shuffled, without end; close it to end its threads.

        Raises:
            InputError: more processes than shards.
        """
        lanes = team.size * (min(len(self.urls), max(_LANES, team.size)) // team.size)
        if not lanes:
            raise InputError(f"{len(self.urls)} shards for {team.size} processes", expected="a shard a process at least")
        order = np.random.default_rng([seed, epoch]).permutation(len(self.urls))
        buffer = max(1, _SHUFFLED * team.size // lanes)
        own = [
            _ahead(self._lane(order[lane::lanes].tolist(), buffer, np.random.default_rng([seed, epoch, lane])))
            for lane in range(team.rank, lanes, team.size)
        ]
        try:
            yield from (next(lane) for lane in cycle(own))
        finally:
            for lane in own:
                lane.close()

    def _lane(self, numbers: list[int], buffer: int, generator: np.random.Generator) -> Iterator[Sample[InMemory]]:
        """The samples of some shards, shuffled; again and again, each time in another order."""
        while True:
            files = chain.from_iterable(_files(self.urls[number]) for number in numbers)
            any_left = False
            for sample in _shuffled(shards.samples(files), buffer, generator):
                any_left = True
                yield sample
            if not any_left:
                names = ", ".join(self.urls[number] for number in numbers[:3])
                raise DataError(f"{names} hold no pictures", expected="WebDataset shards")


class Unread:
    """What a stream tells of pictures that cannot be decoded."""

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}  # by the picture's name


class Step(NamedTuple):
    """What a step will see: the place in the epoch of its first picture, the packed pictures, and their labels."""

    epoch: int
    first: int
    pictures: list[InMemory]
    labels: list[int]


class StreamBatches(BatchesAhead[Step]):
    """As TrainingBatches, of a stream. An epoch that is begun in its middle reads up to there again."""

    def __init__(self, stream: ShardStream, recipe: Preprocess, settings: TrainSettings, team: Team = ALONE) -> None:
        super().__init__(Step, len(stream), recipe, settings, team)
        self.pictures = Unread()
        self._stream = stream
        self._fit = with_margin(recipe, margin_of(recipe, settings))

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Seen, None, None]:
        """The batches of one epoch from `first_step` on, made ahead; close it to end that."""
        with closing(self._stream.samples(self._settings.seed, epoch, self._team)) as samples:
            next(islice(samples, first_step * self._own, first_step * self._own), None)  # goes on to there
            for arrays, unread in self._in_order(self._steps(epoch, first_step, samples)):
                self.pictures.unreadable |= unread
                yield Seen(*arrays)

    def _steps(self, epoch: int, first_step: int, samples: Iterator[Sample[InMemory]]) -> Iterator[Step]:
        for step in range(first_step, self.steps):
            found = list(islice(samples, self._own))
            first = step * self._own * self._team.size + self._team.rank
            yield Step(epoch, first, [sample.picture for sample in found], [self._stream.label(sample) for sample in found])

    def _made(self, step: Step) -> Made:
        pictures, labels, places, unread = [], [], [], {}
        for number, (source, label) in enumerate(zip(step.pictures, step.labels, strict=True)):
            place = step.first + number * self._team.size
            picture = self._fit(source)
            if isinstance(picture, Exception):
                unread[source.name] = str(picture)
                continue
            generator = np.random.default_rng([self._settings.seed, step.epoch, place])
            pictures.append(vary(picture, self._recipe.height, self._settings, generator))
            labels.append(label)
            places.append(place)
        found, there = np.array(labels, np.int64), np.array(places, np.int64)
        return presented(pictures, found, there, self._recipe, self._settings, step.epoch).arrays(), unread


def batches_of(
    pictures: PictureSet | ShardStream, recipe: Preprocess, settings: TrainSettings, team: Team = ALONE
) -> TrainingBatches | StreamBatches:
    """What to train on, step by step; see TrainingBatches."""
    if isinstance(pictures, ShardStream):
        return StreamBatches(pictures, recipe, settings, team)
    return TrainingBatches(pictures, recipe, settings, team)


def _shuffled(items: Iterator[Item], size: int, generator: np.random.Generator) -> Iterator[Item]:
    """Items, each up to about `size` places from where it was."""
    buffer = list(islice(items, size))
    for item in items:
        chosen = int(generator.integers(len(buffer)))
        yield buffer[chosen]
        buffer[chosen] = item
    yield from (buffer[int(i)] for i in generator.permutation(len(buffer)))


def _ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items, read by a thread before they are asked for."""
    ready: queue.Queue[Item | BaseException] = queue.Queue(_AHEAD)
    ended = threading.Event()

    def put(item: Item | BaseException) -> None:
        while not ended.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for item in items:
                put(item)
                if ended.is_set():
                    return
        except BaseException as error:
            put(error)

    threading.Thread(target=read, name="shards", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ended.set()


def _files(url: str) -> Iterator[InMemory]:
    """The files of a shard, as they come."""
    name = url.rpartition("/")[2]
    try:
        with closing(Download(url)) as download, tarfile.open(fileobj=cast("IO[bytes]", download), mode="r|") as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    yield InMemory(f"{name}/{member.name}", file.read())
                archive.members = []  # type: ignore[attr-defined]  # it would keep all that it has met
    except (tarfile.TarError, OSError, HTTPException) as error:
        raise DataError(
            f"{url} cannot be read ({error})",
            expected="a whole, uncompressed .tar",
            fix="--resume goes on when it can be reached",
        ) from error


class Download:
    """A file on the web from front to back, which goes on where a connection broke off."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._at = 0
        self._answer, self._size = self._opened()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Raises OSError when it cannot go on."""
        for left in reversed(range(_TRIES)):
            try:
                if self._answer.closed:
                    self._answer, self._size = self._opened()
                content = self._answer.read(size)
                if not content and self._size is not None and self._at < self._size:
                    raise OSError(f"the connection broke off after {self._at:,} of {self._size:,} bytes")
                self._at += len(content)
                return content
            except (OSError, HTTPException):
                self._answer.close()
                if not left:
                    raise
                time.sleep(_PAUSE_SECONDS)
        raise AssertionError("every try returns or raises")

    def close(self) -> None:
        self._answer.close()

    def _opened(self) -> tuple[IO[bytes], int | None]:
        """The rest of the file, and how long the whole is."""
        request = urllib.request.Request(self._url, headers={"Range": f"bytes={self._at}-"} if self._at else {})
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
        length = answer.headers.get("Content-Length")
        if answer.status == 206:
            return answer, None if length is None else int(length) + self._at
        answer.read(self._at)  # the server sends the whole file
        return answer, None if length is None else int(length)
