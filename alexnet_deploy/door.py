"""The way into an engine: open for calls until it is closed, and closing waits for those that are inside."""

from __future__ import annotations

import threading
from threading import get_ident

from alexnet_deploy.errors import RuntimeClosed


class Door:
    """`with door:` is one call; nobody waits at it. Raises RuntimeClosed once it is closed.

    Threads inside are kept as the keys of a dictionary, whose changes are atomic: that takes a fraction of the time of a lock
    around a number (docs/decisions/0521-*.md). And where Ctrl-C hits between two lines of this class, the entry that it leaves
    behind goes with the thread's next call, or when it closes the door.
    """

    def __init__(self, *, closed: bool = False) -> None:
        self.closed = closed
        self._inside: dict[int, None] = {}
        self._empty = threading.Event()

    def __enter__(self) -> None:
        self._inside[get_ident()] = None  # before looking: whoever closes it either sees this call, or is seen by it
        if self.closed:
            self._leave()
            raise RuntimeClosed("this Runtime is closed", expected="one that is open", fix="Runtime(path)")

    def __exit__(self, *_: object) -> None:
        self._leave()

    def close(self) -> None:
        """Closes it and waits until nobody is inside."""
        self.closed = True
        self._leave()  # a thread that closes is in no call
        self._empty.wait()

    def _leave(self) -> None:
        self._inside.pop(get_ident(), None)
        if self.closed and not self._inside:
            self._empty.set()
