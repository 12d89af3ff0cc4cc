"""Fixtures that many tests share; each is made once a run."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent

# A loaded machine is no failure, and a failure is met again by everybody: no deadline, the same examples every run.
hypothesis.settings.register_profile("alexnet-deploy", deadline=None, derandomize=True)
hypothesis.settings.load_profile("alexnet-deploy")

# libgomp reads it when torch is imported. Its threads otherwise spin at barriers: 100 times slower where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# numpy's OpenBLAS has no such policy: its second thread would burn more time than all the tests of quantisation take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress", action="store_true", help="Run tests/stress too: the long versions, many minutes.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    long = Path(__file__).parent / "stress"
    return True if collection_path.is_relative_to(long) and not config.getoption("--stress") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests marked slow begin first: begun last, one worker would sit idle while the other runs them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_taken() -> None:
    """A shell's background jobs ignore SIGINT, and so would the tests of it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test run share: what takes long is made there by the first who needs it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def wheel(common: Path) -> Path:
    """The project as a wheel, built from this checkout."""
    folder = common / "wheel"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
            subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel and no checkout; what it depends on is borrowed from the environment of the tests."""

    home: Path

    def run(self, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """One of its programs, in `folder`, on one thread; it must end well."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ALEXNET_DEPLOY_"))}
        program, environment = self.home / "bin" / words[0], {**clean, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="session")
def installed(wheel: Path, common: Path) -> Installed:
    home = common / "installed"
    with FileLock(f"{home}.lock"):
        if not home.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
            (packages,) = home.glob("lib/python*/site-packages")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
            # The folder of a .pth file is searched, but no .pth file in it is obeyed: an editable install there stays unseen.
            (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
            script = home / "bin/alexnet-deploy"
            script.write_text(f"#!{home}/bin/python\nfrom alexnet_deploy.cli import main\nmain()\n")
            script.chmod(0o755)
    return Installed(home)


@dataclass(frozen=True)
class Demo:
    """What `alexnet-deploy demo --quick --json` left behind, run once for all tests."""

    folder: Path
    report: dict[str, Any]
    stderr: str


@pytest.fixture(scope="session")
def demo(installed: Installed, common: Path) -> Demo:
    """The whole way, by the command of the installed wheel: about half a minute."""
    folder = common / "demo"
    printed, told = folder / "stdout", folder / "stderr"
    with FileLock(f"{folder}.lock"):
        if not told.exists():
            folder.mkdir(exist_ok=True)
            done = installed.run("alexnet-deploy", "demo", "--quick", "--json", folder=folder)
            printed.write_text(done.stdout)
            told.write_text(done.stderr)
    return Demo(folder / "models/demo", json.loads(printed.read_text()), told.read_text())
