"""A graph as a function, for comparing graphs: onnxruntime on the CPU where it is installed, else onnx's own evaluator."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import edit

Function = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
_FATAL_ONLY = 4  # errors come as exceptions; they need not be printed as well


def function(model: ModelProto) -> Function:
    """The graph as a function from one batch to its only output. It raises ModelError where the graph does not run.

    Raises:
        ModelError: the graph cannot be loaded.
    """
    weights = edit.initialisers(model.graph)
    name = next(value.name for value in model.graph.input if value.name not in weights)
    evaluate = _translated(_evaluator, model)
    return lambda batch: np.asarray(_translated(evaluate, {name: batch}))


def _evaluator(model: ModelProto) -> Callable[[dict[str, npt.NDArray[Any]]], Any]:
    if find_spec("onnxruntime") is None:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(model)
        return lambda feeds: evaluator.run(None, feeds)[0]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)[0]


def _translated(call: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return call(argument)
    except Exception as error:  # onnxruntime's classes share no base but Exception
        raise ModelError(f"the graph does not run: {edit.first_line(error)}", expected="a graph that onnxruntime runs") from error
