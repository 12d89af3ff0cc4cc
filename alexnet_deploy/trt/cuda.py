"""CUDA, as far as running an engine needs it: a thin layer over `cuda.bindings.runtime`, with owners for what must be freed.

Every failure is a BackendError with CUDA's own name for what went wrong; a machine without a GPU gives DeviceMissing.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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
_MEMORY_TYPE_DEVICE = 2
_MEMORY_TYPE_MANAGED = 3


def usable_gpu() -> Gpu:
    """The GPU that engines run on: the first one (CUDA_VISIBLE_DEVICES chooses). Raises DeviceMissing when there is none."""
    if not gpus():
        raise DeviceMissing(
            f"there is no usable GPU: {problem()}", expected="an NVIDIA GPU and its driver", fix="alexnet-deploy doctor"
        )
    return gpus()[0]


def make_current() -> None:
    """Makes the GPU that engines run on the calling thread's own one, with a CUDA context.

    Raises:
        DeviceMissing: CUDA does not start here.
    """
    _call("cudaSetDevice", 0)


def current() -> AbstractContextManager[None]:
    """A block in which that GPU is the calling thread's own one, whichever PyTorch or others have chosen for the thread.

    TensorRT runs on no other than the current one, and memory comes from there. With one GPU there is nothing to choose.
    """
    return _borrowed() if len(gpus()) > 1 else nullcontext()


@contextmanager
def _borrowed() -> Iterator[None]:
    before = _call("cudaGetDevice")
    make_current()
    try:
        yield
    finally:
        _call("cudaSetDevice", before)


class _Owner:
    """Something of CUDA's that is freed once: by close(), at the end of a `with` block, or with the last reference to it.

    Attributes:
        raw: as CUDA knows it; None after close.
    """

    def __init__(self, raw: Any, free: str) -> None:
        self.raw = raw
        self._forgotten = weakref.finalize(self, _free_forgotten, free, raw)
        self._forgotten.atexit = False  # a process that ends gives everything back

    def close(self) -> None:
        if held := self._forgotten.detach():
            self.raw = None
            _call(*held[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _free_forgotten(free: str, raw: Any) -> None:
    """What the garbage collector calls, where nobody can be told of an error: after a fork, or when CUDA has failed before."""
    with suppress(BackendError):
        _call(free, raw)


class Stream(_Owner):
    """A queue of work on the GPU. It does not wait for the default stream, nor the default stream for it."""

    def __init__(self) -> None:
        super().__init__(_call("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING), "cudaStreamDestroy")
        self.handle = int(self.raw)

    def synchronize(self) -> None:
        """Waits until everything queued so far is done; errors of that work surface here."""
        _call("cudaStreamSynchronize", self.raw)

    def wait(self, event: Event) -> None:
        """Work queued after this starts when the event has happened."""
        _call("cudaStreamWaitEvent", self.raw, event.raw, 0)


class Event(_Owner):
    """A mark in a stream. One that was never recorded counts as having happened."""

    def __init__(self) -> None:
        super().__init__(_call("cudaEventCreateWithFlags", _EVENT_DISABLE_TIMING), "cudaEventDestroy")

    def record(self, stream: Stream) -> None:
        _call("cudaEventRecord", self.raw, stream.raw)

    def synchronize(self) -> None:
        _call("cudaEventSynchronize", self.raw)


class DeviceBuffer(_Owner):
    """Memory on the GPU.

    Attributes:
        address: where it is.
        size_bytes: how much of it there is.
    """

    def __init__(self, size_bytes: int) -> None:
        super().__init__(_call("cudaMalloc", size_bytes), "cudaFree")
        self.address, self.size_bytes = int(self.raw), size_bytes


class PinnedBuffer(_Owner):
    """Page-locked host memory, zeroed: the only kind that the GPU copies from and to without the CPU's help."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(_call("cudaHostAlloc", size_bytes, _HOST_ALLOC_DEFAULT), "cudaFreeHost")
        self.address, self.size_bytes = int(self.raw), size_bytes
        ctypes.memset(self.address, 0, size_bytes)

    def array(self, dtype: str, shape: tuple[int, ...]) -> Array:
        """A view of its first bytes, which keeps it from being forgotten; it must not be used after close()."""
        kind = np.dtype(dtype)
        size_bytes = kind.itemsize * int(np.prod(shape))
        if size_bytes > self.size_bytes:
            raise ValueError(f"{shape} {dtype} needs {size_bytes:,} bytes of {self.size_bytes:,}")
        memory = (ctypes.c_ubyte * size_bytes).from_address(self.address)
        memory.owner = self  # type: ignore[attr-defined]
        return np.ndarray(shape, kind, memoryview(memory).cast("B"))


class Graph(_Owner):
    """Work that was captured from a stream, and runs again with one call."""

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        """Captures what `work` queues on `stream`; nothing of it runs now.

        Raises:
            BackendError: something in `work` cannot be captured.
        """
        api = _api()
        # Thread-local: other threads may allocate meanwhile without spoiling the capture.
        _call("cudaStreamBeginCapture", stream.raw, api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            error, graph = api.cudaStreamEndCapture(stream.raw)  # its own error would hide the first one
            if error == 0:
                api.cudaGraphDestroy(graph)
            raise
        graph = _call("cudaStreamEndCapture", stream.raw)
        try:
            executable = _call("cudaGraphInstantiate", graph, 0)
        finally:
            _call("cudaGraphDestroy", graph)
        super().__init__(executable, "cudaGraphExecDestroy")

    def launch(self, stream: Stream) -> None:
        _call("cudaGraphLaunch", self.raw, stream.raw)


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


def is_on_gpu(address: int) -> bool:
    """Whether an address lies in the memory of the GPU that engines run on, or in managed memory, which is everywhere."""
    found = _call("cudaPointerGetAttributes", address)
    return bool((found.type == _MEMORY_TYPE_DEVICE and found.device == 0) or found.type == _MEMORY_TYPE_MANAGED)


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
