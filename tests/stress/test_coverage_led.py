"""Fuzzing led by coverage, where atheris is installed: it is no dependency, since its wheels are for Linux only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytest.importorskip("atheris")


@pytest.mark.parametrize(("what", "runs"), [("manifests", 50_000), ("graphs", 20_000), ("pictures", 20_000)])
def test_nothing_but_typed_errors_comes_out(what: str, runs: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz_coverage", what, f"-runs={runs}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs} runs" in done.stderr
