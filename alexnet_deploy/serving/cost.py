"""How long a batch will take: a fixed part and a part a row, kept true by what is measured while serving."""

from __future__ import annotations

import time
from collections.abc import Callable

_MEASURE_S = 0.5
_NEWEST = 0.1


class Cost:
    """seconds(n) = (fixed + n * per_row) * drift.

    Two warm-up measurements give the line; later batches only scale it. A line of one parameter would mistake the price of
    starting a call for a price a row, and then never try the larger batch that disproves it.
    """

    def __init__(self, fixed_s: float, per_row_s: float) -> None:
        self._fixed_s = fixed_s
        self._per_row_s = per_row_s
        self._drift = 1.0

    @classmethod
    def measure(cls, run: Callable[[int], object], max_batch: int) -> Cost:
        """Runs single rows and one batch of up to `max_batch` rows: about a second at most.

        Args:
            run: computes a batch of that many rows.
        """
        run(1)  # the first call of an engine allocates; it says nothing about the second
        one_s = min(_seconds(run, 1) for _ in range(3))
        many = max(1, min(max_batch, int(_MEASURE_S / one_s)))
        if many == 1:
            return cls(0.0, one_s)
        run(many)
        per_row_s = max((_seconds(run, many) - one_s) / (many - 1), 1e-9)
        return cls(max(one_s - per_row_s, 0.0), per_row_s)

    def seconds(self, rows: int) -> float:
        return (self._fixed_s + rows * self._per_row_s) * self._drift

    def rows_within(self, seconds: float) -> int:
        """The largest batch that takes no longer; at least 1."""
        return max(1, int((seconds / self._drift - self._fixed_s) / self._per_row_s))

    def observe(self, rows: int, seconds: float) -> None:
        """Takes a measured batch into account."""
        self._drift = min(max((1 - _NEWEST) * self._drift + _NEWEST * self._drift * seconds / self.seconds(rows), 0.01), 100.0)


def _seconds(run: Callable[[int], object], rows: int) -> float:
    start = time.perf_counter()
    run(rows)
    return max(time.perf_counter() - start, 1e-9)
