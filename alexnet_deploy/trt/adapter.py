"""One adapter over `tensorrt` (10.x and 11.x) and `tensorrt_rtx`: everything in which they differ is said here, once.

Both have the same builder, parser, engine and context. TensorRT for RTX adds target capabilities (it builds without a
GPU), a validity check, and a runtime configuration with a cache for the kernels that it compiles when a plan is loaded.

Strongly typed networks serve all of them: TensorRT 11 knows no others, 10.x takes the flag, so precision lives in the graph.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from alexnet_deploy import logs
from alexnet_deploy.errors import BackendMissing, BuildError
from alexnet_deploy.types import BatchRange, Flavour, Progress, TensorSpec

log = logs.logger(__name__)

CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Package:
    """Where a flavour is to be had: the module to import, and the extra that installs it."""

    module: str
    extra: str


PACKAGES = {
    Flavour.TENSORRT: Package("tensorrt", "tensorrt"),
    Flavour.TENSORRT_RTX: Package("tensorrt_rtx", "rtx"),
}


def installed(flavour: Flavour) -> bool:
    """Whether the package is there, without importing it."""
    return find_spec(PACKAGES[flavour].module) is not None


@cache
def load(flavour: Flavour) -> TensorRt:
    """Imports a flavour of TensorRT.

    Raises:
        BackendMissing: it is not installed, or its libraries do not load.
    """
    package = PACKAGES[flavour]
    try:
        module = import_module(package.module)
    except Exception as error:  # a package without its libraries raises OSError, RuntimeError or AttributeError, not ImportError
        state = "is installed but does not load" if installed(flavour) else "is not installed"
        raise BackendMissing(
            f"{package.module} {state} ({error})", fix=f"pip install 'alexnet-deploy[{package.extra}]'"
        ) from error
    return TensorRt(flavour, module)


class TensorRt:
    """A loaded flavour of TensorRT.

    Attributes:
        flavour: which one.
        trt: its Python module.
        version: such as "1.7.1.116"; a plan is read only by the version that built it.
        log: everything that it says.
    """

    def __init__(self, flavour: Flavour, module: ModuleType) -> None:
        self.flavour = flavour
        self.trt: Any = module
        self.version = str(module.__version__)
        self.log = Log()
        # TensorRT keeps the first logger it is given for as long as anything of it lives, so one serves the whole process.
        self.logger = _logger(module, self.log)

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    @property
    def portable(self) -> bool:
        """Whether it builds for other GPUs than the one that is here, and without any."""
        return self.flavour is Flavour.TENSORRT_RTX

    def capabilities(self) -> tuple[str, ...]:
        """Targets that can be named, oldest first: ("sm75", ..., "sm121", "current")."""
        if not self.portable:
            return (CURRENT,)
        names = (name for name in self.trt.ComputeCapability.__members__ if name.startswith("SM"))
        return (*sorted((n.lower() for n in names), key=lambda n: int(n[2:])), CURRENT)

    def network(self, builder: Any) -> Any:
        """An empty, strongly typed network."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # always on, and one day gone, in 11
        return builder.create_network(1 << int(flag) if flag is not None else 0)

    def config(self, builder: Any, capabilities: Sequence[str]) -> Any:
        """A builder configuration: FP32 that is FP32, the targets set, and fit for CUDA graphs. Raises BuildError."""
        config = builder.create_builder_config()
        flags = self.trt.BuilderFlag
        # TF32 rounds the products of FP32 layers to 10 bits of mantissa, and is on by default.
        config.clear_flag(flags.TF32)
        if self.portable:
            # Without it an engine may allocate while it runs, which no CUDA graph can capture.
            if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
                config.set_flag(flags.REQUIRE_USER_ALLOCATION)
            if capabilities:
                config.num_compute_capabilities = len(capabilities)
                for index, name in enumerate(capabilities):
                    if not config.set_compute_capability(getattr(self.trt.ComputeCapability, name.upper()), index):
                        raise BuildError(
                            f"{self} does not take {name} as target {index + 1} of {len(capabilities)}",
                            expected=f"some of {', '.join(self.capabilities())}",
                        )
        return config

    def engine(self, plan: bytes) -> Any:
        """Deserialises a plan; None where TensorRT does not, for reasons that are in the log."""
        with interruptible():
            return self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)

    def context(self, engine: Any, kernels: bytes = b"") -> Context | None:
        """An execution context; None where TensorRT makes none, for reasons that are in the log.

        Args:
            kernels: what `Context.kernels` gave earlier; that of another version or GPU is ignored.
        """
        if not self.portable:
            raw = engine.create_execution_context()
            return Context(raw, engine) if raw is not None else None
        config = engine.create_runtime_config()
        # Lazy compilation starts with a slower kernel and exchanges it later; a CUDA graph would keep the slower one.
        config.dynamic_shapes_kernel_specialization_strategy = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        cache = config.create_runtime_cache()
        if kernels and not cache.deserialize(kernels):
            log.info("the kernel cache is of another version or GPU, and is made anew")
        config.set_runtime_cache(cache)
        raw = engine.create_execution_context(config)
        return Context(raw, engine, config, cache) if raw is not None else None

    def tensors(self, engine: Any, mode: str) -> list[TensorSpec]:
        """An engine's inputs (mode "INPUT") or outputs ("OUTPUT")."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [self._spec(engine, name) for name in names if engine.get_tensor_mode(name).name == mode]

    def batches(self, engine: Any, name: str) -> BatchRange:
        """The batch sizes of an input: the one that its shape fixes, or those of the first optimisation profile."""
        fixed = int(engine.get_tensor_shape(name)[0])
        if fixed >= 0:
            return BatchRange(fixed, fixed, fixed)
        low, best, high = engine.get_tensor_profile_shape(name, 0)
        return BatchRange(low[0], best[0], high[0])

    def memory_bytes(self, engine: Any) -> int:
        """GPU memory that one execution context of an engine needs, besides its weights."""
        return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)

    def stripped_bytes(self, engine: Any) -> int:
        """Bytes of weights that an engine was built without, to be refitted later; 0 where none, or where it is too old to tell.

        https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/refitting-engines.html
        """
        if not hasattr(engine, "get_engine_stat"):
            return 0
        return max(0, int(engine.get_engine_stat(self.trt.EngineStat.STRIPPED_WEIGHTS_SIZE)))  # -1 of a whole engine

    def capturable(self, context: Any, stream: int) -> bool:
        """Whether a CUDA graph may be made of what `context` runs."""
        return bool(context.is_stream_capturable(stream)) if hasattr(context, "is_stream_capturable") else True

    def _spec(self, engine: Any, name: str) -> TensorSpec:
        dtype = engine.get_tensor_dtype(name).name
        shape = tuple(None if n < 0 else int(n) for n in engine.get_tensor_shape(name))
        return TensorSpec(name, _DTYPES.get(dtype, dtype.lower()), shape)

    def names(self, sm: str) -> bool:
        """Whether GPUs of this compute capability are among those that it says it runs on. TensorRT tells only by trying."""
        return not self.portable or sm in self.capabilities()

    def invalidity(self, plan: bytes) -> tuple[str, ...]:
        """Why a plan cannot run here, as TensorRT for RTX tells from its header: "unsupported cc", say; () where it can.

        TensorRT itself has no such check: always ().
        """
        if not hasattr(self.trt.Runtime, "get_engine_validity"):
            return ()
        verdict, diagnostics = self.trt.Runtime(self.logger).get_engine_validity(plan)
        if verdict != self.trt.EngineValidity.INVALID:
            return ()
        kinds = self.trt.EngineInvalidityDiagnostics.__members__.values()
        reasons = [kind.name.lower().replace("_", " ") for kind in kinds if int(diagnostics) & int(kind)]
        return tuple(reasons) or ("no reason given",)


class Context:
    """An execution context with all that has to outlive it.

    In Python a context keeps its engine alive, but neither its configuration nor its cache of compiled kernels; for C++ the
    rule is that what makes an object lives longer: https://docs.nvidia.com/deeplearning/tensorrt/latest/architecture/how-trt-works.html

    Attributes:
        raw: TensorRT's own; None once it is closed.
    """

    def __init__(self, raw: Any, engine: Any, config: Any = None, cache: Any = None) -> None:
        self.raw = raw
        self._engine, self._config, self._cache = engine, config, cache

    def kernels(self) -> bytes:
        """What TensorRT for RTX has compiled so far, for the next context of this plan; b"" of TensorRT, which compiles none."""
        blob = self._cache.serialize() if self._cache is not None else None
        return bytes(blob) if blob is not None else b""

    def close(self) -> None:
        """Destroys each before what it was made by. No work of it may be under way, and no CUDA graph of it left."""
        self.raw = None
        self._cache = None
        self._config = None
        self._engine = None


# TensorRT's names of those types that numpy has too.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class Log:
    """What TensorRT says, handed to Python's logging and to whoever is collecting just now."""

    def __init__(self) -> None:
        self._collectors: list[list[str]] = []
        self._lock = threading.Lock()

    @contextmanager
    def collect(self) -> Iterator[list[str]]:
        """A list that fills with the warnings and errors that come while the block runs, in any thread."""
        messages: list[str] = []
        with self._lock:
            self._collectors.append(messages)
        try:
            yield messages
        finally:
            with self._lock:
                self._collectors = [c for c in self._collectors if c is not messages]

    def write(self, severity: str, message: str) -> None:
        """Takes one message, with TensorRT's name of its severity."""
        if severity not in _TROUBLE:
            log.debug("%s", message)
            return
        log.info("%s", message)
        with self._lock:
            for collector in self._collectors:
                collector.append(message)


_TROUBLE = ("WARNING", "ERROR", "INTERNAL_ERROR")


def _logger(module: ModuleType, said: Log) -> Any:
    """An ILogger of this flavour that writes to `said`."""
    base: Any = module.ILogger

    class Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            said.write(severity.name, message)

    return Logger()


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0
    inner: float = 0.0  # how far the phase inside the current step is, 0..1


@dataclass
class BuildMonitor:
    """TensorRT's nested phases as one percentage, and the way to stop a build.

    TensorRT calls it from its own threads. An exception must not pass through TensorRT: one raised by `progress` is kept
    in `error`, and the build is told to stop.
    """

    progress: Progress
    task: str
    cancelled: bool = False
    error: BaseException | None = None
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _percent: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, index: int) -> bool:
        """One step is done. Returns False to stop the build."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done, phase.inner = index + 1, 0.0
                self._show(phase)
            return not self.cancelled

    def finish(self, name: str) -> None:
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None:
                phase.done = phase.steps
                self._show(phase)

    def _show(self, phase: _Phase) -> None:
        fraction = min(1.0, (phase.done + phase.inner) / phase.steps)
        while phase.parent in self._phases:
            phase = self._phases[phase.parent]
            phase.inner = max(phase.inner, fraction)
            fraction = min(1.0, (phase.done + phase.inner) / phase.steps)
        percent = int(100 * fraction)
        if percent <= self._percent or self.cancelled:
            return
        self._percent = percent
        try:
            self.progress(self.task, percent, 100)
        except BaseException as error:
            self.error, self.cancelled = error, True

    def cancel(self) -> None:
        """Makes TensorRT stop at the end of the step that it is in."""
        self.cancelled = True

    def attach(self, module: Any, config: Any) -> object:
        """Makes `config` report to this. Returns what has to live for as long as the build runs."""
        monitor = self
        base: Any = module.IProgressMonitor

        class Adapter(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                monitor.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return monitor.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                monitor.finish(phase_name)

        shown = Adapter()
        config.progress_monitor = shown
        return shown


@contextmanager
def interruptible(cancel: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Ctrl-C, and a SIGTERM that Python handles, calls `cancel` inside the block, and is handled as before when that has ended.

    The exception would come inside one of TensorRT's callbacks, its logger's above all: there it ends the process, or is lost.
    Outside the main thread this does nothing: signals do not arrive there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def handler(number: int, frame: object) -> None:
        received.append(number)
        cancel()

    before = {number: handled for number in (signal.SIGINT, signal.SIGTERM) if callable(handled := signal.getsignal(number))}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)
        if received:  # its exception counts, and not what the cancelled work failed with
            signal.raise_signal(received[0])
