"""Processes that make batches: the same as threads would, never overwritten, and gone with the training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import PictureSet
from training import makers
from training.batches import Seen, TrainingBatches
from training.makers import Makers, in_order
from training.settings import TrainSettings

pytestmark = pytest.mark.skipif(not makers.can_fork(), reason="threads make batches here")
SECONDS_TO_WAIT = 120
SLOT_BYTES = 256


def counted(item: int) -> makers.Made:
    """Some arrays of a number, and a note of whose they are."""
    if item < 0:
        raise ValueError(f"{item} is below zero")
    return [np.full((2, 3), item, np.float32), None, np.arange(item % 4)], {"process": str(os.getpid())}


@pytest.fixture
def two() -> Iterator[Makers[int]]:
    made = Makers(counted, int, SLOT_BYTES, 2)
    yield made
    made.close()


def process_of(made: Makers[int]) -> int:
    return int(made(1)[1]["process"])


def test_arrays_come_back_in_order_and_are_other_processes_work(two: Makers[int]) -> None:
    found = list(in_order(counted, two, range(20)))
    assert os.getpid() not in {int(note["process"]) for _, note in found}
    for number, ((full, nothing, counting), _) in enumerate(found):  # all are kept until the last has come
        assert (full == number).all()
        assert nothing is None
        assert counting.tolist() == list(range(number % 4))


def test_memory_is_used_again_when_nothing_refers_to_it(two: Makers[int]) -> None:
    addresses = {two(number)[0][0].ctypes.data for number in range(30)}
    assert len(addresses) <= 5
    view = two(7)[0][0][1:]  # of a view, too
    assert all(not np.shares_memory(view, two(number)[0][0]) for number in range(30))
    assert (view == 7).all()


def test_what_fails_there_is_told_here_and_does_not_end_it(two: Makers[int]) -> None:
    for _ in range(10):  # no memory is lost with them
        with pytest.raises(RuntimeError, match="-3 is below zero"):
            two(-3)
    assert two(3)[0][0][0, 0] == 3


def test_a_process_that_was_killed_is_told_and_not_waited_for(two: Makers[int]) -> None:
    os.kill(process_of(two), signal.SIGKILL)
    with pytest.raises(AlexnetDeployError, match=r"was killed.*--batch-size"):
        for number in range(4):
            two(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_leave_them_working(two: Makers[int], number: signal.Signals) -> None:
    for _ in range(2):
        os.kill(process_of(two), number)
    assert {process_of(two) for _ in range(4)} == {process_of(two), process_of(two)}


def test_they_end_with_the_training_even_if_it_is_killed() -> None:
    program = (
        "import os, signal, sys; from training.makers import Makers\n"
        "make = lambda item: ([], {'process': str(os.getpid())})\n"
        "two = [Makers(make, int, 64, 2) for _ in range(2)]\n"
        "print(*{one(0)[1]['process'] for one in two for _ in range(2)}, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS_TO_WAIT)
    processes = [int(number) for number in done.stdout.split()]
    assert len(processes) == 4
    until = time.monotonic() + SECONDS_TO_WAIT
    while any(runs(number) for number in processes):
        assert time.monotonic() < until
        time.sleep(0.01)


def runs(process: int) -> bool:
    """One that has ended, and was not yet noticed by whoever adopted it, does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_threads_make_the_same_where_there_is_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = PictureSet.open("demo:train").sample(40)
    settings = TrainSettings(batch_size=8, seed=3, mixup=0.2, crop=0.4, policy="trivial", erase=0.5, colour=0.1)

    def epoch() -> list[Seen]:
        return list(TrainingBatches(pictures, Preprocess(height=24, width=24), settings).epoch(1))

    forked = epoch()
    monkeypatch.setattr("training.batches.can_fork", lambda: False)
    for seen, again in zip(forked, epoch(), strict=True):
        for array, other in zip(seen.arrays(), again.arrays(), strict=True):
            np.testing.assert_array_equal(array, other)
