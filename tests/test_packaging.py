"""The wheel is the whole product: installed where there is no checkout, it works."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from alexnet_deploy import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """The bin/ of an environment that holds the wheel; what it depends on is borrowed from the environment of the tests."""
    home = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # The folder of a .pth file is searched, but no .pth file in it is obeyed: an editable install there stays out of sight.
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    script = home / "bin/alexnet-deploy"
    script.write_text(f"#!{home}/bin/python\nfrom alexnet_deploy.cli import main\nmain()\n")
    script.chmod(0o755)
    return home / "bin"


def run(environment: Path, *words: str, folder: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ALEXNET_DEPLOY_"))}
    done = subprocess.run(
        [environment / words[0], *words[1:]], cwd=folder, env={**clean, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"alexnet_deploy", "training", f"alexnet_deploy-{__version__}.dist-info"}
    shipped = {
        str(path.relative_to(ROOT))
        for package in ("alexnet_deploy", "training")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == shipped
    assert "alexnet_deploy/py.typed" in names
    assert f"alexnet_deploy-{__version__}.dist-info/licenses/LICENSE" in names


def test_the_wheel_says_what_the_project_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"alexnet_deploy-{__version__}.dist-info/METADATA").decode()
        entries = archive.read(f"alexnet_deploy-{__version__}.dist-info/entry_points.txt").decode()
    assert f"Version: {__version__}\n" in metadata
    assert "alexnet-deploy = alexnet_deploy.cli:main" in entries


def test_the_installed_command_is_that_of_the_wheel(environment: Path, tmp_path: Path) -> None:
    assert run(environment, "alexnet-deploy", "--version", folder=tmp_path) == f"alexnet-deploy, version {__version__}\n"
    code = "import alexnet_deploy, training; print(alexnet_deploy.__file__, training.__file__)"
    for path in run(environment, "python", "-c", code, folder=tmp_path).split():
        assert Path(path).is_relative_to(environment.parent)


def test_the_demo_runs_without_a_checkout(environment: Path, tmp_path: Path) -> None:
    report = json.loads(run(environment, "alexnet-deploy", "demo", "--quick", "--json", folder=tmp_path))
    made = {path.name for path in (tmp_path / "models/demo").iterdir()}
    assert {*report["verification"]["files"], "report.html", "report.json"} <= made
    plan = "models/demo/alexnet.int8.plan"
    answer = json.loads(run(environment, "alexnet-deploy", "predict", plan, "demo", "--json", folder=tmp_path))
    assert len(answer["pictures"]) == 1000


def test_the_doctor_knows_what_is_installed(environment: Path, tmp_path: Path) -> None:
    found = json.loads(run(environment, "alexnet-deploy", "doctor", "--json", folder=tmp_path))
    assert found["backends"]
