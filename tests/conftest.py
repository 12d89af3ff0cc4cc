"""Fixtures that many tests share; each is made once a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A loaded machine is no failure, and a failure is met again by everybody: no deadline, the same examples every run.
hypothesis.settings.register_profile("alexnet-deploy", deadline=None, derandomize=True)
hypothesis.settings.load_profile("alexnet-deploy")

# libgomp reads it when torch is imported. Its threads otherwise spin at barriers: 100 times slower where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress", action="store_true", help="Run tests/stress too: the long versions, many minutes.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    long = Path(__file__).parent / "stress"
    return True if collection_path.is_relative_to(long) and not config.getoption("--stress") else None


@dataclass(frozen=True)
class Demo:
    """What `alexnet-deploy demo --quick --json` left behind, run once for all tests."""

    folder: Path
    report: dict[str, Any]
    stderr: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The whole way, through the real command in a process of its own: about half a minute."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    program = Path(sys.executable).with_name("alexnet-deploy")
    done = subprocess.run([program, "demo", "--quick", "--json", "-o", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Demo(folder, json.loads(done.stdout), done.stderr)
