"""A hand-made ONNX classifier, small enough for any test: Conv, Relu, GlobalAveragePool, Gemm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.manifest import Manifest, Preprocess
from alexnet_deploy.types import BatchRange, OutputKind, TensorSpec

LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
SIZE = 16


def tiny_graph(*, batch: int | str = "N", softmax: bool = False, bias: float = 0.0) -> ModelProto:
    """input float32 (N, 3, 16, 16) to output float32 (N, 7)."""
    random = np.random.default_rng(7)
    weights = {
        "kernel": random.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "matrix": random.standard_normal((8, len(LABELS))).astype(np.float32),
        "bias": np.full(len(LABELS), bias, np.float32),
    }
    last = "scores" if softmax else "output"
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["convolved"], name="conv"),
        helper.make_node("Relu", ["convolved"], ["rectified"]),
        helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], [last], name="fc"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["output"], axis=1))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, len(LABELS)])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tiny_artifact(
    path: Path, *, graph: ModelProto | None = None, batch: BatchRange | None = None, softmax: bool = False, **fields: Any
) -> Artifact:
    manifest = Manifest(
        kind="onnx",
        input=TensorSpec("input", "float32", (None, 3, SIZE, SIZE)),
        output=TensorSpec("output", "float32", (None, len(LABELS))),
        output_kind=OutputKind.PROBABILITIES if softmax else OutputKind.LOGITS,
        preprocess=Preprocess(height=SIZE, width=SIZE),
        batch=batch or BatchRange(1, 4, 8),
        labels=LABELS,
        **fields,
    )
    return write_artifact(path, manifest, (graph or tiny_graph(softmax=softmax)).SerializeToString())


def float_batch(count: int, shape: tuple[int, ...] = (3, SIZE, SIZE), seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


def picture_batch(count: int, height: int = 20, width: int = 24, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
