"""SIGTERM ends a command as Ctrl-C does: by an exception, on whose way out half-written files are removed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def by_exception() -> Iterator[None]:
    """Within the block a SIGTERM that is not ignored raises SystemExit(143) in the main thread, once: `timeout` sends two."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # Python takes no signals elsewhere
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a fork: what is half-written is its parent's
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
