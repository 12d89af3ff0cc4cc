"""Waiting for what must happen, however slow or busy the machine is: only what would never end is given up."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 300.0


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that must happen; fails when it does not."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
