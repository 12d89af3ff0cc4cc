"""A graph as a function, for comparing graphs: by onnxruntime where it is installed, else by onnx's own evaluator."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from alexnet_deploy.errors import ArtifactMissing, ModelError
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.classifier import only_input
from alexnet_deploy.onnx_graph.session import GraphRunner

Batch = npt.NDArray[Any]
Function = Callable[[Batch], npt.NDArray[np.float32]]


def function(model: ModelProto, output: str = "") -> Function:
    """The graph as a function from one batch to its first output, or another one.

    The function raises ModelError where the graph does not run.

    Raises:
        ModelError: the graph cannot be loaded.
        ArtifactMissing: there is no room for temporary files.
    """
    open_ = _by_onnxruntime if find_spec("onnxruntime") else _by_onnx
    run = _translated(open_, model, output or model.graph.output[0].name)
    return lambda batch: np.asarray(_translated(run, batch))


def _by_onnxruntime(model: ModelProto, output: str) -> Callable[[Batch], Batch]:
    runner = GraphRunner(model, [output])
    return lambda batch: runner.run(batch)[0]


def _by_onnx(model: ModelProto, output: str) -> Callable[[Batch], Batch]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    name = only_input(model.graph).name
    return lambda batch: np.asarray(evaluator.run([output], {name: batch})[0])


def _translated(call: Callable[..., Any], *arguments: Any) -> Any:
    """`call(*arguments)`; a graph that cannot be run says so in one way, whoever was to run it."""
    try:
        return call(*arguments)
    except ArtifactMissing:  # no room for it in the folder for temporary files, which is no fault of the graph's
        raise
    except Exception as error:  # onnx's evaluator raises whatever its operators do
        raise ModelError(f"the graph does not run: {edit.first_line(error)}", expected="a graph that onnxruntime runs") from error
