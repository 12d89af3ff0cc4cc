"""What Runtime costs the host beside a bare launch of a plan's CUDA graph. Host side only: there is no GPU in it.

    python benchmarks/gpu_host_side.py --out benchmarks/results      # a minute, one thread

CUDA and TensorRT are stand-ins whose calls return at once, so that what is left is Python, numpy and copies in memory: the
bare contestants and Runtime make the same calls, and the difference between them is Runtime's. A call to the real CUDA takes
a microsecond or two in either. The stand-in's GPU takes as long as it is told (--gpu-us), which shows what is done meanwhile.

Nothing here is a figure of a GPU. Those come from benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from alexnet_deploy import loading
from alexnet_deploy.artifact import write_artifact
from alexnet_deploy.gpu import Gpu
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import Manifest, PlanRecord, Preprocess
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt import adapter, cuda
from alexnet_deploy.types import BatchRange, Flavour, TensorSpec

CLASSES = 1000
GPU = Gpu("a stand-in", (9, 0), 80 << 30)


class NullCuda:
    """The CUDA runtime, of which every call succeeds at once; waiting takes until `gpu_us` after the latest launch."""

    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)  # noqa: N815

    def __init__(self, gpu_us: float) -> None:
        self.seconds = 1e-6 * gpu_us
        self.done = 0.0
        self.memory: list[Any] = []
        self.handles = itertools.count(3)

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if name in ("cudaMalloc", "cudaHostAlloc"):
            return self.allocate
        if name.endswith("Instantiate") or "Create" in name or name == "cudaStreamEndCapture":
            return lambda *_: (0, next(self.handles))
        nothing: Callable[..., tuple[Any, ...]] = lambda *_: (0,)  # noqa: E731
        setattr(self, name, nothing)
        return nothing

    def allocate(self, size_bytes: int, *_: Any) -> tuple[int, int]:
        memory = (ctypes.c_ubyte * (size_bytes + 256))()
        self.memory.append(memory)
        return 0, ctypes.addressof(memory) + -ctypes.addressof(memory) % 256

    def cudaPointerGetAttributes(self, address: int) -> tuple[int, Any]:  # noqa: N802
        return 0, SimpleNamespace(type=0, device=-2)

    def cudaGraphLaunch(self, *_: Any) -> tuple[int]:  # noqa: N802
        self.done = time.perf_counter() + self.seconds
        return (0,)

    def cudaStreamSynchronize(self, *_: Any) -> tuple[int]:  # noqa: N802
        while time.perf_counter() < self.done:
            pass
        return (0,)

    cudaEventSynchronize = cudaStreamSynchronize  # noqa: N815


class NullEngine:
    """A plan as TensorRT has loaded it, and its own execution context."""

    num_io_tensors = 2

    def __init__(self, null: NullCuda, input: TensorSpec, output: TensorSpec, batch: BatchRange) -> None:
        self.null = null
        self.specs = {"input": input, "logits": output}
        self.batch = batch

    def create_execution_context(self) -> NullEngine:
        return self

    def get_tensor_name(self, index: int) -> str:
        return list(self.specs)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name == "input" else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name={"float32": "FLOAT", "uint8": "UINT8"}[self.specs[name].dtype])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *(n or 0 for n in self.specs[name].shape[1:]))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(n, *self.get_tensor_shape(name)[1:]) for n in (self.batch.min, self.batch.opt, self.batch.max)]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.null.cudaGraphLaunch()
        return True


def opened(held: ExitStack, null: NullCuda, size: int, dtype: str, largest: int) -> Runtime:
    """A Runtime of a plan that does not exist, on a GPU that does not."""
    shape = (None, size, size, 3) if dtype == "uint8" else (None, 3, size, size)
    given, answer, batch = (
        TensorSpec("input", dtype, shape),
        TensorSpec("logits", "float32", (None, CLASSES)),
        BatchRange(1, 1, largest),
    )
    engine = NullEngine(null, given, answer, batch)
    trt: Any = SimpleNamespace(
        __version__="0", ILogger=object, Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    )
    bindings = adapter.TensorRt(Flavour.TENSORRT, trt)
    for where, name, what in (
        (cuda, "_api", lambda: null),
        (cuda, "gpus", lambda: (GPU,)),
        (loading, "gpus", lambda: (GPU,)),
        (adapter, "load", lambda flavour: bindings),
    ):
        held.enter_context(patch.object(where, name, what))
    manifest = Manifest(
        kind="plan",
        input=given,
        output=answer,
        preprocess=Preprocess(height=size, width=size),
        batch=batch,
        plan=PlanRecord(flavour=Flavour.TENSORRT, version="0", capabilities=(GPU.sm,)),
    )
    folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
    return held.enter_context(Runtime(write_artifact(folder / "null.plan", manifest, b"no plan").path, device="cuda"))


class Lent:
    """An array of another library, which says that it is on the GPU and lends it through DLPack, as fast as numpy does."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> object:
        return self.array.__dlpack__()


def measure(size: int, dtype: str, rows: int, gpu_us: float, seconds: float) -> dict[str, float]:
    """Median microseconds of each contestant, in turns."""
    with ExitStack() as held:
        runtime = opened(held, NullCuda(gpu_us), size, dtype, rows)
        numbers = np.random.default_rng(0).integers(0, 256, (rows, *(n or 0 for n in runtime.manifest.input.shape[1:])))
        batch = numbers.astype(dtype)
        stream = held.enter_context(cuda.Stream())
        graph = held.enter_context(cuda.Graph(stream, lambda: None))
        pinned = held.enter_context(cuda.PinnedBuffer(batch.nbytes)).array(dtype, batch.shape)
        answers = held.enter_context(cuda.PinnedBuffer(4 * rows * CLASSES)).array("float32", (rows, CLASSES))
        on_gpu, out = Lent(pinned), Lent(answers)  # aligned, as memory of a GPU is

        def bare() -> None:
            graph.launch(stream)
            stream.synchronize()

        def from_ordinary_memory() -> Any:
            pinned[...] = batch
            bare()
            return answers.copy()

        contestants: dict[str, Callable[[], object]] = {
            "bare": bare,
            "bare, ordinary memory": from_ordinary_memory,
            "logits": lambda: runtime.logits(batch),
            "predict": lambda: runtime.predict(batch),
            "on_device": lambda: runtime.on_device(on_gpu, out),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for call in contestants.values():
            for _ in range(5):
                call()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for name, call in contestants.items():
                started = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - started)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for gpu-host-side.json and .md")
    parser.add_argument("--gpu-us", type=float, default=200.0, help="how long the stand-in's GPU takes for a picture")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case")
    options = parser.parse_args(arguments)
    rows = []
    for size, dtype, count in (
        (8, "float32", 1),
        (224, "float32", 1),
        (224, "uint8", 1),
        (224, "float32", 128),
        (224, "uint8", 128),
    ):
        for gpu_us in (0.0, count * options.gpu_us / (1 if count == 1 else 8)):
            us = measure(size, dtype, count, gpu_us, options.seconds)
            rows.append(
                {"input": f"{dtype}, {size} px", "batch": count, "gpu_us": gpu_us} | {n: round(t, 1) for n, t in us.items()}
            )
            print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = Machine.here()
    document = {"machine": f"{machine.cpu}, {machine.cores} cores", "measured": str(machine.measured), "rows": rows}
    (options.out / "gpu-host-side.json").write_text(json.dumps(document, indent=2) + "\n")
    (options.out / "gpu-host-side.md").write_text(markdown(document))
    return rows


def markdown(document: dict[str, Any]) -> str:
    columns = list(document["rows"][0])
    return "\n".join(
        [
            "# Runtime beside a bare CUDA graph: the host side, without a GPU",
            "",
            f"{document['measured']}, {document['machine']}. CUDA and TensorRT are stand-ins whose calls return at once;",
            "their GPU takes `gpu_us`. Median microseconds of a call, in turns. Nothing here is a figure of a GPU.",
            "Reproduce: `python benchmarks/gpu_host_side.py`.",
            "",
            "| " + " | ".join(columns) + " |",
            "|" + " --- |" * len(columns),
            *("| " + " | ".join(str(row[column]) for column in columns) + " |" for row in document["rows"]),
            "",
        ]
    )


if __name__ == "__main__":
    main()
