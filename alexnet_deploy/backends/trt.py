"""Plans on the GPU, for TensorRT and for TensorRT for RTX: one backend, two names."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.base import Array, Backend, Options
from alexnet_deploy.errors import AlexnetDeployError, ArtifactCorrupt, BackendError, DeviceMissing, ModelError
from alexnet_deploy.files import replacing
from alexnet_deploy.gpu import Gpu
from alexnet_deploy.trt import adapter, cuda
from alexnet_deploy.trt.adapter import CURRENT, TensorRt
from alexnet_deploy.trt.execution import Execution
from alexnet_deploy.types import Flavour, TensorSpec

MAX_KERNELS_BYTES = 256 << 20
_DTYPES = ("float32", "float16", "uint8")
# What TensorRT for RTX blames, as `TensorRt.invalidity` tells it: a plan that must be built again, or a machine.
_OF_THE_PLAN = {"malformed engine", "version mismatch"}
_OF_THE_MACHINE = {"old cuda driver", "old cuda runtime", "insufficient gpu memory", "cuda error"}


class TensorRtBackend(Backend):
    """A plan in one execution context of TensorRT."""

    name: ClassVar[str] = "tensorrt"
    flavour: ClassVar[Flavour] = Flavour.TENSORRT

    def __init__(self, bindings: TensorRt, engine: Any, artifact: Artifact, gpu: Gpu) -> None:
        self.device = "cuda"
        self.input = _only(bindings.tensors(engine, "INPUT"), "input", artifact)
        self.output = _only(bindings.tensors(engine, "OUTPUT"), "output", artifact)
        self.batch = bindings.batches(engine, self.input.name)
        self._kernels_path = kernels_path(artifact.path, bindings, gpu)
        self._kernels_on_disk = _read_kernels(self._kernels_path) if bindings.portable else b""
        with bindings.log.collect() as messages:
            context = bindings.context(engine, self._kernels_on_disk)
        if context is None:
            found = f"{bindings} made no execution context for {artifact.path.name}: {' | '.join(messages)}"
            if not bindings.names(gpu.sm):
                raise _unnamed(found, bindings, gpu)
            raise BackendError(
                found,
                expected=f"{bindings.memory_bytes(engine) >> 20:,} MiB of free GPU memory",
                fix="free GPU memory, or build the engine with a smaller --max-batch",
            )
        self._context = context
        self._execution = Execution(bindings, context, self.input, self.output, self.batch, on_new_bucket=self._keep_kernels)

    @classmethod
    def load(cls, artifact: Artifact, options: Options) -> Backend:
        if options.device != "cuda":
            raise DeviceMissing(f"{cls.name} does not run on {options.device}", expected="cuda", fix="device='cuda'")
        bindings = adapter.load(cls.flavour)
        gpu = cuda.usable_gpu()
        refuse_misfit(artifact, bindings, gpu)
        plan = artifact.path.read_bytes()
        with cuda.current():
            cuda.make_current()  # TensorRT wants a CUDA context, and CUDA says better why it does not start
            with bindings.log.collect() as messages:
                reasons = bindings.invalidity(plan)
                engine = None if reasons else bindings.engine(plan)
            if engine is None:
                raise _cannot_load(artifact, bindings, gpu, reasons, messages)
            if stripped := bindings.stripped_bytes(engine):
                raise ArtifactCorrupt(
                    f"{artifact.path.name} was built without {stripped:,} bytes of its weights",
                    expected="a plan with all of them: it would answer, with other numbers",
                    fix=rebuild_command(artifact),
                )
            return cls(bindings, engine, artifact, gpu)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with cuda.current():
            return self._execution.run(batch)

    def run_while(self, batch: npt.NDArray[Any], work: Callable[[], None]) -> npt.NDArray[np.float32]:
        with cuda.current():
            return self._execution.run(batch, work)

    def run_each(self, batches: Iterable[Array]) -> Generator[npt.NDArray[np.float32], None, None]:
        with cuda.current():
            yield from self._execution.run_each(batches)

    def run_on_device(self, batch: object, out: object | None = None) -> object:
        """See `Execution.run_on_device`."""
        with cuda.current():
            return self._execution.run_on_device(batch, out)

    def run_from_device(self, batch: object) -> npt.NDArray[np.float32]:
        """See `Execution.run_from_device`."""
        with cuda.current():
            return self._execution.run_from_device(batch)

    def close(self) -> None:
        with cuda.current():
            self._execution.close()

    def _keep_kernels(self) -> None:
        """Writes the kernels compiled so far beside the plan, so that the next process need not compile them again."""
        content = self._context.kernels()
        if not content or content == self._kernels_on_disk or len(content) > MAX_KERNELS_BYTES:
            return
        # A read-only folder costs the next start a second, and is no reason to fail.
        with suppress(OSError, AlexnetDeployError), replacing(self._kernels_path) as temporary:
            temporary.write_bytes(content)
            self._kernels_on_disk = content


class TensorRtRtxBackend(TensorRtBackend):
    """The same for TensorRT for RTX, which compiles a plan's kernels for this GPU when it first meets a batch size."""

    name: ClassVar[str] = "tensorrt-rtx"
    flavour: ClassVar[Flavour] = Flavour.TENSORRT_RTX


def refuse_misfit(artifact: Artifact, bindings: TensorRt, gpu: Gpu) -> None:
    """Compares a plan's manifest with the TensorRT and the GPU that are here, before TensorRT is given the plan.

    TensorRT itself would answer with None, or run code that was compiled for something else.

    Raises:
        ArtifactCorrupt: another flavour, another version, or another GPU.
    """
    record = artifact.manifest.plan
    if record is None or not record.version:  # a plan from elsewhere says nothing about itself
        return
    name = artifact.path.name
    if (record.flavour, record.version) != (bindings.flavour, bindings.version):
        raise ArtifactCorrupt(
            f"{name} was built by {record.flavour} {record.version}, here is {bindings}",
            expected="the version that built it: plans are read by no other",
            fix=f"{rebuild_command(artifact)}, or pip install '{record.flavour}=={record.version}'",
        )
    # A plan of TensorRT is for one kind of GPU. One of TensorRT for RTX also serves kinds that came later: it says which.
    fits = gpu.sm in record.capabilities
    if bindings.portable:
        fits = gpu.capability >= min(map(_capability, record.capabilities), default=(0, 0))
    if not fits:
        raise ArtifactCorrupt(
            f"{name} was built for {', '.join(record.capabilities)}, here is {gpu.name} ({gpu.sm})",
            expected="a plan for this GPU",
            fix=f"{rebuild_command(artifact)} --sm current",
        )


def _cannot_load(
    artifact: Artifact, bindings: TensorRt, gpu: Gpu, reasons: tuple[str, ...], messages: list[str]
) -> AlexnetDeployError:
    """Whether it is the plan or the machine that is to blame for a plan that TensorRT does not take."""
    why = ", ".join(reasons) or " | ".join(messages) or "it gave no reason"
    found = f"{bindings} cannot load {artifact.path.name} on {gpu.name} ({gpu.sm}): {why}"
    if not _OF_THE_PLAN.intersection(reasons):
        if _OF_THE_MACHINE.intersection(reasons):
            return DeviceMissing(
                found,
                expected="a GPU with free memory and a driver that this TensorRT can use",
                fix="nvidia-smi; alexnet-deploy doctor",
            )
        if not bindings.names(gpu.sm):
            return _unnamed(found, bindings, gpu)
    return ArtifactCorrupt(found, expected="a whole plan, built by this version for this GPU", fix=rebuild_command(artifact))


def _unnamed(found: str, bindings: TensorRt, gpu: Gpu) -> DeviceMissing:
    """TensorRT for RTX is for the GPUs that it names; those of data centres are TensorRT's."""
    return DeviceMissing(
        f"{found}; {bindings} does not name {gpu.sm} among the GPUs that it is for",
        expected=", ".join(name for name in bindings.capabilities() if name != CURRENT),
        fix="alexnet-deploy build-engine --target tensorrt on this machine, or the ONNX graph on onnxruntime with device='cuda'",
    )


def rebuild_command(artifact: Artifact) -> str:
    """The command that builds a plan again from the graph that it was built from."""
    parents = [p.file for p in artifact.manifest.parents if p.kind == "onnx"]
    source = artifact.path.with_name(parents[0]) if parents else "MODEL.onnx"
    return f"alexnet-deploy build-engine {source} -o {artifact.path}"


def kernels_path(plan: Path, bindings: TensorRt, gpu: Gpu) -> Path:
    """Where the kernels that were compiled for a plan are kept: beside it, by version and GPU."""
    gpu_name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return plan.with_name(f"{plan.name}.{gpu_name}-{bindings.version}.kernels")


def _capability(sm: str) -> tuple[int, int]:
    """ "sm86" -> (8, 6)."""
    digits = sm.removeprefix("sm")
    return int(digits[:-1]), int(digits[-1])


def _only(tensors: list[TensorSpec], what: str, artifact: Artifact) -> TensorSpec:
    if len(tensors) != 1:
        raise ModelError(
            f"{artifact.path.name} has {len(tensors)} {what}s: {', '.join(t.name for t in tensors)}",
            expected=f"a classifier with one {what}",
        )
    (tensor,) = tensors
    if tensor.dtype not in _DTYPES or not tensor.shape or None in tensor.shape[1:]:
        raise ModelError(
            f"the {what} of {artifact.path.name} is {tensor}",
            expected=f"{' or '.join(_DTYPES)}, and a length of each axis but the batch's",
        )
    return tensor


def _read_kernels(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_KERNELS_BYTES else b""
    except OSError:
        return b""
