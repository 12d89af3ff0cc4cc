"""The way into an engine: open for calls until it is closed, and closing waits for those that are inside."""

from __future__ import annotations

import threading

from alexnet_deploy.errors import RuntimeClosed


class Door:
    """`with door:` is one call. Raises RuntimeClosed once the door is closed.

    Nobody waits at it unless `one_at_a_time`. Calls are counted by a list, whose append and pop are atomic: they are a tenth of
    what two locks take, in every call (docs/decisions/0521-*.md).
    """

    def __init__(self, *, one_at_a_time: bool, closed: bool = False) -> None:
        self.closed = closed
        self._inside: list[None] = []
        self._turn = threading.Lock() if one_at_a_time else None
        self._closing = threading.Lock()
        self._empty = threading.Event()

    def __enter__(self) -> None:
        self._inside.append(None)  # before looking: whoever closes it either sees this call, or is seen by it
        if self.closed:
            self._leave()
            raise RuntimeClosed("this Runtime is closed", expected="one that is open", fix="Runtime(path)")
        if self._turn is not None:
            try:
                self._turn.acquire()
            except BaseException:  # Ctrl-C while waiting
                self._leave()
                raise

    def __exit__(self, *_: object) -> None:
        if self._turn is not None:
            self._turn.release()
        self._leave()

    def close(self) -> bool:
        """Closes it and waits until nobody is inside. Whether this call, and none before, closed it."""
        with self._closing:
            first, self.closed = not self.closed, True
        if not self._inside:
            self._empty.set()
        self._empty.wait()
        return first

    def renewed(self) -> Door:
        """As it is, for the child of a fork: those inside, and their locks, are in the parent."""
        return Door(one_at_a_time=self._turn is not None, closed=self.closed)

    def _leave(self) -> None:
        self._inside.pop()
        if self.closed and not self._inside:
            self._empty.set()
