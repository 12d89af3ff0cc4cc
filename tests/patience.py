"""Waiting for what must happen, however slow or busy the machine is: only what would never end is given up."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence

PATIENCE_S = 300.0


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that must happen; fails when it does not."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def killed_after(words: Sequence[str], count: Callable[[], int], more: int) -> bool:
    """Runs a command and kills it when it has made so many more of what is counted; False where it ended before."""
    enough = count() + more
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: process.poll() is not None or count() >= enough)
    process.kill()
    return process.wait() == -signal.SIGKILL
