"""When the host of a virtual machine took a core away: "steal" in /proc/stat, which counts ticks of 10 ms."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType

_EVERY_S = 0.01
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_STEAL = 8  # its place in a line


class HostPauses:
    """Watches while a block runs; `intervals` (of time.perf_counter) then cover all moments in which any core was taken."""

    def __init__(self) -> None:
        self.intervals: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> HostPauses:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        file = os.open("/proc/stat", os.O_RDONLY)
        before_s, before = time.perf_counter(), _stolen(file)
        while not self._ended.wait(_EVERY_S):
            now_s, now = time.perf_counter(), _stolen(file)
            if now != before:  # a tick is counted when it is over
                self.intervals.append((before_s - _TICK_S, now_s))
            before_s, before = now_s, now
        os.close(file)


def _stolen(file: int) -> list[bytes]:
    lines = os.pread(file, 1 << 16, 0).splitlines()
    return [line.split()[_STEAL] for line in lines if line.startswith(b"cpu")]
