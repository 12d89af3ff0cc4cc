"""The examples run, and the Dockerfiles are sound and name what exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alexnet_deploy.backends.fake import write_fake
from tests.patience import PATIENCE_S
from tests.serving import LABELS, picture, write_model

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "shoes.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for i, file in enumerate(files):
        file.write_bytes(picture(i) if i != 2 else b"broken")
    return files


def run(name: str, *words: str | Path) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | {"BACKEND": "fake"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_thread_pool_shares_one_runtime(model: Path, photos: list[Path]) -> None:
    lines = run("thread_pool.py", model, *photos).splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(p) for p in photos]
    assert "cannot be read as a picture" in lines[2]
    assert all(any(label in line for label in LABELS) for i, line in enumerate(lines) if i != 2)


def test_an_asyncio_worker_batches_what_comes(model: Path, photos: list[Path]) -> None:
    sound = [p for i, p in enumerate(photos) if i != 2]
    lines = run("asyncio_worker.py", model, *sound).splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(p) for p in sound]


def test_a_fastapi_application_answers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    testing = pytest.importorskip("fastapi.testclient")
    monkeypatch.setenv("MODEL", str(model))
    monkeypatch.setenv("BACKEND", "fake")
    monkeypatch.syspath_prepend(EXAMPLES)
    from fastapi_app import app

    with testing.TestClient(app) as client:
        answer = client.post("/classify?top=3", content=picture())
        assert answer.status_code == 200
        assert len(answer.json()) == 3
        assert answer.json()[0]["label"] in LABELS
        assert client.post("/classify", content=b"broken").status_code == 400


@pytest.mark.parametrize(("flavour", "tool"), [("tensorrt", "trtexec"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_the_trtexec_line_fits_the_plan(tmp_path: Path, flavour: str, tool: str) -> None:
    from alexnet_deploy.manifest import PlanRecord
    from alexnet_deploy.types import BatchRange, Flavour

    record = PlanRecord(flavour=Flavour(flavour), version="0", capabilities=("current",))
    plan = write_fake(tmp_path / "shoes.plan", height=16, width=16, batch=BatchRange(1, 4, 8), plan=record).path
    assert run("trtexec_line.py", plan) == f"{tool} --loadEngine={plan} --shapes=input:4x3x16x16\n"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, path], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout


def test_dockerfiles_copy_what_exists_and_install_extras_that_do() -> None:
    text = (ROOT / "docker" / "runtime.Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert len(copied) >= 5
    assert all((ROOT / word).exists() for word in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"EXTRAS=(\w+(?:,\w+)*)", text)
    assert len(named) == 2
    assert all(extra in extras for names in named for extra in names.split(","))


def test_the_container_runs_the_command_that_exists(model: Path) -> None:
    """The entry point's own words, with what `docker run` would add."""
    import json

    from click.testing import CliRunner

    from alexnet_deploy.cli import main

    words = json.loads(re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "docker" / "runtime.Dockerfile").read_text(), re.MULTILINE)[0])
    assert words[0] == "alexnet-deploy"
    shown = CliRunner().invoke(main, [*words[1:], "/no/such/model.onnx"])
    assert shown.exit_code == 2
    assert "/no/such/model.onnx does not exist" in shown.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_a_container_runs_as_nobody_in_particular(path: Path) -> None:
    users = re.findall(r"^USER (\S+)$", path.read_text(), re.MULTILINE)
    assert users
    assert users[-1].isdecimal()
    assert users[-1] != "0"


def test_the_documentation_states_the_sizes_that_were_measured() -> None:
    installs = json.loads((ROOT / "benchmarks" / "results" / "slim-install.json").read_text())["installs"]
    page = (ROOT / "docs" / "howto" / "application.md").read_text()
    for extras in ("rtx", "cpu"):
        assert f"{installs[extras]['mb']['in all']:.0f} MB" in page
        assert installs[extras]["loaded_with_runtime"] == []
        assert "torch" in installs[extras]["not_installed"]
