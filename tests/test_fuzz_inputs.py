"""Damaged pictures and absurd batches: a typed error or a right answer; `make stress` tries many more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def fuzz(what: str, first: int, count: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.fuzz_inputs", what, str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 + count, cwd=ROOT)
    assert done.returncode == 0, f"{done.returncode} (negative: killed by that signal)\n{done.stderr[-3000:]}"
    outcomes: dict[str, int] = json.loads(done.stdout)
    assert sum(outcomes.values()) == count
    return outcomes


def test_damaged_pictures_are_read_or_refused() -> None:
    outcomes = fuzz("pictures", 0, 200)
    assert outcomes["a picture"] > 20
    assert outcomes["PictureError"] > 50


def test_a_batch_is_answered_or_refused() -> None:
    outcomes = fuzz("batches", 0, 200)
    assert outcomes["answered"] > 20
    assert outcomes["InputError"] > 50
