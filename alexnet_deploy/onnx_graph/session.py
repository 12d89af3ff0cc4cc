"""Running an ONNX graph on the CPU while it is being worked on: calibration, sensitivity, checks.

Serving has its own backend (`backends/ort.py`); here graphs live in memory and are thrown away. Their weights go to onnxruntime
in a file of their own, which it maps and lets go of once it has packed them: a string of the whole graph, as it also takes,
would be held three times over while the session opens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from alexnet_deploy.errors import ArtifactMissing, BackendError, BackendMissing
from alexnet_deploy.onnx_graph import edit

Array = npt.NDArray[Any]
_FATAL_ONLY = 4  # errors are raised, and told by who catches them
# Behind it, a float16 graph with attention ends the process, with onnxruntime 1.32.
_UNSAFE_IN_HALF = ["MatmulTransposeFusion"]
_APART_BYTES = 4096  # smaller weights, and shapes, which onnxruntime wants to see while it opens the graph, stay in it
_PAGE = 4096
_NOTHING: Mapping[str, Array] = MappingProxyType({})


class GraphRunner:
    """A graph held in memory, run on the CPU.

    QuantizeLinear and DequantizeLinear run as they are written, with float between them, which is what the graph means and
    what TensorRT computes. onnxruntime's own integer kernels, which saturate on CPUs without VNNI, are off unless asked for.

    Args:
        outputs: the tensors to compute, any of the graph; where none are named, the graph's own outputs.

    Attributes:
        outputs: names of what is computed, in order.
    """

    def __init__(self, model: ModelProto, outputs: Sequence[str] = (), *, integer_kernels: bool = False) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        if not integer_kernels:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = _open(ort, model, options, outputs)
        self._input = self._session.get_inputs()[0].name
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, batch: Array, given: Mapping[str, Array] = _NOTHING) -> list[Array]:
        """Every output for one batch, in the order of `outputs`. Raises BackendError with onnxruntime's own words.

        Args:
            given: the graph's other inputs, where it has been made to take any.
        """
        try:
            return [np.asarray(value) for value in self._session.run(None, {self._input: batch, **given})]
        except Exception as error:  # onnxruntime's classes share no base but Exception
            raise BackendError(
                f"onnxruntime could not run the graph: {_words(error)}",
                expected="a graph that takes a batch of pictures of the shape in its manifest",
            ) from error


def fused_operators(model: ModelProto) -> list[str]:
    """Operator types of the graph as onnxruntime will run it, integer kernels included."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        rewritten = Path(folder) / "rewritten.onnx"
        options.optimized_model_filepath = str(rewritten)
        _open(ort, model, options)
        return [node.op_type for node in onnx.load(str(rewritten), load_external_data=False).graph.node]


def _open(ort: Any, model: ModelProto, options: Any, outputs: Sequence[str] = ()) -> Any:
    options.log_severity_level = _FATAL_ONLY
    with ExitStack() as held:
        try:
            path = _write(model, outputs, Path(held.enter_context(tempfile.TemporaryDirectory(prefix="alexnet-deploy-"))))
        except OSError as error:
            raise ArtifactMissing(
                f"the graph cannot be written to {tempfile.tempdir or 'any folder'} for a moment: {error.strerror}",
                expected=f"a folder for temporary files with room for {model.ByteSize() / 1e6:.0f} MB",
                fix="TMPDIR=FOLDER with more room",
            ) from error
        try:
            return ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_UNSAFE_IN_HALF
            )
        except Exception as error:
            raise BackendError(
                f"onnxruntime refuses the graph: {_words(error, path)}", expected="operators that its CPU provider knows"
            ) from error


def _words(error: Exception, path: Path = Path()) -> str:
    """What onnxruntime says, without "[ONNXRuntimeError] : 1 : FAIL : ", and without a file that nobody has ever seen."""
    return edit.first_line(error, 400).rsplit(" : ", 1)[-1].removeprefix(f"Load model from {path} failed:")


def _write(model: ModelProto, outputs: Sequence[str], folder: Path) -> Path:
    """The graph with `outputs` as its outputs, its large weights in a file beside it."""
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    own = {value.name: value for value in model.graph.output}
    graph.output.extend([own.get(name, ValueInfoProto(name=name)) for name in outputs] or model.graph.output)
    with (folder / "weights").open("wb") as file:
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < _APART_BYTES:
                graph.initializer.append(tensor)
                continue
            offset = file.seek(-(-file.tell() // _PAGE) * _PAGE)  # mapped memory begins at pages
            file.write(raw)
            apart = graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
            )
            for key, value in (("location", "weights"), ("offset", offset), ("length", len(raw))):
                apart.external_data.add(key=key, value=str(value))
    path = folder / "graph.onnx"
    path.write_bytes(light.SerializeToString())
    return path


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(
            "quantisation runs the graph, and onnxruntime is not installed", fix="pip install 'alexnet-deploy[cpu]'"
        ) from error
    return onnxruntime
