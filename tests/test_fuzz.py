"""Damaged graphs and manifests: a typed error or a right answer, never a traceback. `make stress` runs many more."""

from __future__ import annotations

from pathlib import Path

import foreign_models
import pytest
from fuzzing import fuzz_graphs, fuzz_manifests

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import adopt, load_graph
from tests.tiny import tiny_graph

# Found by longer runs, and mended: names that are no UTF-8, shapes such as (0, 2**62).
FORMERLY = (102_029, 104_234)


def test_damaged_graphs_give_typed_errors_only(tmp_path: Path) -> None:
    outcomes = fuzz_graphs([*FORMERLY, *range(300)], tmp_path)
    assert outcomes["ModelError"] > 50
    assert outcomes["ArtifactCorrupt"] > 20
    assert outcomes["adopted"] > 5


def test_a_graphs_own_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    content = tiny_graph().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content.replace(b"tiny", b"\x91iny"))  # found by coverage-led fuzzing
    with pytest.raises(ModelError, match="unprintable"):
        load_graph(tmp_path / "m.onnx")


def test_damaged_manifests_give_typed_errors_only(tmp_path: Path) -> None:
    foreign = foreign_models.residual()
    path = foreign_models.save(foreign.model, tmp_path / "model.onnx")
    outcomes = fuzz_manifests(range(500), adopt(path, foreign.recipe, [f"class {i}" for i in range(10)]))
    assert outcomes["ManifestError"] > 100
    assert outcomes["opened"] > 5
