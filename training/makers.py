"""Processes that make batches while this one trains.

Threads would take turns with the training at the interpreter's lock, which Pillow takes and gives back several times a
picture. The processes are forks: they have the pictures' list, the settings and the shared memory already, and nothing is
loaded again. What they make comes back through shared memory, uncopied; the rest of an answer is MessagePack.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import sys
import traceback
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from alexnet_deploy.decoding import in_threads
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.machine import usable_cores

_MOST = 16
_ALIGNED = 64  # bytes: where an array begins
_NICENESS = 19  # beside a training on the same cores: it goes first, and they fill the gaps that its steps leave

Given = TypeVar("Given")
Arrays = list[Any]  # numpy arrays, and None
Unread = dict[str, str]
Made = tuple[Arrays, Unread]
Make = Callable[[Given], Made]
Kind = tuple[str, list[int]]


class _Task(msgspec.Struct, Generic[Given], array_like=True):
    """What a maker is sent: the number of a slot that is free, and an item."""

    slot: int
    item: Given


class _Answer(msgspec.Struct, array_like=True):
    """What it sends back, beside what it wrote to the slot.

    Attributes:
        kinds: dtype and shape of each array; None for None.
        unread: as the function returned it.
        failure: of the function; "" without one.
    """

    kinds: list[Kind | None] = []
    unread: Unread = {}
    failure: str = ""


class _Maker(NamedTuple):
    """A process that waits for an item, and the pipe to it."""

    process: int
    pipe: Connection


class Makers(Generic[Given]):
    """A function that other processes compute; as many threads as there are processes may call it at once.

    The arrays that it gives may lie in a slot, which is used again when nothing refers to them any more.

    Args:
        make: what they do with an item, to arrays and a note of what could not be read. It must not use PyTorch, whose threads
            do not survive a fork.
        given: the type of an item, of those that msgspec knows.
        slot_bytes: what the arrays take in all, at most, each rounded up to 64.
        count: of the processes.
        yielding: let go first whoever else wants the cores.

    Raises:
        AlexnetDeployError: a process was killed.
        RuntimeError: the function failed.
    """

    def __init__(self, make: Make[Given], given: type[Given], slot_bytes: int, count: int, *, yielding: bool = False) -> None:
        self._slots = [shared_memory(slot_bytes) for _ in range(count + 3)]  # one each, one ready, and what a step looks at
        self._free: SimpleQueue[int] = SimpleQueue()
        self._idle: SimpleQueue[_Maker] = SimpleQueue()
        for number in range(len(self._slots)):
            self._free.put(number)
        decoder = msgspec.msgpack.Decoder(_Task[given])  # type: ignore[valid-type]
        work = partial(_serve, make, decoder, self._slots)
        makers: list[_Maker] = []
        for _ in range(count):
            makers.append(_forked(work, makers, _NICENESS if yielding else 0))
            self._idle.put(makers[-1])
        self.close = weakref.finalize(self, _end, makers)

    def __call__(self, item: Given) -> Made:
        maker, slot = self._idle.get(), self._free.get()
        memory = np.frombuffer(self._slots[slot], np.uint8)
        weakref.finalize(memory, self._free.put, slot).atexit = False  # when the last view of it is gone
        try:
            maker.pipe.send_bytes(msgspec.msgpack.encode(_Task(slot, item)))
            answer = msgspec.msgpack.decode(maker.pipe.recv_bytes(), type=_Answer)
        except (EOFError, OSError) as error:
            raise AlexnetDeployError(
                "a process that makes batches was killed",
                expected="memory for all of them",
                fix="a smaller --batch-size; --resume goes on",
            ) from error
        finally:
            self._idle.put(maker)
        if answer.failure:
            raise RuntimeError(f"a process that makes batches failed:\n{answer.failure}")
        arrays = _views(memory, answer.kinds)
        if self._free.empty():  # whoever asked for batches keeps them
            arrays = [None if array is None else array.copy() for array in arrays]
        return arrays, answer.unread


def in_order(make: Make[Given], makers: Makers[Given] | None, items: Iterable[Given]) -> Generator[Made, None, None]:
    """What becomes of each item, made ahead: by processes, or by threads of this one where there are none."""
    count = number_of_makers()
    return in_threads(makers or make, items, ahead=count + 1, workers=count)


def number_of_makers() -> int:
    """One a core of this process's share of the machine."""
    return max(1, min(_MOST, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def can_fork() -> bool:
    """macOS can, but its libraries do not bear it."""
    return hasattr(os, "fork") and sys.platform != "darwin"


def shared_memory(size_bytes: int) -> mmap.mmap:
    """Zeroes that forks see each other write to; the system gives the memory as it is written to.

    It is nameless: no file, and not bound by the size of /dev/shm, which is 64 MB in most containers.
    """
    return mmap.mmap(-1, max(1, size_bytes))


def _forked(work: Callable[[Connection], NoReturn], before: list[_Maker], niceness: int) -> _Maker:
    ours, theirs = Pipe()
    if process := os.fork():
        theirs.close()
        return _Maker(process, ours)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C goes to the whole group; the training ends when it is ready to
            signal.signal(number, signal.SIG_IGN)
        os.nice(niceness)
        for pipe in (ours, *(maker.pipe for maker in before)):
            pipe.close()  # so that it ends with the training
        with suppress(EOFError, OSError):
            work(theirs)
    finally:
        os._exit(0)  # nothing of the other process's is flushed, or run at its end


def _serve(make: Make[Any], decoder: msgspec.msgpack.Decoder[Any], slots: list[mmap.mmap], pipe: Connection) -> NoReturn:
    while True:
        task = decoder.decode(pipe.recv_bytes())
        try:
            arrays, unread = make(task.item)
            kinds: list[Kind | None] = [None if array is None else (array.dtype.str, list(array.shape)) for array in arrays]
            for place, array in zip(_views(np.frombuffer(slots[task.slot], np.uint8), kinds), arrays, strict=True):
                if place is not None:
                    place[...] = array
            answer = _Answer(kinds, unread)
        except Exception:
            answer = _Answer(failure=traceback.format_exc())
        pipe.send_bytes(msgspec.msgpack.encode(answer))


def _views(memory: npt.NDArray[np.uint8], kinds: list[Kind | None]) -> Arrays:
    """Arrays of these dtypes and shapes, one after the other in the same memory."""
    views: Arrays = []
    start = 0
    for kind in kinds:
        if kind is None:
            views.append(None)
            continue
        dtype, shape = np.dtype(kind[0]), kind[1]
        end = start + dtype.itemsize * math.prod(shape)
        views.append(memory[start:end].view(dtype).reshape(shape))
        start = _aligned(end)
    return views


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _end(makers: list[_Maker]) -> None:
    for maker in makers:
        maker.pipe.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(maker.process, signal.SIGKILL)  # it has nothing to lose
            os.waitpid(maker.process, 0)
