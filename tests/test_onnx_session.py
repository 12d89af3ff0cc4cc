"""Graphs under work are run as they are, from weights in a file that is gone by then."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.errors import ArtifactMissing, BackendError, ModelError
from alexnet_deploy.onnx_graph import edit, running
from alexnet_deploy.onnx_graph.session import GraphRunner, fused_operators
from tests.small_nets import SIZE, alexnet_like

BATCH = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)


def test_a_graph_answers_as_its_definition_says() -> None:
    graph = alexnet_like()
    assert max(len(tensor.raw_data) for tensor in graph.graph.initializer) > 4096  # some stand in the file
    expected = ReferenceEvaluator(graph).run(None, {"input": BATCH})[0]
    assert np.allclose(GraphRunner(graph).run(BATCH)[0], expected, atol=1e-3)


def test_any_tensor_can_be_asked_for_and_the_graph_stays_as_it_was() -> None:
    graph = alexnet_like()
    before = graph.SerializeToString()
    own = graph.graph.output[0].name
    inner = next(node.output[0] for node in graph.graph.node if node.op_type == "Relu")
    runner = GraphRunner(graph, [inner, own])
    assert runner.outputs == (inner, own)
    assert np.array_equal(runner.run(BATCH)[1], GraphRunner(graph).run(BATCH)[0])
    assert graph.SerializeToString() == before


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runner = GraphRunner(alexnet_like())
    assert "Conv" in "".join(fused_operators(alexnet_like()))
    assert list(tmp_path.iterdir()) == []
    assert np.isfinite(runner.run(BATCH)[0]).all()


@pytest.mark.parametrize("open_", [GraphRunner, running.function])
def test_a_disk_without_room_is_named_and_not_the_graph(
    open_: Callable[[ModelProto], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactMissing, match=r"^the graph cannot be written to .* for a moment: No space left"):
        open_(alexnet_like())
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_for_temporary_files_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ArtifactMissing, match="expected a folder for temporary files with room for"):
        GraphRunner(alexnet_like())


def test_a_graph_that_cannot_run_is_refused_in_words() -> None:
    graph = alexnet_like()
    edit.set_attribute(next(n for n in graph.graph.node if n.op_type == "Conv"), "strides", [0, 0])
    with pytest.raises(BackendError, match="onnxruntime"):
        GraphRunner(graph).run(BATCH)


def test_onnxruntime_is_quoted_without_its_prefix_and_the_file_that_is_gone() -> None:
    graph = alexnet_like()
    for node in graph.graph.node:
        node.name = "twice"
    with pytest.raises(BackendError) as caught:
        GraphRunner(graph)
    assert caught.value.found.startswith("onnxruntime refuses the graph: This is an invalid model. Error: two nodes with same")


def test_as_a_function_a_graph_answers_alike_with_and_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = alexnet_like()
    usual = running.function(graph)(BATCH)
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    assert np.allclose(running.function(graph)(BATCH), usual, atol=1e-3)


@pytest.mark.parametrize("installed", [True, False])
def test_as_a_function_a_graph_that_cannot_run_is_a_bad_model(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: object() if installed else None)
    with pytest.raises(ModelError, match="does not run"):
        running.function(alexnet_like())(BATCH[:, :, 1:, 1:, None])
