"""What other processes take of the CPU while something is timed: such a figure is theirs as well. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter, process_time

MOST_SHARE = 0.1  # of the CPUs; what runs in the background of a quiet machine takes less
LEAST_SECONDS = 0.2  # the system counts in hundredths of a second

_STAT = Path("/proc/stat")
_BUSY = (1, 2, 3, 6, 7, 8)  # user, nice, system, irq, softirq, and what the hypervisor gave to others; not idle, not waiting


class Neighbours:
    """Other processes, and other guests of the same machine, from the moment this is made.

    Counted on the CPUs that this process may use. Children that it has waited for are not others.
    """

    def __init__(self) -> None:
        self._began = perf_counter()
        self._theirs = _busy_seconds() - _own_seconds()

    def cpus(self) -> float | None:
        """How many CPUs they have kept busy, on average; None where the system does not tell (it is not Linux), or too early."""
        seconds = perf_counter() - self._began
        if not _STAT.exists() or seconds < LEAST_SECONDS:
            return None
        return max(0.0, _busy_seconds() - _own_seconds() - self._theirs) / seconds


def complaints(cpus: float | None, cores: int) -> tuple[str, ...]:
    """What to say of a timing that could use `cores` while neighbours kept `cpus` busy; nothing where that is little."""
    if cpus is None or cpus <= MOST_SHARE * cores:
        return ()
    return (
        f"other processes kept {cpus:.1f} of {cores} CPUs busy during the timing: milliseconds, and which way is the fastest, "
        "may be their doing. Run it again when the machine is quiet",
    )


def _own_seconds() -> float:
    children = os.times()
    return process_time() + children.children_user + children.children_system


def _busy_seconds() -> float:
    """CPU time spent by anybody on the CPUs that this process may use; 0 where the system does not tell."""
    if not _STAT.exists():
        return 0.0
    usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = (line.split() for line in _STAT.read_text(encoding="ascii").splitlines())
    ticks = sum(int(row[column]) for row in rows if row and row[0] in usable for column in _BUSY)
    return ticks / float(os.sysconf("SC_CLK_TCK"))
