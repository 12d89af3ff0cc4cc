"""The wheel is the whole product: installed where there is no checkout, it works."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from conftest import ROOT, Demo, Installed

from alexnet_deploy import __version__


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


def test_the_installed_command_is_that_of_the_wheel(installed: Installed, tmp_path: Path) -> None:
    assert installed.run("alexnet-deploy", "--version", folder=tmp_path).stdout == f"alexnet-deploy, version {__version__}\n"
    code = "import alexnet_deploy, training; print(alexnet_deploy.__file__, training.__file__)"
    for path in installed.run("python", "-c", code, folder=tmp_path).stdout.split():
        assert Path(path).is_relative_to(installed.home)


def test_the_demo_runs_without_a_checkout(demo: Demo, installed: Installed, tmp_path: Path) -> None:
    made = {path.name for path in demo.folder.iterdir()}
    assert {*demo.report["verification"]["files"], "report.html", "report.json"} <= made
    plan = str(demo.folder / "alexnet.int8.plan")
    answer = json.loads(installed.run("alexnet-deploy", "predict", plan, "demo", "--json", folder=tmp_path).stdout)
    assert len(answer["pictures"]) == 1000


def test_the_doctor_knows_what_is_installed(installed: Installed, tmp_path: Path) -> None:
    found = json.loads(installed.run("alexnet-deploy", "doctor", "--json", folder=tmp_path).stdout)
    assert found["backends"]
