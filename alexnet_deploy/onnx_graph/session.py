"""Running an ONNX graph on the CPU while it is being worked on: calibration, sensitivity, checks.

Serving has its own backend (`backends/ort.py`); here graphs live in memory and are thrown away.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from alexnet_deploy.errors import BackendError, BackendMissing
from alexnet_deploy.onnx_graph import edit

Array = npt.NDArray[Any]
_ERRORS_ONLY = 3


class GraphRunner:
    """A graph held in memory, run on the CPU.

    QuantizeLinear and DequantizeLinear run as they are written, with float between them, which is what the graph means and
    what TensorRT computes. onnxruntime's own integer kernels, which saturate on CPUs without VNNI, are off unless asked for.

    Attributes:
        outputs: names of the graph's outputs, in order.
    """

    def __init__(self, model: onnx.ModelProto, *, integer_kernels: bool = False) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        if not integer_kernels:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = _open(ort, model, options)
        self._input = self._session.get_inputs()[0].name
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, batch: Array) -> list[Array]:
        """Every output for one batch, in the order of `outputs`. Raises BackendError with onnxruntime's own words."""
        try:
            return [np.asarray(value) for value in self._session.run(None, {self._input: batch})]
        except Exception as error:  # onnxruntime's classes share no base but Exception
            raise BackendError(
                f"onnxruntime could not run the graph: {edit.first_line(error)}",
                expected="a graph that takes a batch of pictures of the shape in its manifest",
            ) from error


def fused_operators(model: onnx.ModelProto) -> list[str]:
    """Operator types of the graph as onnxruntime will run it, integer kernels included."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        rewritten = Path(folder) / "rewritten.onnx"
        options.optimized_model_filepath = str(rewritten)
        _open(ort, model, options)
        return [node.op_type for node in onnx.load(str(rewritten)).graph.node]


def _open(ort: Any, model: onnx.ModelProto, options: Any) -> Any:
    options.log_severity_level = _ERRORS_ONLY
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(
            f"onnxruntime refuses the graph: {edit.first_line(error)}", expected="operators that its CPU provider knows"
        ) from error


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(
            "quantisation runs the graph, and onnxruntime is not installed", fix="pip install 'alexnet-deploy[cpu]'"
        ) from error
    return onnxruntime
