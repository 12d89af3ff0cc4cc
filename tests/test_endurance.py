"""Long use: no growth in memory, threads or file handles, and the same answers bit for bit. The long version is in stress/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
# An allocator keeps pages for later: what leaks by the call outgrows this within the calls that are made here.
MOST_GROWTH_BYTES = 16 << 20


def endure(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.endurance", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("kind", "count"), [("predictions", 2000), ("openings", 20)])
def test_nothing_grows_and_nothing_changes(kind: str, count: int) -> None:
    check_growth(endure(kind, count))


def test_many_threads_get_the_single_threads_answers_bit_for_bit() -> None:
    for found in endure("threads", 8, 50).values():
        assert found == {"wrong": 0, "calls": 400}


def check_growth(found: dict[str, Any]) -> None:
    for backend, result in found.items():
        assert result["wrong"] == 0, backend
        assert result["grown"]["threads"] <= 0, (backend, result)
        assert result["grown"]["files"] <= 0, (backend, result)
        assert result["grown"]["rss_bytes"] < MOST_GROWTH_BYTES, (backend, result)
