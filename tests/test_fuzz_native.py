"""TensorRT's native code, fed with damaged plans and graphs in a process of its own; `make stress` feeds it many more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def fuzz(what: str, first: int, count: int, folder: Path) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.fuzz_native", what, str(first), str(count), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + count, cwd=ROOT)
    assert done.returncode == 0, f"{done.returncode} (negative: killed by that signal)\n{done.stderr[-3000:]}"
    outcomes: dict[str, int] = json.loads(done.stdout)
    return outcomes


def test_damaged_plans_give_typed_errors_and_never_a_crash(tmp_path: Path) -> None:
    outcomes = fuzz("plans", 0, 120, tmp_path)
    assert sum(outcomes.values()) == 3 * 120
    assert outcomes["ArtifactCorrupt"] >= 100
    assert outcomes["ManifestError"] > 50


def test_damaged_graphs_give_a_plan_or_a_typed_error(tmp_path: Path) -> None:
    outcomes = fuzz("graphs", 0, 150, tmp_path)
    assert sum(outcomes.values()) == 150
    assert set(outcomes) <= {"built", "ArtifactCorrupt", "ModelError", "BuildError"}
    assert outcomes["built"] > 5
