"""Huge pages for what an engine has loaded: 2 MB each, where Linux hands out 4 KB to whoever does not ask.

A call of full-size AlexNet reads 61 MB of weights, and the processor must find out where each page of them lies; in a virtual
machine that means two tables. With huge pages such calls take 4 to 10 % less time (docs/decisions/0524-*.md). Engines do not ask
for them, and most distributions give them to nobody who does not. So a thread asks, a second after loading: what has ended by
then has no use for them. It needs Linux 6.1; elsewhere, and where the administrator has said "never", memory stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
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

Blocks = frozenset[int]
log = logs.logger(__name__)


class HugePages:
    """Brings what this process has taken of memory into huge pages, in the background. What lies in it is as it was, always."""

    def __init__(self, before: Blocks) -> None:
        """Begins AFTER_SECONDS from now, if there is anything to do.

        Args:
            before: what was full already (`full_blocks`), and stays as it is.
        """
        self._before = before
        self._loaded = full_blocks() - before
        self._now = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        if len(self._loaded) >= LEAST and is_allowed():
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
        with suppress(OSError):  # some sandboxes refuse it
            # Linux counts a thread as a process here; what else computes goes first.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND)
        libc = ctypes.CDLL(None)
        blocks = sorted(self._taken())
        done = failed = 0
        for start in blocks:
            if self._stopped or failed == _MOST_FAILURES:
                break
            moved = libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), _MADV_COLLAPSE) == 0
            done, failed = (done + 1, 0) if moved else (done, failed + 1)
        log.info("%d of %d times 2 MB are in huge pages", done, len(blocks))

    def _taken(self) -> Blocks:
        """What loading has taken, and the first calls; but not what the application may have filled meanwhile."""
        since = full_blocks() - self._before
        return since if len(since) <= _MOST_GROWTH * len(self._loaded) else self._loaded


def full_blocks(*, tidy: bool = False) -> Blocks:
    """The addresses of the blocks of SIZE in this process's own memory of which every page is there.

    Moving these takes no more memory than there was. None where the system does not tell.

    Args:
        tidy: gives back to the system what is free of them, so that whoever takes it next fills it anew.
    """
    if not sys.platform.startswith("linux"):
        return frozenset()
    libc = ctypes.CDLL(None)
    if tidy and hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(ctypes.c_size_t(0))
    found: list[int] = []
    for first, end in _own_memory():
        start = -(-first // SIZE) * SIZE
        count = (end - start) // SIZE
        if count < 1:
            continue
        pages = (ctypes.c_ubyte * (count * SIZE // _SYSTEM_PAGE))()
        if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(count * SIZE), pages) != 0:
            continue  # gone since
        there = bytes(pages)
        each = SIZE // _SYSTEM_PAGE
        found += [start + i * SIZE for i in range(count) if there.count(1, i * each, (i + 1) * each) == each]
    return frozenset(found)


def is_allowed() -> bool:
    """Whether this system has huge pages, and its administrator lets programs have them."""
    try:
        return "[never]" not in _SETTING.read_text(encoding="ascii")
    except OSError:  # an older Linux, or a sandbox that does not tell
        return False


def _own_memory() -> list[tuple[int, int]]:
    """First and last address + 1 of what is mapped, private, writable, and of no file; nothing where the system does not tell."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # some sandboxes hide it, or let nobody read it
        return []
    found = []
    for line in lines:
        addresses, rights, _offset, _device, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and not any(n.startswith("[stack") for n in name):
            first, _, end = addresses.partition("-")
            found.append((int(first, 16), int(end, 16)))
    return found
