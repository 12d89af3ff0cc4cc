"""The house stands as drawn: layers, laziness, and what the slim install needs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_deploy
from alexnet_deploy.cli import COMMANDS

ROOT = Path(__file__).parent.parent
HEAVY = {"numpy", "torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino", "PIL"}
MODULES_AFTER = "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"


def modules_loaded_by(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", f"{code}\n{MODULES_AFTER}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_point_one_way() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_loads_nothing_heavy(name: str | None) -> None:
    words = [name, "--help"] if name else ["--help"]
    code = f"from alexnet_deploy.cli import main\ntry: main({words!r})\nexcept SystemExit as e: assert e.code == 0"
    assert not modules_loaded_by(code) & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name: str) -> None:
    from click.testing import CliRunner

    from alexnet_deploy.cli import main

    shown = CliRunner().invoke(main, [name, "--help"]).output
    assert "Example" in shown
    assert f"alexnet-deploy {name}" in shown


def test_importing_the_package_loads_only_itself() -> None:
    assert not modules_loaded_by("import alexnet_deploy") & (HEAVY | {"click", "rich", "msgspec", "typing"})


def test_opening_a_graph_loads_little_beside_the_engine() -> None:
    """Each of these takes a cold process 2 to 8 ms (docs/decisions/0522-*.md); dataclasses that much for every two of them."""
    bare = modules_loaded_by("import onnxruntime")
    ours = modules_loaded_by("import alexnet_deploy.runtime, alexnet_deploy.backends.ort") - bare
    assert "msgspec" in ours
    assert not ours & {"dataclasses", "logging", "hashlib", "json", "asyncio", "concurrent", "importlib_metadata", "PIL", "click"}


def test_public_names_are_these() -> None:
    assert set(alexnet_deploy.__all__) == {
        "AlexnetDeployError",
        "Artifact",
        "FallbackWarning",
        "Manifest",
        "PictureSet",
        "Preprocess",
        "Runtime",
        "__version__",
    }
    for name in alexnet_deploy.__all__:
        assert getattr(alexnet_deploy, name) is not None


def test_nothing_is_ever_unpickled() -> None:
    """No `pickle`, no `torch.load` without weights_only=True, no `allow_pickle=True`, no `eval` or `exec`."""
    for path in [*ROOT.glob("alexnet_deploy/**/*.py"), *ROOT.glob("training/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert called not in {"eval", "exec"}, path
                assert keywords.get("allow_pickle") != "True", path
                if called == "torch.load":
                    assert keywords.get("weights_only") == "True", path
