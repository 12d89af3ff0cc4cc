"""The long run of tests/test_fuzz_odd.py: 1,000 graphs, and two plans of each of 200 others; others where $FUZZ_SEED is set."""

from __future__ import annotations

import os
from pathlib import Path

from tests.test_fuzz_odd import fuzz

START = int(os.environ.get("FUZZ_SEED", "1")) * 1_000_000


def test_odd_graphs_by_the_hundred(tmp_path: Path) -> None:
    assert fuzz(START, 1000, tmp_path) == {"answered": 1000}


def test_odd_graphs_become_plans(tmp_path: Path) -> None:
    outcomes = fuzz(START + 1000, 200, tmp_path, "--plans")
    assert outcomes["answered"] == 200
    assert outcomes["two plans"] > 150
