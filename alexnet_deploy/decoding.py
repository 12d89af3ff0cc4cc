"""Many pictures at once: decoded and fitted in parallel, in order, ahead of whoever asks for them, in bounded memory."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from sys import is_finalizing
from typing import Generic, TypeVar, cast

import numpy as np

from alexnet_deploy.errors import InputError, PictureError
from alexnet_deploy.machine import usable_cores
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.preprocess import Pixels, decode, decode_fitted, fit


@dataclass(frozen=True, slots=True)
class Packed:
    """A picture file that lies inside another file, such as a tar."""

    file: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """Its bytes. Raises PictureError."""
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise PictureError(f"{self.name} cannot be read ({error})", expected="the file that it was found in") from error


@dataclass(frozen=True, slots=True)
class InMemory:
    """A file that has come over a network."""

    name: str
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self) -> bytes:
        return self.content


Source = str | Path | Pixels | Packed | InMemory
Fitted = Pixels | PictureError | InputError
Given = TypeVar("Given")
Made = TypeVar("Made")


def decoded(source: Source) -> Pixels:
    """uint8 (H, W, 3) RGB. Raises PictureError."""
    if isinstance(source, (str, Path)):
        return decode(source)
    return decode(source.read(), name=source.name) if isinstance(source, (Packed, InMemory)) else np.ascontiguousarray(source)


def fitted(
    sources: Iterable[Source], recipe: Preprocess, *, ahead: int = 64, workers: int | None = None
) -> Generator[Fitted, None, None]:
    """Each picture as `fit` gives it, or the error that it met; one broken picture does not stop the rest.

    Threads decode while the caller does other work with what it has: Pillow lets go of the interpreter's lock.

    Args:
        sources: files, or uint8 (H, W, 3) RGB arrays of any size; taken no sooner than they are needed.
        recipe: the size to fit them to.
        ahead: pictures that are decoded before they are asked for.
        workers: threads; one a core when None.

    Yields:
        uint8 (recipe.height, recipe.width, 3), in the order of `sources`.
    """
    return in_threads(partial(fitted_one, recipe=recipe), sources, ahead=ahead, workers=workers)


def in_threads(
    function: Callable[[Given], Made], items: Iterable[Given], *, ahead: int = 64, workers: int | None = None
) -> Generator[Made, None, None]:
    """`map`, in order, by threads that are up to `ahead` items before whoever asks; `items` may be endless.

    Ctrl-C may come at any moment, and ends it. `threading` and concurrent.futures are made of locks that are written in Python:
    one that is interrupted while it is taken stays taken, and threads wait for it for ever. What is used here is written in C.
    """
    remaining = iter(items)
    most_threads, started = workers or usable_cores(), 0
    tasks: SimpleQueue[tuple[Given, SimpleQueue[_Outcome[Made]]] | None] = SimpleQueue()
    waiting: deque[SimpleQueue[_Outcome[Made]]] = deque()
    ended: SimpleQueue[None] = SimpleQueue()

    def work() -> None:
        while task := tasks.get():
            item, answer = task
            try:
                answer.put(_Outcome(made=function(item)))
            except BaseException as error:
                answer.put(_Outcome(error=error))
        tasks.put(None)  # for the next thread
        ended.put(None)

    def begin(count: int) -> None:
        nonlocal started
        for item in islice(remaining, count):
            answer: SimpleQueue[_Outcome[Made]] = SimpleQueue()
            tasks.put((item, answer))
            waiting.append(answer)
            if started < most_threads:
                _thread.start_new_thread(work, ())
                started += 1

    try:
        begin(ahead)
        while waiting:
            outcome = waiting.popleft().get()
            begin(1)
            yield outcome.unwrap()
    finally:
        with suppress(Empty):
            while True:
                tasks.get_nowait()  # what nobody will ask for
        tasks.put(None)
        for _ in range(0 if is_finalizing() else started):  # at the interpreter's end they run no more, wherever they are
            ended.get()


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Made]):
    """What a thread made of an item, or the error that it met."""

    made: Made | None = None
    error: BaseException | None = None

    def unwrap(self) -> Made:
        if self.error is not None:
            raise self.error
        return cast(Made, self.made)


def fitted_one(source: Source, recipe: Preprocess) -> Fitted:
    """uint8 (recipe.height, recipe.width, 3), or the error that says why it cannot be had."""
    try:
        if isinstance(source, (str, Path)):
            return decode_fitted(source, recipe)
        if isinstance(source, (Packed, InMemory)):
            return decode_fitted(source.read(), recipe, name=source.name)
        if (
            not isinstance(source, np.ndarray)
            or isinstance(source, np.ma.MaskedArray)
            or source.dtype != np.uint8
            or source.ndim != 3
            or source.shape[-1] != 3
            or not source.size
        ):
            found = f"{source.dtype} {source.shape}" if type(source) is np.ndarray else f"a {type(source).__name__}"
            return InputError(f"a picture is {found}", expected="a file, or uint8 (H, W, 3) RGB")
        return fit(source, recipe)
    except (PictureError, InputError) as error:
        return error
