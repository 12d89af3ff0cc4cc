"""OpenVINO on the CPU, reading the same ONNX files as onnxruntime, the INT8 CPU form among them."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.base import Backend, Options, batch_of, missing, own_errors
from alexnet_deploy.errors import ArtifactCorrupt, BackendError, ModelError
from alexnet_deploy.types import TensorSpec

_ERRORS_HOME = "openvino.frontend"
_DTYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "u8": "uint8"}


class OpenVinoBackend(Backend):
    """One compiled model with one inference request.

    Attributes:
        threads: the CPU threads that OpenVINO says it uses.
    """

    name: ClassVar[str] = "openvino"
    device = "cpu"

    def __init__(self, compiled: Any, artifact: Artifact) -> None:
        self._request = compiled.create_infer_request()
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self.input = _only(compiled.inputs, "input", artifact)
        self.output = _only(compiled.outputs, "output", artifact)
        self.batch = batch_of(self.input, artifact)
        self._errors = own_errors(_ERRORS_HOME)

    @classmethod
    def load(cls, artifact: Artifact, options: Options) -> OpenVinoBackend:
        try:
            import openvino
            from openvino.frontend import FrontEndManager
        except ImportError as error:
            raise missing(cls.name, error) from error
        # float32 is asked for: on CPUs with bfloat16 OpenVINO would else compute a float32 graph in that, in silence.
        settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            # Not core.read_model: for a damaged file that tries every other format it knows, each printing its complaint.
            reader = FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(str(artifact.path)))
            with _signal_stack_kept():
                compiled = openvino.Core().compile_model(model, "CPU", settings)
        except own_errors(_ERRORS_HOME) as error:
            raise ArtifactCorrupt(
                f"openvino cannot load {artifact.path}: {_sentence(error)}", expected="a whole, valid ONNX graph"
            ) from error
        return cls(compiled, artifact)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        try:
            result = self._request.infer({0: batch}, share_inputs=True, share_outputs=True)
        except self._errors as error:
            raise BackendError(
                f"openvino failed on a batch of {batch.shape}: {_sentence(error)}",
                # Whatever it is asked behind a call that failed fails too, by a new request as well (seen in 2026.4.1).
                fix="a new Runtime, and smaller batches, if memory is what it lacks",
            ) from error
        return np.array(result[0], np.float32)  # a copy: the request writes its next answer over this one

    def close(self) -> None:
        with _signal_stack_kept():
            self._request = None


class _SignalStack(ctypes.Structure):
    """stack_t of <signal.h> on Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size_bytes", ctypes.c_size_t))


@contextlib.contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Puts this thread's alternate signal stack back as it was.

    compile_model (seen in 2026.4.1) sets one of its own, and the model's end brings back the one it had found: with two models
    closed in the order in which they were opened, that is the first model's, freed by then. Python's signal handlers run on
    this stack, so the next Ctrl-C would end the process with a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _only(ports: list[Any], what: str, artifact: Artifact) -> TensorSpec:
    if len(ports) != 1:
        raise ModelError(f"{artifact.path} has {len(ports)} {what}s", expected=f"a classifier with one {what}")
    (port,) = ports
    dtype = port.get_element_type().get_type_name()
    if dtype not in _DTYPES:
        raise ModelError(f"the {what} of {artifact.path} is {dtype}", expected=" or ".join(_DTYPES))
    shape = tuple(axis.get_length() if axis.is_static else None for axis in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), _DTYPES[dtype], shape)


def _sentence(error: Exception) -> str:
    """OpenVINO's message ends with its cause; the lines before say where in its sources it was thrown."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
