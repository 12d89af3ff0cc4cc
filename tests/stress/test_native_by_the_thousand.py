"""The long run of tests/test_fuzz_native.py: 10,000 plans and 10,000 graphs, others each time $FUZZ_SEED is set."""

from __future__ import annotations

import os
from pathlib import Path

from tests.test_fuzz_native import fuzz

COUNT = 10_000
START = int(os.environ.get("FUZZ_SEED", "1")) * 1_000_000


def test_damaged_plans_by_the_thousand(tmp_path: Path) -> None:
    assert sum(fuzz("plans", START, COUNT, tmp_path).values()) == 3 * COUNT


def test_damaged_graphs_by_the_thousand(tmp_path: Path) -> None:
    assert sum(fuzz("graphs", START, COUNT, tmp_path).values()) == COUNT
