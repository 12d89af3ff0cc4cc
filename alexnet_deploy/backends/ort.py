"""onnxruntime, on the CPU or on CUDA; the packages `onnxruntime` and `onnxruntime-gpu` are the same module."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.base import Backend, Options, batch_of, missing, own_errors
from alexnet_deploy.errors import ArtifactCorrupt, BackendError, DeviceMissing, ModelError
from alexnet_deploy.gpu import gpus, problem
from alexnet_deploy.types import GraphForm, TensorSpec

_FLOAT32 = np.dtype(np.float32)
_ERRORS_HOME = "onnxruntime.capi.onnxruntime_pybind11_state"
_ERRORS_ONLY = 3
_FATAL_ONLY = 4
_WARNINGS = 2  # onnxruntime's own default
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 would round the products of a float32 graph to 10 bits in silence: precision belongs to the graph.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
# Of onnxruntime's rewritings, one that moves Casts about: behind it, a graph with attention in float16 ends the process (1.32).
_UNSAFE_IN_HALF = ["MatmulTransposeFusion"]
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
}


class OnnxRuntimeBackend(Backend):
    """An ONNX graph in one onnxruntime session. `run` may be called from several threads at once."""

    name: ClassVar[str] = "onnxruntime"
    concurrent: ClassVar[bool] = True
    forkable: ClassVar[bool] = True

    def __init__(self, session: Any, artifact: Artifact, device: str) -> None:
        self._session = session
        self.device = device
        self.input = _only(session.get_inputs(), "input", artifact)
        self.output = _only(session.get_outputs(), "output", artifact)
        self.batch = batch_of(self.input, artifact)
        self._outputs = [self.output.name]
        self._errors = own_errors(_ERRORS_HOME)

    @classmethod
    def load(cls, artifact: Artifact, options: Options) -> OnnxRuntimeBackend:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing(cls.name, error) from error
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        settings.add_session_config_entry(*_spinning(onnxruntime.__version__))
        if artifact.manifest.form is GraphForm.TENSORRT:
            # As it is written, with float between Q and DQ, which is what TensorRT computes. By itself onnxruntime rounds biases
            # too, in steps of two float16 scales' product, which may be as good as zero; and it takes ten times as long.
            settings.add_session_config_entry("session.disable_quant_qdq", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        provider = _PROVIDERS[options.device]
        if options.device == "cuda":
            _check_cuda(onnxruntime)
        try:
            with _quiet(onnxruntime) if options.device == "cuda" else contextlib.nullcontext():
                session = onnxruntime.InferenceSession(
                    _source(artifact.path),
                    settings,
                    providers=[(provider, _CUDA_OPTIONS if options.device == "cuda" else {})],
                    disabled_optimizers=_UNSAFE_IN_HALF,  # always: a manifest, where there is one, tells of Convs and Gemms alone
                )
        except own_errors(_ERRORS_HOME) as error:
            raise _load_error(error, artifact) from error
        # A provider that does not start is replaced by the CPU without an error: look at what really came.
        if session.get_providers()[0] != provider:
            raise DeviceMissing(
                f"onnxruntime could not start {provider} and took {session.get_providers()[0]} instead",
                expected="a GPU, its driver, CUDA and cuDNN in the versions that this onnxruntime-gpu wants",
                fix='device="cpu", or alexnet-deploy doctor',
            )
        return cls(session, artifact, options.device)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        try:
            (output,) = self._session.run(self._outputs, {self.input.name: batch})
        except self._errors as error:
            raise BackendError(
                f"onnxruntime failed on a batch of {batch.shape}: {_sentence(error)}",
                fix="smaller batches, if memory is what it lacks",
            ) from error
        return output if output.dtype == _FLOAT32 else output.astype(np.float32)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._session = None


def _source(path: Path) -> Path | bytes:
    """What onnxruntime loads a graph from: its path, or all of it where that is no UTF-8, which onnxruntime cannot be told."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return path


def _spinning(version: str) -> tuple[str, str]:
    """The setting for how long onnxruntime's threads spin while they wait for the next operator, or the next call.

    By default they go on for some 50 ms after a call, and take the CPU from whatever else runs: another Runtime, the decoding of
    the next pictures. 200 us, as onnxruntime counts them, are a millisecond of CPU time, and as quick for calls in a row
    (docs/decisions/0500-*.md). Versions before 1.26 know only how to stop with the call.
    """
    major, minor = (int(number) for number in version.split(".")[:2])
    return ("session.intra_op.spin_duration_us", "200") if (major, minor) >= (1, 26) else ("session.force_spinning_stop", "1")


def _only(tensors: list[Any], what: str, artifact: Artifact) -> TensorSpec:
    if len(tensors) != 1:
        raise ModelError(
            f"{artifact.path} has {len(tensors)} {what}s: {', '.join(t.name for t in tensors)}",
            expected=f"a classifier with one {what}",
        )
    tensor = tensors[0]
    if tensor.type not in _DTYPES:
        raise ModelError(f"{what} {tensor.name} of {artifact.path} is a {tensor.type}", expected=" or ".join(_DTYPES))
    # A symbolic axis comes as its name, an unnamed one as None.
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else None for axis in tensor.shape)
    return TensorSpec(tensor.name, _DTYPES[tensor.type], shape)


def _check_cuda(onnxruntime: Any) -> None:
    if not gpus():
        raise DeviceMissing(f"there is no usable GPU: {problem()}", expected="an NVIDIA GPU and its driver", fix='device="cpu"')
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        raise DeviceMissing(
            f"this onnxruntime {onnxruntime.__version__} is built for the CPU only",
            expected="onnxruntime-gpu in place of onnxruntime",
            fix="pip uninstall onnxruntime; pip install 'alexnet-deploy[gpu]'",
        )


@contextlib.contextmanager
def _quiet(onnxruntime: Any) -> Any:
    """Starting CUDA prints on stdout and stderr when it fails; the DeviceMissing that follows says it better."""
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip put them
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)


def _load_error(error: Exception, artifact: Artifact) -> Exception:
    kind, sentence = type(error).__name__, _sentence(error)
    if kind == "NotImplemented":
        return BackendError(
            f"onnxruntime does not run {artifact.path}: {sentence}",
            expected="operators that this version knows",
            fix="pip install --upgrade onnxruntime",
        )
    return ArtifactCorrupt(f"onnxruntime cannot load {artifact.path}: {sentence}", expected="a whole, valid ONNX graph")


def _sentence(error: Exception) -> str:
    """The message without onnxruntime's prefix "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "."""
    return str(error).rsplit(" : ", 1)[-1].strip().split("\n")[0]
