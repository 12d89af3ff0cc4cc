"""CUDA, as far as running an engine needs it: a thin layer over `cuda.bindings.runtime`, with owners for what must be freed.

Every failure is a BackendError with CUDA's own name for what went wrong; a machine without a GPU gives DeviceMissing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import BackendError, BackendMissing, DeviceMissing
from alexnet_deploy.gpu import Gpu, gpus, problem

Array = npt.NDArray[Any]

# Values of the runtime's enumerations, as CUDA's headers fix them: https://docs.nvidia.com/cuda/cuda-runtime-api
_STREAM_NON_BLOCKING = 1
_EVENT_DISABLE_TIMING = 2
_HOST_ALLOC_DEFAULT = 0
_MEMORY_TYPE_HOST = 1


def usable_gpu() -> Gpu:
    """The GPU that engines run on: the first one (CUDA_VISIBLE_DEVICES chooses). Raises DeviceMissing when there is none."""
    if not gpus():
        raise DeviceMissing(
            f"there is no usable GPU: {problem()}", expected="an NVIDIA GPU and its driver", fix="alexnet-deploy doctor"
        )
    return gpus()[0]


class _Owner:
    """Something with a close(), to be used in a `with` block or closed by its owner; closing twice is harmless."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Stream(_Owner):
    """A queue of work on the GPU. It does not wait for the default stream, nor the default stream for it."""

    def __init__(self) -> None:
        self._stream = _call("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING)
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Waits until everything queued so far is done; errors of that work surface here."""
        _call("cudaStreamSynchronize", self._stream)

    def wait(self, event: Event) -> None:
        """Work queued after this starts when the event has happened."""
        _call("cudaStreamWaitEvent", self._stream, event.raw, 0)

    @property
    def raw(self) -> Any:
        return self._stream

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            _call("cudaStreamDestroy", stream)


class Event(_Owner):
    """A mark in a stream. One that was never recorded counts as having happened."""

    def __init__(self) -> None:
        self.raw = _call("cudaEventCreateWithFlags", _EVENT_DISABLE_TIMING)

    def record(self, stream: Stream) -> None:
        _call("cudaEventRecord", self.raw, stream.raw)

    def synchronize(self) -> None:
        _call("cudaEventSynchronize", self.raw)

    def close(self) -> None:
        event, self.raw = self.raw, None
        if event is not None:
            _call("cudaEventDestroy", event)


class DeviceBuffer(_Owner):
    """Memory on the GPU.

    Attributes:
        address: where it is; 0 after close.
        size_bytes: how much of it there is.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = int(_call("cudaMalloc", size_bytes))

    def close(self) -> None:
        address, self.address = self.address, 0
        if address:
            _call("cudaFree", address)


class PinnedBuffer(_Owner):
    """Page-locked host memory, zeroed: the only kind that the GPU copies from and to without the CPU's help."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = int(_call("cudaHostAlloc", size_bytes, _HOST_ALLOC_DEFAULT))
        ctypes.memset(self.address, 0, size_bytes)

    def array(self, dtype: str, shape: tuple[int, ...]) -> Array:
        """A view of its first bytes; it must not be used after close()."""
        kind = np.dtype(dtype)
        size_bytes = kind.itemsize * int(np.prod(shape))
        if size_bytes > self.size_bytes:
            raise ValueError(f"{shape} {dtype} needs {size_bytes:,} bytes of {self.size_bytes:,}")
        memory = memoryview((ctypes.c_ubyte * size_bytes).from_address(self.address))
        return np.ndarray(shape, kind, memory.cast("B"))

    def close(self) -> None:
        address, self.address = self.address, 0
        if address:
            _call("cudaFreeHost", address)


class Graph(_Owner):
    """Work that was captured from a stream, and runs again with one call."""

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        """Captures what `work` queues on `stream`; nothing of it runs now.

        Raises:
            BackendError: something in `work` cannot be captured.
        """
        api = _api()
        self._executable = None
        # Thread-local: other threads may allocate meanwhile without spoiling the capture.
        _call("cudaStreamBeginCapture", stream.raw, api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            api.cudaStreamEndCapture(stream.raw)  # ends the capture; its own error would hide the first one
            raise
        graph = _call("cudaStreamEndCapture", stream.raw)
        try:
            self._executable = _call("cudaGraphInstantiate", graph, 0)
        finally:
            _call("cudaGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        _call("cudaGraphLaunch", self._executable, stream.raw)

    def close(self) -> None:
        executable, self._executable = self._executable, None
        if executable is not None:
            _call("cudaGraphExecDestroy", executable)


def copy_async(target: int, source: int, size_bytes: int, stream: Stream) -> None:
    """Queues a copy between any two addresses, on the host or the GPU; CUDA knows which is which."""
    _call("cudaMemcpyAsync", target, source, size_bytes, _api().cudaMemcpyKind.cudaMemcpyDefault, stream.raw)


def synchronize_device() -> None:
    """Waits for everything that anyone has queued on the GPU."""
    _call("cudaDeviceSynchronize")


def wait_for_stream(stream: Stream, other: int) -> None:
    """Work queued on `stream` after this starts when what is on the stream with handle `other` now is done."""
    with Event() as event:
        _call("cudaEventRecord", event.raw, other)
        stream.wait(event)


def is_pinned(address: int) -> bool:
    """Whether a host address lies in page-locked memory, so that the GPU may copy from it directly."""
    return bool(_call("cudaPointerGetAttributes", address).type == _MEMORY_TYPE_HOST)


def free_memory_bytes() -> int:
    """Free memory on the GPU."""
    free, _total = _call("cudaMemGetInfo")
    return int(free)


def address_of(array: Array) -> int:
    """Where an array's data is, as a number."""
    return int(array.__array_interface__["data"][0])


def _call(name: str, *arguments: Any) -> Any:
    """Calls the CUDA runtime; gives what comes after the error code, alone or as a tuple.

    Raises:
        DeviceMissing: there is no GPU, or no driver that this CUDA can use.
        BackendError: anything else.
    """
    api = _api()
    error, *values = getattr(api, name)(*arguments)
    if error != 0:
        raise _failure(api, name, error)
    return values[0] if len(values) == 1 else tuple(values)


def _failure(api: Any, call: str, error: Any) -> BackendError:
    _, text = api.cudaGetErrorString(error)
    found = f"{call}: {text.decode() if text else 'unknown error'} ({getattr(error, 'name', error)})"
    name = getattr(error, "name", "")
    if name in ("cudaErrorNoDevice", "cudaErrorInsufficientDriver", "cudaErrorStubLibrary", "cudaErrorSystemDriverMismatch"):
        return DeviceMissing(found, expected="an NVIDIA GPU and a driver new enough for the CUDA libraries", fix="nvidia-smi")
    if name == "cudaErrorMemoryAllocation":
        return BackendError(found, fix="build the engine with a smaller --max-batch, or free GPU memory")
    if name == "cudaErrorInitializationError":
        return BackendError(
            found,
            expected="a process that did not fork after CUDA was used",
            fix="multiprocessing.set_start_method('spawn')",
        )
    return BackendError(found, fix="alexnet-deploy doctor; after such an error CUDA works again only in a new process")


@cache
def _api() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendMissing(f"cuda-bindings is not installed ({error})", fix="pip install 'alexnet-deploy[rtx]'") from error
    return runtime
