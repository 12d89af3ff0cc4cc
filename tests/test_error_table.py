"""docs/errors.md is what the code says, and every message keeps to the form."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "make_error_table.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_error_table", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_error_table"] = module  # its dataclass looks for its own module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def entries(tool: ModuleType) -> list[Any]:
    return list(tool.entries())


def test_the_page_is_current() -> None:
    done = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_sentence_ends_with_a_full_stop_of_its_own(entries: list[Any]) -> None:
    """The parts are put together by AlexnetDeployError.__str__, which sets the punctuation."""
    for entry in entries:
        for part in (entry.found, entry.expected, entry.fix):
            assert not part.endswith(".") or part.endswith("..."), entry


def test_every_error_says_what_was_found(entries: list[Any]) -> None:
    assert all(entry.found.strip("* ") for entry in entries)
    assert len(entries) > 150


def test_every_error_says_what_was_expected_or_what_to_do(entries: list[Any]) -> None:
    nobody_is_left_to_read_it = {"ClientGone"}
    for entry in entries:
        assert entry.expected or entry.fix or entry.kind in nobody_is_left_to_read_it, entry


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'a plain text'", "a plain text"),
        ("f'{path.name} has {size_bytes:,} bytes'", "*path* has *size bytes* bytes"),
        ("f'{len(files)} files' + ' here'", "*files* files here"),
        ("'one' if few else 'many'", "one / many"),
        ('f\'{"a" if x else ""}b\'', "ab"),
        ("message", "*message*"),
    ],
)
def test_templates_keep_what_is_known(tool: ModuleType, source: str, expected: str) -> None:
    assert tool.template(ast.parse(source, mode="eval").body) == expected
