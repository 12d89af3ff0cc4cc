"""Valid graphs of odd shapes go the whole way, to INT8 in both forms and FP16; `make stress` tries many more, with plans."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def fuzz(first: int, count: int, folder: Path, *options: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.fuzz_odd", str(first), str(count), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 + 10 * count, cwd=ROOT)
    assert done.returncode == 0, f"{done.returncode} (negative: killed by that signal)\n{done.stderr[-3000:]}"
    outcomes: dict[str, int] = json.loads(done.stdout)
    return outcomes


def test_odd_graphs_answer_in_every_precision(tmp_path: Path) -> None:
    assert fuzz(0, 12, tmp_path) == {"answered": 12}
