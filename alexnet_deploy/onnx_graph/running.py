"""One inference of one graph, for comparing graphs with each other: onnxruntime where it is installed, else onnx itself."""

from __future__ import annotations

from importlib.util import find_spec
from typing import cast

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import edit

_FATAL_ONLY = 4  # errors come as exceptions; they need not be printed as well


def run(model: ModelProto, batch: npt.NDArray[np.float32] | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The graph's only output for one batch, computed on the CPU.

    Raises:
        ModelError: it does not run.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in weights)
    try:
        if find_spec("onnxruntime") is not None:
            import onnxruntime as ort

            options = ort.SessionOptions()
            options.log_severity_level = _FATAL_ONLY
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            (result,) = session.run(None, {name: batch})
        else:
            from onnx.reference import ReferenceEvaluator

            (result,) = ReferenceEvaluator(model).run(None, {name: batch})
    except Exception as error:  # onnxruntime's classes share no base but Exception
        raise ModelError(f"the graph does not run: {edit.first_line(error)}", expected="a graph that onnxruntime runs") from error
    return cast("npt.NDArray[np.float32]", np.asarray(result))
