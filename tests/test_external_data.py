"""Weights in files that no hash vouches for are found wherever a graph may keep them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet_deploy.artifact import Artifact, manifest_path, write_artifact
from alexnet_deploy.errors import ArtifactCorrupt
from alexnet_deploy.external_data import has_external_data
from alexnet_deploy.package import write_package
from alexnet_deploy.runtime import Runtime
from tests.tiny import tiny_artifact, tiny_graph

PLACES = ["initializer", "constant", "list", "subgraph", "function", "sparse", "sparse attribute"]
same_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def weights(external: bool) -> TensorProto:
    tensor = numpy_helper.from_array(np.arange(300, dtype=np.float32), "weights")
    if external:
        onnx.external_data_helper.set_external_data(tensor, "weights.bin")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    return tensor


def graph_with(place: str, tensor: TensorProto) -> ModelProto:
    """A graph that holds a tensor in one of PLACES."""
    model = tiny_graph()
    sparse = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.arange(300), "indices"), [1000])
    value = {"list": [tensor], "sparse attribute": sparse}.get(place, tensor)
    inside = helper.make_node("Constant", [], ["constant"], value=value)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "sparse":
        model.graph.sparse_initializer.append(sparse)
    elif place == "function":
        model.functions.append(helper.make_function("own", "F", [], ["constant"], [inside], list(model.opset_import)))
    elif place == "subgraph":
        branch = helper.make_graph([], "branch", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["flat"], ["either"], then_branch=branch, else_branch=branch))
    else:
        model.graph.node.append(inside)
    return model


@pytest.mark.parametrize("place", PLACES)
def test_weights_elsewhere_are_found_wherever_a_graph_may_keep_them(tmp_path: Path, place: str) -> None:
    for external in (False, True):
        path = tmp_path / f"{external}.onnx"
        path.write_bytes(graph_with(place, weights(external)).SerializeToString())
        assert has_external_data(path) is external


@same_folder
@given(st.binary(max_size=200), st.sampled_from(PLACES), st.integers(0, 10**6), st.booleans())
def test_any_bytes_give_an_answer(tmp_path: Path, junk: bytes, place: str, seed: int, truncated: bool) -> None:
    path, dice = tmp_path / "m.onnx", random.Random(seed)
    content = bytearray(graph_with(place, weights(True)).SerializeToString())
    content[dice.randrange(len(content)) :] = junk if truncated else junk + content[dice.randrange(len(content)) :]
    path.write_bytes(content)
    assert has_external_data(path) in (True, False)


@pytest.mark.parametrize("content", [b"", b"\xff" * 4096, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0b", b"not a model"])
def test_what_is_no_graph_keeps_nothing_elsewhere(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert not has_external_data(path)


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """A graph with its weights beside it, and a manifest that somebody wrote: it fits, and says nothing about the weights."""
    model = tiny_graph()
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    content = (tmp_path / "m.onnx").read_bytes()
    return write_artifact(tmp_path / "m.onnx", tiny_artifact(tmp_path / "other.onnx").manifest, content).path


@pytest.mark.parametrize(
    "use", [Runtime, Artifact.open, lambda path: write_package([Artifact.open(path)], path.parent / "p.zip")]
)
def test_a_manifest_does_not_vouch_for_weights_beside_the_graph(by_hand: Path, use: Any) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"keeps weights in other files.*alexnet-deploy adopt"):
        use(by_hand)


def test_without_a_manifest_nobody_vouches_for_anything(by_hand: Path) -> None:
    manifest_path(by_hand).unlink()
    with Runtime(by_hand, backend="onnxruntime") as runtime:
        assert runtime.logits(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 7)
