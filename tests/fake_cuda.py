"""Stands for hardware that is missing: a GPU, CUDA's runtime, and an engine that TensorRT has loaded.

FakeCuda takes the place of `cuda.bindings.runtime`, function by function. It is stricter than the real one: work that is
queued on a stream runs as late as synchronisation allows, as early as possible, or in any legal order between (`schedule`),
so that code which forgets to wait gives wrong answers; copies are checked against what is allocated; and what is not freed
is known. FakeTensorRt takes the place of the module `tensorrt` or `tensorrt_rtx`, as far as loading and running a plan goes.

Where the real thing would be undefined, refuse, or crash the process, the fake refuses or writes it down in `FakeCuda.wrongs`,
which every look at `FakeCuda.held` turns into an error: an object used when what it stands on is gone, one context in two
threads at once, an address that is not aligned, a capture right after set_input_shape, another GPU being the current one.
"""

# ruff: noqa: N815  (the names are CUDA's own)
from __future__ import annotations

import ctypes
import itertools
import os
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexnet_deploy import loading
from alexnet_deploy.gpu import Gpu
from alexnet_deploy.trt import adapter, cuda
from alexnet_deploy.trt.adapter import TensorRt
from alexnet_deploy.types import BatchRange, Flavour, TensorSpec

H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30)
L40 = Gpu("NVIDIA L40", (8, 9), 45 << 30)


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class CudaFault(Exception):
    """Inside the fake: an error code on its way to the caller."""

    def __init__(self, code: Error) -> None:
        super().__init__(code.name)
        self.code = code


Operation = Callable[[], None]
ALIGNMENT = 256  # of what cudaMalloc gives, and of what TensorRT takes


class FakeStream:
    def __init__(self, handle: int, device: int) -> None:
        self.handle = handle
        self.device = device
        self.queue: deque[Operation] = deque()
        self.captured: list[Operation] | None = None
        self.spoiled = False  # something was captured that cannot be

    def __int__(self) -> int:
        return self.handle


class FakeEvent:
    """Its latest recording: the stream, and a mark that becomes [True] there. One never recorded has happened."""

    def __init__(self) -> None:
        self.stream: FakeStream | None = None
        self.mark = [True]


class FakeGraph:
    """One that can be launched."""

    def __init__(self, operations: list[Operation]) -> None:
        self.operations = list(operations)


class FakeCuda:
    """The functions of `cuda.bindings.runtime` that `alexnet_deploy.trt.cuda` calls; each returns (error, *values).

    Args:
        schedule: "late" runs queued work only when it is waited for, "early" at once, "random" somewhere between.
        devices: how many GPUs there are. A thread is on none until it calls CUDA, which then puts it on the first.

    Attributes:
        wrongs: what would have been undefined on a real GPU.
    """

    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)

    def __init__(self, schedule: str = "late", seed: int = 0, devices: int = 1) -> None:
        self.lock = threading.RLock()
        self.schedule = schedule
        self.random = random.Random(seed)
        self.devices = devices
        self.thread = threading.local()
        self.process = os.getpid()
        self.wrongs: list[str] = []
        self.memory: dict[int, tuple[Any, int, str, int]] = {}
        self.streams: dict[int, FakeStream] = {}
        self.events: set[FakeEvent] = set()
        self.graphs = 0
        self.executables: list[FakeGraph] = []
        self.handles = itertools.count(3)
        self.calls: list[str] = []
        self.faults: dict[str, Error] = {}
        self.poisoned: Error | None = None

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            with self.lock:
                return self._call(name, found, arguments)

        return call

    def _call(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        self.calls.append(name)
        try:
            if name in self.faults:
                if name == "cudaStreamEndCapture":
                    arguments[0].captured = None  # a capture ends also where it fails
                raise CudaFault(self.faults[name])
            if self.poisoned and name != "cudaGetErrorString":
                raise CudaFault(self.poisoned)
            if os.getpid() != self.process:
                raise CudaFault(Error.cudaErrorInitializationError)
            self.thread.device = self.current or 0
            self._advance()
            values = function(*arguments)
        except CudaFault as fault:
            return (fault.code, None)
        return (Error.cudaSuccess, *(values if isinstance(values, tuple) else () if values is None else (values,)))

    @property
    def held(self) -> int:
        """Everything that was made and not freed: buffers, streams, events and graphs. Raises where something was wrong."""
        assert not self.wrongs, self.wrongs
        return len(self.memory) + len(self.streams) + len(self.events) + self.graphs

    @property
    def current(self) -> int | None:
        """The GPU that the calling thread is on; None for a thread that has not called CUDA."""
        return getattr(self.thread, "device", None)

    def cudaSetDevice(self, device: int) -> None:
        if not 0 <= device < self.devices:
            raise CudaFault(Error.cudaErrorInvalidDevice)
        self.thread.device = device

    def cudaGetDevice(self) -> int:
        return self.current or 0

    # Memory

    def cudaMalloc(self, size: int) -> int:
        self._refuse_while_capturing()
        return self._allocate(size, "device")

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        self._refuse_while_capturing()
        return self._allocate(size, "pinned")

    def cudaFree(self, address: int) -> None:
        self._refuse_while_capturing()
        self._free(address, "device")

    def cudaFreeHost(self, address: int) -> None:
        self._refuse_while_capturing()
        self._free(address, "pinned")

    def cudaMemGetInfo(self) -> tuple[int, int]:
        used = sum(size for _, size, kind, _ in self.memory.values() if kind == "device")
        return (80 << 30) - used, 80 << 30

    def cudaPointerGetAttributes(self, address: int) -> Any:
        return self._attributes(address)

    def _attributes(self, address: int) -> Any:
        for start, (_, size, kind, device) in self.memory.items():
            if start <= address < start + size:
                return SimpleNamespace(type={"pinned": 1, "device": 2}[kind], device=device)
        return SimpleNamespace(type=0, device=-2)  # ordinary memory is no error

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: FakeStream) -> None:
        if self._attributes(target).type or stream.captured is not None:
            self.queue(stream, lambda: self._copy(target, source, size))
            return
        # To ordinary memory, which CUDA copies to before it returns; that it is as large as they say nobody can know.
        self._run(stream)
        assert self.inside(source, size), "copied from memory that is not the GPU's"
        ctypes.memmove(target, source, size)

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> FakeStream:
        stream = FakeStream(next(self.handles), self.current or 0)
        self.streams[stream.handle] = stream
        return stream

    def cudaStreamDestroy(self, stream: FakeStream) -> None:
        self._refuse_dead(stream)
        self._run(stream)
        del self.streams[stream.handle]

    def cudaStreamSynchronize(self, stream: FakeStream) -> None:
        self._refuse_dead(stream)
        if stream.captured is not None:
            raise CudaFault(Error.cudaErrorStreamCaptureUnsupported)
        self._run(stream)

    def cudaStreamWaitEvent(self, stream: FakeStream, event: FakeEvent, flags: int) -> None:
        recorded_on, mark = event.stream, event.mark
        if not mark[0]:
            self.queue(stream, lambda: self._run(recorded_on, until=mark))

    def cudaEventCreateWithFlags(self, flags: int) -> FakeEvent:
        event = FakeEvent()
        self.events.add(event)
        return event

    def cudaEventDestroy(self, event: FakeEvent) -> None:
        self.events.remove(event)

    def cudaEventRecord(self, event: FakeEvent, stream: FakeStream | int) -> None:
        if int(stream) in (1, 2):  # the default streams have these numbers and are never made: nobody queues anything there
            event.stream, event.mark = None, [True]
            return
        stream = self.streams[int(stream)]
        mark = [False]
        event.stream, event.mark = stream, mark
        self.queue(stream, lambda: mark.__setitem__(0, True))

    def cudaDeviceSynchronize(self) -> None:
        for stream in list(self.streams.values()):
            self._run(stream)

    def cudaEventSynchronize(self, event: FakeEvent) -> None:
        if not event.mark[0]:
            self._run(event.stream, until=event.mark)

    # Graphs

    def cudaStreamBeginCapture(self, stream: FakeStream, mode: int) -> None:
        self._refuse_dead(stream)
        if stream.captured is not None:
            raise CudaFault(Error.cudaErrorInvalidValue)
        stream.captured, stream.spoiled = [], False

    def cudaStreamEndCapture(self, stream: FakeStream) -> list[Operation]:
        operations, stream.captured = stream.captured, None
        if operations is None or stream.spoiled:
            raise CudaFault(Error.cudaErrorStreamCaptureInvalidated)
        self.graphs += 1
        return operations

    def cudaGraphInstantiate(self, graph: list[Operation], flags: int) -> FakeGraph:
        self.graphs += 1
        executable = FakeGraph(graph)
        self.executables.append(executable)
        return executable

    def cudaGraphDestroy(self, graph: list[Operation]) -> None:
        self.graphs -= 1

    def cudaGraphExecDestroy(self, executable: FakeGraph) -> None:
        self.executables.remove(executable)
        self.graphs -= 1

    def cudaGraphLaunch(self, executable: FakeGraph, stream: FakeStream) -> None:
        assert executable in self.executables, "launched a graph that is destroyed"
        for operation in executable.operations:
            self.queue(stream, operation)

    def cudaGetErrorString(self, error: Error) -> bytes:
        return error.name.removeprefix("cudaError").encode()

    # The machine itself

    def queue(self, stream: FakeStream, operation: Operation) -> None:
        with self.lock:
            if stream.captured is not None:
                stream.captured.append(operation)
                return
            stream.queue.append(operation)
            if self.schedule == "early":
                self._run(stream)

    def _advance(self) -> None:
        """Under the random schedule, lets some streams get ahead between any two calls."""
        if self.schedule == "random":
            for stream in list(self.streams.values()):
                while stream.queue and self.random.random() < 0.4:
                    stream.queue.popleft()()

    def _run(self, stream: FakeStream | None, until: list[bool] | None = None) -> None:
        assert stream is not None
        while stream.queue and not (until and until[0]):
            operation = stream.queue.popleft()
            operation()
        if self.poisoned:
            raise CudaFault(self.poisoned)

    def _refuse_dead(self, stream: FakeStream) -> None:
        if stream.handle not in self.streams:
            raise CudaFault(Error.cudaErrorInvalidResourceHandle)

    def _refuse_while_capturing(self) -> None:
        if any(stream.captured is not None for stream in self.streams.values()):
            raise CudaFault(Error.cudaErrorStreamCaptureUnsupported)

    def _allocate(self, size: int, kind: str) -> int:
        buffer = (ctypes.c_ubyte * (size + ALIGNMENT))()
        ctypes.memset(buffer, 0xFF, len(buffer))  # NaN for whoever reads what was not written
        address = ctypes.addressof(buffer) + -ctypes.addressof(buffer) % ALIGNMENT
        self.memory[address] = (buffer, size, kind, self.current or 0)
        return address

    def _free(self, address: int, kind: str) -> None:
        for stream in list(self.streams.values()):  # freeing waits for the GPU
            self._run(stream)
        if self.memory.get(address, (None, 0, "", 0))[2] != kind:
            raise CudaFault(Error.cudaErrorInvalidValue)
        del self.memory[address]

    def _copy(self, target: int, source: int, size: int) -> None:
        if self.inside(target, size) and self.inside(source, size):
            ctypes.memmove(target, source, size)
        else:
            self.poisoned = Error.cudaErrorIllegalAddress

    def inside(self, address: int, size: int) -> bool:
        """Whether a range lies in one allocation, on the GPU or pinned; copies from other memory would not be asynchronous."""
        return any(start <= address and address + size <= start + length for start, (_, length, _, _) in self.memory.items())


class FakeEngine:
    """What TensorRT deserialises: a linear classifier of one input and one output, computed a row at a time."""

    device_memory_size_v2 = 1 << 20
    num_io_tensors = 2

    def __init__(
        self, fake: FakeCuda, input: TensorSpec, output: TensorSpec, batch: BatchRange, *, capturable: bool = True
    ) -> None:
        self.fake, self.input, self.output, self.batch, self.capturable = fake, input, output, batch, capturable
        self.compiled: list[int] = []
        size = int(np.prod([n or 1 for n in input.shape[1:]]))
        generator = np.random.default_rng(7)
        self.weights = generator.standard_normal((size, int(output.shape[1] or 1))).astype(np.float32)
        self.enqueued: list[int] = []
        self.refuse = ""
        self.stripped_bytes = -1  # TensorRT's answer for an engine that has all of its weights

    def answer(self, rows: Any) -> Any:
        """float32 (N, classes); bit for bit the same for a row, whatever stands beside it."""
        answers = [row.ravel().astype(np.float32) @ self.weights for row in rows]
        return np.stack(answers) if answers else np.empty((0, self.weights.shape[1]), np.float32)

    def get_tensor_name(self, index: int) -> str:
        return (self.input, self.output)[index].name

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name == self.input.name else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        dtype = (self.input if name == self.input.name else self.output).dtype
        return SimpleNamespace(name={"float32": "FLOAT", "float16": "HALF"}.get(dtype, dtype.upper()))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if n is None else n for n in (self.input if name == self.input.name else self.output).shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(n, *self.get_tensor_shape(name)[1:]) for n in (self.batch.min, self.batch.opt, self.batch.max)]

    def get_engine_stat(self, stat: object) -> int:
        assert str(stat).endswith("STRIPPED_WEIGHTS_SIZE")  # the fake's, or the real library's
        return self.stripped_bytes

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: '{"Layers": ["matrix product"]}')

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig(self)

    def create_execution_context(self, config: FakeConfig | None = None) -> FakeContext | None:
        return None if self.refuse == "context" else FakeContext(self, config)


class FakeConfig:
    """A runtime configuration of TensorRT for RTX."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.dynamic_shapes_kernel_specialization_strategy = 0
        self.cache: weakref.ref[FakeKernels] | None = None

    def create_runtime_cache(self) -> FakeKernels:
        return FakeKernels(self.engine)

    def set_runtime_cache(self, cache: FakeKernels) -> bool:
        self.cache = weakref.ref(cache)
        return True


class FakeKernels:
    """The runtime cache of TensorRT for RTX: grows with each batch size that is compiled."""

    BEGINNING = b"kernels of this version"

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.sizes: set[int] = set()

    def deserialize(self, blob: bytes) -> bool:
        assert self.engine.fake.current is not None, "TensorRT for RTX compares a cache with the thread's CUDA context"
        if not blob.startswith(self.BEGINNING):
            return False
        self.sizes |= set(blob[len(self.BEGINNING) :])
        return True

    def serialize(self) -> bytes | None:
        return None if self.engine.refuse == "cache" else self.BEGINNING + bytes(sorted(self.sizes))


class FakeContext:
    """An execution context: remembers shape and addresses, and queues the computation on a stream."""

    def __init__(self, engine: FakeEngine, config: FakeConfig | None) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.changed = True  # since its shape was set, it has not run
        # A real context keeps its engine alive, and nothing else.
        self.stands_on = [weakref.ref(config), config.cache] if config is not None and config.cache is not None else []
        self.turn = threading.Lock()

    @contextmanager
    def used(self) -> Iterator[None]:
        if not self.turn.acquire(blocking=False):
            self.engine.fake.wrongs.append("a context is used by two threads at once")
            yield
            return
        if any(reference() is None for reference in self.stands_on):
            self.engine.fake.wrongs.append("a context is used after its configuration or its cache of kernels is gone")
        try:
            yield
        finally:
            self.turn.release()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self.used():
            self.shape, self.changed = tuple(shape), True
            return self.engine.batch.min <= shape[0] <= self.engine.batch.max

    def set_tensor_address(self, name: str, address: int) -> bool:
        with self.used():
            self.addresses[name] = address
            return address % ALIGNMENT == 0

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.capturable

    def execute_async_v3(self, handle: int) -> bool:
        with self.used():
            fake = self.engine.fake
            if self.engine.refuse == "run" or fake.current is None or fake.current != fake.streams[handle].device:
                return False
            stream = fake.streams[handle]
            if stream.captured is not None and self.engine.refuse == "capture":
                return False
            if stream.captured is not None and self.changed:
                stream.spoiled = True  # the first run after a shape is set allocates
            self.changed = False
            rows, source = self.shape[0], self.addresses[self.engine.input.name]
            if rows not in self.engine.compiled:
                self.engine.compiled.append(rows)
            for cache in self.stands_on[1:]:
                if (kernels := cache()) is not None:
                    kernels.sizes.add(rows)
            target = self.addresses[self.engine.output.name]
            alive = weakref.ref(self)  # what is queued or captured does not keep a context alive

            def compute() -> None:
                if (context := alive()) is not None:
                    context._compute(rows, source, target)
                else:
                    fake.wrongs.append("a context is destroyed before its work is done")

            fake.queue(stream, compute)
            return True

    def _compute(self, rows: int, source: int, target: int) -> None:
        fake, engine = self.engine.fake, self.engine
        dtype, shape = np.dtype(engine.input.dtype), (rows, *(n or 1 for n in engine.input.shape[1:]))
        taken, given = dtype.itemsize * int(np.prod(shape)), 4 * rows * engine.weights.shape[1]
        if not (fake.inside(source, taken) and fake.inside(target, given)):
            fake.poisoned = Error.cudaErrorIllegalAddress
            return
        batch = np.frombuffer((ctypes.c_ubyte * taken).from_address(source), dtype).reshape(shape)
        answer = np.ascontiguousarray(engine.answer(batch), np.float32)
        ctypes.memmove(target, answer.ctypes.data, given)
        engine.enqueued.append(rows)


class FakeTensorRt:
    """The module `tensorrt` or `tensorrt_rtx`, for loading and running `engine`."""

    class ILogger:
        pass

    class EngineValidity(IntEnum):
        VALID = 0
        INVALID = 2

    class EngineInvalidityDiagnostics(IntEnum):
        VERSION_MISMATCH = 1
        UNSUPPORTED_CC = 2
        OLD_CUDA_DRIVER = 4
        INSUFFICIENT_GPU_MEMORY = 16
        MALFORMED_ENGINE = 32

    class ComputeCapability(IntEnum):
        CURRENT = 1
        SM80 = 80
        SM86 = 86
        SM89 = 89
        SM120 = 120

    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER=1)
    EngineStat = SimpleNamespace(STRIPPED_WEIGHTS_SIZE="EngineStat.STRIPPED_WEIGHTS_SIZE")

    def __init__(self, version: str, engine: FakeEngine | None, invalid: int = 0, plan: bytes | None = None) -> None:
        """`plan` is the only file that is taken for the engine's; None takes any."""
        self.__version__ = version
        module = self

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def get_engine_validity(self, plan: bytes) -> tuple[Any, int]:
                return (module.EngineValidity.INVALID if invalid else module.EngineValidity.VALID, invalid)

            def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
                assert engine is None or engine.fake.current is not None, "CUDA has not been started"
                if engine is None or plan not in (None, content):
                    self.logger.log(SimpleNamespace(name="ERROR"), "the magic number is wrong")
                    return None
                return engine

        self.Runtime = Runtime


def install(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeCuda,
    engine: FakeEngine | None,
    *,
    flavour: Flavour = Flavour.TENSORRT_RTX,
    version: str = "1.7.1.116",
    gpu: Gpu = L40,
    invalid: int = 0,
    plan: bytes | None = None,
) -> TensorRt:
    """Makes this process believe in the fake GPU, CUDA and TensorRT until the test ends."""
    bindings = TensorRt(flavour, FakeTensorRt(version, engine, invalid, plan))  # type: ignore[arg-type]
    monkeypatch.setattr(cuda, "_api", lambda: fake)
    monkeypatch.setattr(cuda, "gpus", lambda: (gpu,) * fake.devices)
    monkeypatch.setattr(loading, "gpus", lambda: (gpu,) * fake.devices)
    monkeypatch.setattr(adapter, "load", lambda wanted: bindings)
    return bindings
