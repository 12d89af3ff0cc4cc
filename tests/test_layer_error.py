"""Layer by layer: the first layer that departs from the reference is the one that is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from tiny import tiny_artifact, tiny_graph
from tiny_pictures import picture_set

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError
from alexnet_deploy.layer_error import compare_layers, layer_errors
from alexnet_deploy.runtime import Runtime


def changed(path: Path, weight: str, factor: float) -> Artifact:
    """The tiny model with one of its weights scaled."""
    graph = tiny_graph()
    for tensor in graph.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), weight))
    return tiny_artifact(path, graph=graph)


def test_a_graph_against_itself_is_identical_in_every_layer(tmp_path: Path) -> None:
    own = tiny_artifact(tmp_path / "own.onnx")
    found = layer_errors(own, own, picture_set(10))
    assert [(layer.layer, layer.op) for layer in found.layers] == [("conv", "Conv"), ("fc", "Gemm")]
    assert all(layer.sqnr_db is None and layer.relative == 0 for layer in found.layers)


def test_an_error_is_seen_from_the_layer_on_that_makes_it(tmp_path: Path) -> None:
    own = tiny_artifact(tmp_path / "own.onnx")
    late = layer_errors(own, changed(tmp_path / "late.onnx", "matrix", 1.01), picture_set(10))
    assert late.layers[0].sqnr_db is None
    assert late.layers[1].sqnr_db == pytest.approx(40, abs=0.1), "1 % noise is 40 dB"
    early = layer_errors(own, changed(tmp_path / "early.onnx", "kernel", 1.1), picture_set(10))
    assert [layer.sqnr_db for layer in early.layers] == pytest.approx([20, 20], abs=0.1)
    assert [layer.relative for layer in early.layers] == pytest.approx([0.1, 0.1], rel=1e-3)


def test_the_batch_size_does_not_matter(tmp_path: Path) -> None:
    own, other = tiny_artifact(tmp_path / "own.onnx"), changed(tmp_path / "other.onnx", "kernel", 1.1)
    one, whole = (layer_errors(own, other, picture_set(7), batch_size=size) for size in (1, 7))
    for left, right in zip(one.layers, whole.layers, strict=True):
        assert left.sqnr_db == pytest.approx(right.sqnr_db, rel=1e-5)


def test_a_graph_that_runs_for_two_artifacts_is_shown_once(tmp_path: Path) -> None:
    path = tiny_artifact(tmp_path / "own.onnx").path
    with Runtime(path) as reference, Runtime(path) as one, Runtime(path) as again:
        assert len(compare_layers(reference, [one, again], picture_set(10))) == 1


def test_what_cannot_be_looked_into_is_refused(tmp_path: Path) -> None:
    own = tiny_artifact(tmp_path / "own.onnx")
    renamed = tiny_graph()
    for node in renamed.graph.node:
        node.output[:] = [name if name == "output" else f"other_{name}" for name in node.output]
        node.input[:] = [
            name if name in {"input", *(t.name for t in renamed.graph.initializer)} else f"other_{name}" for name in node.input
        ]
    renamed.graph.node[-1].output[0] = "answer"
    renamed.graph.output[0].name = "answer"
    foreign = tiny_artifact(tmp_path / "foreign.onnx", graph=renamed)
    with pytest.raises(InputError, match="no layer of the same name"):
        layer_errors(own, foreign, picture_set(3))
