"""Huge pages for what an engine has loaded: 2 MB each, where Linux hands out 4 KB to whoever does not ask.

A call of full-size AlexNet reads 61 MB of weights, and the processor must find out where each page of them lies; in a virtual
machine that means two tables. With huge pages such calls take a tenth less time (docs/decisions/0524-*.md). Engines do not ask
for them, and most distributions give them to nobody who does not. So a thread asks, a second after loading: what has ended by
then has no use for them. It needs Linux 6.1; elsewhere, and where the administrator has said "never", memory stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from alexnet_deploy import logs

SIZE = 2 << 20
AFTER_SECONDS = 1.0
LEAST = 4  # for less than 8 MB nothing is begun
_MOST_FAILURES = 3  # in a row: an older Linux, or no memory in one piece
_MOST_GROWTH = 2  # times what loading took: what calls work in is seldom more
_MADV_COLLAPSE = 25
_SYSTEM_PAGE = 4096
_BACKGROUND = 10
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS = Path("/proc/self/maps")

Range = tuple[int, int]
log = logs.logger(__name__)


class HugePages:
    """Brings what this process has taken of memory into huge pages, in the background. What lies in it is as it was, always."""

    def __init__(self, before: Sequence[Range]) -> None:
        """Begins AFTER_SECONDS from now, if there is anything to do.

        Args:
            before: what was `mapped` already, and stays as it is.
        """
        self._before = before
        self._loaded = added(before, mapped())
        self._now = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        if len(_blocks(self._loaded)) >= LEAST and is_allowed():
            self._thread = threading.Thread(target=self._run, name="alexnet-deploy-huge-pages", daemon=True)
            self._thread.start()

    def settle(self) -> None:
        """Does it now, and waits for it: for whoever is about to time something."""
        self._now.set()
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """Leaves the rest as it is. Waits until nothing is being moved."""
        self._stopped = True
        self.settle()

    def _run(self) -> None:
        self._now.wait(AFTER_SECONDS)
        # Linux counts a thread as a process here; what else computes goes first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND)
        libc = ctypes.CDLL(None)
        blocks = self._taken()
        done = failed = 0
        for start in blocks:
            if self._stopped or failed == _MOST_FAILURES:
                break
            if not _is_in_memory(libc, start):
                continue
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), _MADV_COLLAPSE) == 0:
                done, failed = done + 1, 0
            else:
                failed += 1
        log.info("%d of %d times 2 MB are in huge pages", done, len(blocks))

    def _taken(self) -> list[int]:
        """Blocks that were taken by loading, and by the first calls; but not what the application may have filled meanwhile."""
        loaded, since = _blocks(self._loaded), _blocks(added(self._before, mapped()))
        return since if len(since) <= _MOST_GROWTH * len(loaded) else loaded


def mapped() -> list[Range]:
    """Where this process's own memory lies: private, writable, of no file. Nothing where the system does not tell.

    What is taken from it and given back stays with the process: a look before and one after show most of what was taken, not all.
    """
    if not sys.platform.startswith("linux") or not _MAPS.exists():
        return []
    found = []
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, rights, _offset, _device, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and not any(n.startswith("[stack") for n in name):
            first, _, end = addresses.partition("-")
            found.append((int(first, 16), int(end, 16)))
    return found


def added(before: Sequence[Range], after: Sequence[Range]) -> list[Range]:
    """The parts of `after` that are not in `before`; both in order of their addresses, as `mapped` tells them."""
    found = []
    for start, end in after:
        for known_start, known_end in before:
            if known_end <= start or known_start >= end:
                continue
            if known_start > start:
                found.append((start, known_start))
            start = known_end
        if start < end:
            found.append((start, end))
    return found


def _blocks(ranges: Sequence[Range]) -> list[int]:
    """The addresses at which a huge page can begin, and lies in them whole."""
    return [start for first, end in ranges for start in range(-(-first // SIZE) * SIZE, end - SIZE + 1, SIZE)]


def is_allowed() -> bool:
    """Whether this system has huge pages, and its administrator lets programs have them."""
    return _SETTING.exists() and "[never]" not in _SETTING.read_text(encoding="ascii")


def _is_in_memory(libc: ctypes.CDLL, start: int) -> bool:
    """Whether all 4 KB pages of a block are: moving it then takes no more memory than there was."""
    pages = (ctypes.c_ubyte * (SIZE // _SYSTEM_PAGE))()
    return libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), pages) == 0 and all(page & 1 for page in pages)
