"""kill -9, 300 times in the middle of train, export and build-engine: no artifact is half-written and yet accepted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_no_artifact_is_half_written_and_yet_accepted() -> None:
    command = [sys.executable, "-m", "tests.kills", "300", os.environ.get("FUZZ_SEED", "1")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=7200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert sum(found["killed"].values()) > 200
    assert set(found["artifacts"]) <= {"whole", "ManifestError", "ArtifactCorrupt", "ArtifactMissing", "temporary files left"}
