"""Stopping a training between two steps, when the process is asked to end."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn, Self


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM only sets `requested`; a second one ends the process at once.

    Outside the main thread, where Python takes no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, signal.Handlers] = {}

    @property
    def requested(self) -> bool:
        return self._received is not None

    def obey(self) -> NoReturn:
        """Ends the program, as this process or another of its team was asked to.

        Raises KeyboardInterrupt for SIGINT, SystemExit(143) for SIGTERM and for another process's request.
        """
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}  # type: ignore[misc]
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
