"""The long run of tests/test_fuzz.py: 20,000 graphs and 20,000 manifests, others each time $FUZZ_SEED is set."""

from __future__ import annotations

import os
from pathlib import Path

import foreign_models
from fuzzing import fuzz_graphs, fuzz_manifests

from alexnet_deploy.onnx_graph import adopt

COUNT = 20_000
START = int(os.environ.get("FUZZ_SEED", "1")) * 1_000_000


def test_damaged_graphs_by_the_thousand(tmp_path: Path) -> None:
    assert fuzz_graphs(range(START, START + COUNT), tmp_path).total() == COUNT


def test_damaged_manifests_by_the_thousand(tmp_path: Path) -> None:
    foreign = foreign_models.residual()
    path = foreign_models.save(foreign.model, tmp_path / "model.onnx")
    artifact = adopt(path, foreign.recipe, [f"class {i}" for i in range(10)])
    assert fuzz_manifests(range(START, START + COUNT), artifact).total() == COUNT
