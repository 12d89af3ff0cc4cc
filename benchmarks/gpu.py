"""Engines on a GPU, measured against PyTorch, onnxruntime and a bare enqueue loop.

    python benchmarks/gpu.py --out benchmarks/results            # everything, 10 to 20 minutes on one GPU
    python benchmarks/gpu.py --parts plans --precisions fp16     # a part of it: peers, plans or memory
    python benchmarks/gpu.py --quick --width 0.1 --size 64       # a minute: does it run at all?

Needs a GPU, `pip install alexnet-deploy[train,build,rtx]` and a PyTorch with CUDA; onnxruntime-gpu is measured where it is
installed. What does not work is written down with its error text and does not stop the rest; files are written after each
part, the peers first, for a plan that crashes takes the process with it. Weights are random (He), which
changes neither speed nor how far precisions differ from FP32 by much; accuracy on real data is the matter of `verify`.

Every latency is the median of rounds in which all contestants take turns, so that a clock that changes meets all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.engine import PRECISIONS, build_engine
from alexnet_deploy.gpu import driver_cuda_version, gpus
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt import adapter, cuda
from alexnet_deploy.trt.execution import Execution
from alexnet_deploy.types import BatchRange, Flavour, Precision

Timed = Callable[[], object]
BARE_GRAPH = "bare graph, no copies"
PARTS = ("peers", "plans", "memory")
# What a Runtime adds: a contestant, and the bare one that does the same work.
LIKE_FOR_LIKE = {
    "Runtime.predict, float32": "bare loop, ordinary memory",
    "Runtime.logits, float32": "bare loop, ordinary memory",
    "Runtime.logits, pinned float32": "bare loop, pinned copies",
    "Runtime.on_device, a PyTorch tensor": "bare loop, no copies",
    "Runtime.on_device, a CuPy array": "bare loop, no copies",
}

# Peaks from NVIDIA's data sheets, dense: bytes a second of memory, and operations a second by precision.
PEAKS = {
    "H100": (3.35e12, {"fp32": 67e12, "fp16": 989e12, "bf16": 989e12, "int8": 1979e12, "fp8": 1979e12}),
    "H200": (4.8e12, {"fp32": 67e12, "fp16": 989e12, "bf16": 989e12, "int8": 1979e12, "fp8": 1979e12}),
    "A100": (2.04e12, {"fp32": 19.5e12, "fp16": 312e12, "bf16": 312e12, "int8": 624e12}),
    "L40": (0.864e12, {"fp32": 90.5e12, "fp16": 181e12, "bf16": 181e12, "int8": 362e12, "fp8": 362e12}),
    "RTX 4090": (1.008e12, {"fp32": 82.6e12, "fp16": 165e12, "bf16": 165e12, "int8": 330e12, "fp8": 330e12}),
}


@dataclass
class Findings:
    """What came out; written as JSON and as Markdown.

    Attributes:
        probes: for each plan that was tried, what TensorRT itself says of it, step by step.
        loads: for each plan that loads, in which time, and how far its answers are from PyTorch's.
        latency: rows of contestant, precision, batch, milliseconds.
        added: what Runtime adds to a bare enqueue loop that does the same, in microseconds and per cent.
        roofline: share of what the hardware could do.
        memory: GPU memory over many open and close cycles.
        failures: error texts, by what was tried.
    """

    machine: Machine
    gpu: str
    driver_cuda: str
    settings: dict[str, Any]
    probes: list[dict[str, Any]] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)
    latency: list[dict[str, Any]] = field(default_factory=list)
    added: list[dict[str, Any]] = field(default_factory=list)
    roofline: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Writes down an error of the block, and goes on."""
        print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:  # a benchmark of many parts reports those that fail
            self.failures[what] = f"{type(error).__name__}: {error}"
            traceback.print_exc()


def main(arguments: list[str] | None = None) -> Findings:
    options = parse(arguments)
    recipe = Preprocess(height=options.size, width=options.size)
    found = Findings(
        machine=Machine.here(),
        gpu=", ".join(f"{g.name} ({g.sm})" for g in gpus()),
        driver_cuda=".".join(map(str, driver_cuda_version() or ())),
        settings=vars(options) | {"out": str(options.out)},
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, onnx = make_model(folder, recipe, options)
        pictures = PictureSet.open("demo:test").sample(options.pictures)
        if "peers" in options.parts:
            for batch in options.batches:
                found.latency += latency_of_peers(found, model, onnx, batch, options)
            write(found, options.out)
        for precision in options.precisions:
            if plan := plan_that_loads(found, onnx, folder, precision, model, pictures, options):
                measure(found, plan, onnx, options)
            write(found, options.out)
    print(markdown(found))
    return found


def plan_that_loads(
    found: Findings, onnx: Artifact, folder: Path, precision: Precision, model: Any, pictures: PictureSet, options: Any
) -> Artifact | None:
    """Builds a plan for the default targets and one for this GPU, and tries both. The first that loads."""
    loading: list[Artifact] = []
    for capability in ("", "current"):
        what = f"{precision} plan, {capability or 'default'} target"
        with found.noting(what):
            plan = make_plan(onnx, folder, precision, capability, options)
            found.probes.append({"plan": what, **probe(plan)})
            write(found, options.out)  # what follows may crash the process
            found.loads.append(agreement(plan, what, model, pictures))
            loading.append(plan)
    return loading[0] if loading else None


def measure(found: Findings, plan: Artifact, onnx: Artifact, options: argparse.Namespace) -> None:
    """Latency, what Runtime adds to it, its share of the roofline; and once the memory."""
    precision = plan.manifest.precision
    if "plans" in options.parts:
        for batch in options.batches:
            with found.noting(f"latency of {precision} at batch {batch}"):
                found.latency += latency_of_plan(found, plan, batch, options.seconds)
        found.added = added(found.latency)
        found.roofline = roofline(found, onnx)
    if "memory" in options.parts and not found.memory:
        with found.noting("memory"):
            found.memory = memory_over_cycles(plan, options.cycles)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for gpu-*.json and gpu-*.md")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32, 128])
    parser.add_argument("--precisions", type=lambda text: [Precision(p) for p in text.split(",")], default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contestant at each batch size")
    parser.add_argument("--cycles", type=int, default=200, help="of opening and closing")
    parser.add_argument("--pictures", type=int, default=256, help="to compare answers on")
    parser.add_argument("--width", type=float, default=1.0, help="of the network")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="of its input, in pixels")
    parser.add_argument("--flavour", type=Flavour, choices=list(Flavour), default=Flavour.TENSORRT_RTX)
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batches, options.seconds, options.cycles, options.pictures = [1, 8], 0.05, 5, 32
    return options


def make_model(folder: Path, recipe: Preprocess, options: argparse.Namespace) -> tuple[Any, Artifact]:
    """A PyTorch AlexNet with random weights, and its ONNX graph."""
    import torch

    from alexnet_deploy.export import export
    from training import checkpoint
    from training.model import ModelConfig, build_model

    torch.manual_seed(0)
    model = build_model(ModelConfig(classes=options.classes, width=options.width, input_size=options.size)).eval()
    source = checkpoint.save(
        model,
        folder / "alexnet.safetensors",
        preprocess=recipe,
        pictures=PictureSet.open("demo:train").sample(512).reference(),
    )
    export(model, source, folder / "alexnet.onnx", batch=BatchRange(1, 8, max(options.batches)))
    return model, Artifact.open(folder / "alexnet.onnx")


def make_plan(onnx: Artifact, folder: Path, precision: Precision, capability: str, options: argparse.Namespace) -> Artifact:
    output = folder / (capability or "default") / f"alexnet.{precision}.plan"
    capabilities = [capability] if capability else []
    return build_engine(onnx, output, precision, method="mse", count=128, flavour=options.flavour, capabilities=capabilities).plan


def agreement(plan: Artifact, what: str, model: Any, pictures: PictureSet) -> dict[str, Any]:
    """Loads a plan on the GPU and compares its answers with PyTorch's on the CPU, in FP32."""
    import torch

    started = time.perf_counter()
    with Runtime(plan.path, device="cuda") as runtime:
        seconds = time.perf_counter() - started
        answers, wanted = [], []
        for batch, _ in pictures.batches(plan.manifest.preprocess, 32):
            answers.append(runtime.logits(batch))
            with torch.inference_mode():
                wanted.append(model(torch.from_numpy(batch)).numpy())
    found, expected = np.concatenate(answers), np.concatenate(wanted)
    return {
        "plan": what,
        "load_seconds": round(seconds, 3),
        "size_bytes": plan.manifest.size_bytes,
        "top1_agreement": float((found.argmax(1) == expected.argmax(1)).mean()),
        "max_error": float(np.abs(found - expected).max() / np.abs(expected).max()),
        "layers": layers_of(plan),
    }


def probe(plan: Artifact) -> dict[str, Any]:
    """What TensorRT says at each step of loading a plan, also where an earlier one has refused it."""
    bindings, _ = bindings_of(plan)
    cuda.make_current()
    with bindings.log.collect() as messages:
        said: dict[str, Any] = {"header": ", ".join(bindings.invalidity(plan.path.read_bytes())) or "fits"}
        engine = bindings.engine(plan.path.read_bytes())
        context = bindings.context(engine) if engine is not None else None
        said |= {"engine": engine is not None, "context": context is not None}
        if context is not None:
            with cuda.Stream() as stream:
                said["capturable"] = bindings.capturable(context.raw, stream.handle)
            context.close()
    return {**said, "log": " | ".join(dict.fromkeys(messages))}


def layers_of(plan: Artifact) -> list[str]:
    """What TensorRT's inspector says of the loaded engine's layers."""
    bindings, engine = bindings_of(plan, load=True)
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(bindings.trt.LayerInformationFormat.JSON)
    return [layer if isinstance(layer, str) else layer.get("Name", "") for layer in json.loads(text).get("Layers", [])]


def latency_of_plan(found: Findings, plan: Artifact, batch: int, seconds: float) -> list[dict[str, Any]]:
    """Runtime, and a bare loop on a context of its own: with and without CUDA graphs, with and without copies."""
    recipe = plan.manifest.preprocess
    floats = np.random.default_rng(0).standard_normal((batch, *recipe.input_shape), np.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, recipe.height, recipe.width, 3), np.uint8)
    with ExitStack() as held:
        runtime = held.enter_context(Runtime(plan.path, device="cuda"))
        pinned = held.enter_context(cuda.PinnedBuffer(floats.nbytes)).array("float32", floats.shape)
        pinned[...] = floats
        contestants: dict[str, Timed] = {
            "Runtime.predict, float32": lambda: runtime.predict(floats),
            "Runtime.logits, float32": lambda: runtime.logits(floats),
            "Runtime.logits, pinned float32": lambda: runtime.logits(pinned),
            "Runtime.logits, uint8 pictures": lambda: runtime.logits(pixels),
        }
        for more in (without_graphs, on_pytorch, on_cupy, bare_loop):
            with found.noting(f"{more.__name__} of {plan.manifest.precision} at batch {batch}"):
                contestants |= more(held, plan, runtime, floats)
        medians = interleaved(found, contestants, seconds)
    return [
        {"contestant": name, "precision": str(plan.manifest.precision), "batch": batch, "ms": round(ms, 4)}
        for name, ms in medians.items()
    ]


def added(latency: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Runtime adds to the bare loop that does the same work."""
    ms = {(row["contestant"], row["precision"], row["batch"]): row["ms"] for row in latency}
    rows = []
    for (contestant, precision, batch), taken in ms.items():
        bare = LIKE_FOR_LIKE.get(contestant)
        if bare is not None and (least := ms.get((bare, precision, batch))):
            more = taken - least
            rows.append(
                {"contestant": contestant, "beside": bare, "precision": precision, "batch": batch}
                | {"added_us": round(1000 * more, 1), "added_percent": round(100 * more / least, 1)}
            )
    return rows


def without_graphs(held: ExitStack, plan: Artifact, runtime: Runtime, floats: Any) -> dict[str, Timed]:
    bindings, engine = bindings_of(plan, load=True)
    manifest = plan.manifest
    execution = Execution(bindings, context_of(bindings, engine), manifest.input, manifest.output, manifest.batch, graphs=False)
    held.callback(execution.close)
    return {"Runtime's engine, no CUDA graphs": lambda: execution.run(floats)}


def on_pytorch(held: ExitStack, plan: Artifact, runtime: Runtime, floats: Any) -> dict[str, Timed]:
    """A batch that PyTorch has put on the GPU; none where it has no CUDA."""
    import torch

    if not torch.cuda.is_available():
        return {}
    batch, out = torch.from_numpy(floats).cuda(), torch.empty(len(floats), classes_of(plan), device="cuda")
    return {
        "Runtime.on_device, a PyTorch tensor": lambda: runtime.on_device(batch, out),
        "Runtime.logits, a PyTorch tensor": lambda: runtime.logits(batch),
    }


def on_cupy(held: ExitStack, plan: Artifact, runtime: Runtime, floats: Any) -> dict[str, Timed]:
    """A batch that CuPy has put on the GPU; none where it is not installed, or finds no GPU."""
    try:
        import cupy
    except ImportError:
        return {}
    if not cupy.cuda.is_available():
        return {}
    batch, out = cupy.asarray(floats), cupy.empty((len(floats), classes_of(plan)), cupy.float32)
    return {"Runtime.on_device, a CuPy array": lambda: runtime.on_device(batch, out)}


def classes_of(plan: Artifact) -> int:
    return int(plan.manifest.output.shape[1] or 1)


def bare_loop(held: ExitStack, plan: Artifact, runtime: Runtime, floats: Any) -> dict[str, Timed]:
    """The least that an enqueue loop can do, from ordinary or pinned memory to the GPU and back, or on the GPU alone."""
    bindings, engine = bindings_of(plan, load=True)
    owner = context_of(bindings, engine)
    held.callback(owner.close)
    context = owner.raw
    given, taken = plan.manifest.input, plan.manifest.output
    size, answer = floats.nbytes, 4 * len(floats) * classes_of(plan)
    stream = held.enter_context(cuda.Stream())
    host_in, host_out = held.enter_context(cuda.PinnedBuffer(size)), held.enter_context(cuda.PinnedBuffer(answer))
    device_in, device_out = held.enter_context(cuda.DeviceBuffer(size)), held.enter_context(cuda.DeviceBuffer(answer))
    pinned, answers = host_in.array("float32", floats.shape), host_out.array("float32", (len(floats), classes_of(plan)))
    pinned[...] = floats
    context.set_input_shape(given.name, floats.shape)
    context.set_tensor_address(given.name, device_in.address)
    context.set_tensor_address(taken.name, device_out.address)

    def enqueue() -> None:
        if not context.execute_async_v3(stream.handle):
            raise RuntimeError("execute_async_v3 refused")

    def with_copies() -> None:
        cuda.copy_async(device_in.address, host_in.address, size, stream)
        enqueue()
        cuda.copy_async(host_out.address, device_out.address, answer, stream)

    def waited(work: Callable[[], None]) -> Timed:
        def run() -> None:
            work()
            stream.synchronize()

        return run

    def from_ordinary_memory(run: Timed) -> Timed:
        def work() -> Any:
            pinned[...] = floats
            run()
            return answers.copy()

        return work

    def graph_of(work: Callable[[], None]) -> Timed:
        graph = held.enter_context(cuda.Graph(stream, work))
        return waited(lambda: graph.launch(stream))

    waited(with_copies)()  # a graph is captured after a plain run
    by_graph = graph_of(with_copies)
    return {
        "bare loop, no copies": waited(enqueue),
        "bare loop, pinned copies": waited(with_copies),
        "bare loop, ordinary memory": from_ordinary_memory(waited(with_copies)),
        BARE_GRAPH: graph_of(enqueue),
        "bare graph, pinned copies": by_graph,
        "bare graph, ordinary memory": from_ordinary_memory(by_graph),
    }


def bindings_of(plan: Artifact, *, load: bool = False) -> tuple[adapter.TensorRt, Any]:
    """The TensorRT of a plan, and the loaded engine if that is wanted."""
    assert plan.manifest.plan is not None
    bindings = adapter.load(plan.manifest.plan.flavour)
    return bindings, bindings.engine(plan.path.read_bytes()) if load else None


def context_of(bindings: adapter.TensorRt, engine: Any) -> adapter.Context:
    context = bindings.context(engine)
    if context is None:
        raise RuntimeError("TensorRT made no execution context")
    return context


def latency_of_peers(
    found: Findings, model: Any, onnx: Artifact, batch: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """PyTorch eager and compiled, and onnxruntime on CUDA; host memory in, host memory out."""
    rows: list[dict[str, Any]] = []
    floats = np.random.default_rng(0).standard_normal((batch, *onnx.manifest.preprocess.input_shape), np.float32)
    makers: list[tuple[str, str, Callable[[], Timed]]] = [
        ("PyTorch eager", "fp32", lambda: torch_call(model, floats, "float32", compiled=False)),
        ("PyTorch eager", "fp16", lambda: torch_call(model, floats, "float16", compiled=False)),
        ("torch.compile (max-autotune)", "fp16", lambda: torch_call(model, floats, "float16", compiled=True)),
        ("onnxruntime CUDA", "fp32", lambda: onnxruntime_call(onnx.path, floats)),
        ("onnxruntime CUDA", "fp16", lambda: onnxruntime_call(fp16_of(onnx).path, floats)),
    ]
    for name, precision, make in makers:
        with found.noting(f"{name} {precision} at batch {batch}"):
            medians = interleaved(found, {name: make()}, options.seconds)
            rows += [{"contestant": name, "precision": precision, "batch": batch, "ms": round(ms, 4)} for ms in medians.values()]
    return rows


def fp16_of(onnx: Artifact) -> Artifact:
    path = onnx.path.with_name("peer.fp16.onnx")
    return Artifact.open(path) if path.is_file() else quantize(onnx, path, Precision.FP16)


def torch_call(model: Any, floats: Any, dtype: str, *, compiled: bool) -> Timed:
    import copy

    import torch

    network = copy.deepcopy(model).to("cuda", getattr(torch, dtype)).eval()
    if compiled:
        network = torch.compile(network, mode="max-autotune")
    pinned = torch.from_numpy(floats).to(getattr(torch, dtype)).pin_memory()

    def call() -> Any:
        with torch.inference_mode():
            return network(pinned.to("cuda", non_blocking=True)).float().cpu().numpy()

    return call


def onnxruntime_call(path: Path, floats: Any) -> Timed:
    from alexnet_deploy.backends.base import Options
    from alexnet_deploy.backends.ort import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend.load(Artifact.open(path), Options("cuda"))
    return lambda: backend.run(floats)


def interleaved(found: Findings, contestants: dict[str, Timed], seconds: float) -> dict[str, float]:
    """Median milliseconds of each, over rounds in which every contestant runs once, after a warm-up of all.

    One that fails in the warm-up is noted, and left out.
    """
    times: dict[str, list[float]] = {}
    for name, call in contestants.items():
        with found.noting(name):
            for _ in range(5):
                call()
            times[name] = []
    end = time.perf_counter() + seconds * len(times)
    while times and (time.perf_counter() < end or len(next(iter(times.values()))) < 10):
        for name, taken in times.items():
            started = time.perf_counter()
            contestants[name]()
            taken.append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(each) for name, each in times.items()}


def roofline(found: Findings, onnx: Artifact) -> list[dict[str, Any]]:
    """Batch 1 reads every weight once; the largest batch is limited by arithmetic."""
    from alexnet_deploy.onnx_graph import load_graph
    from alexnet_deploy.onnx_graph.statistics import statistics as statistics_of

    peak = next((PEAKS[name] for name in PEAKS if name in found.gpu), None)
    if peak is None:
        return []
    bytes_a_second, operations_a_second = peak
    rows: list[dict[str, Any]] = []
    with found.noting("roofline"):
        graph = statistics_of(load_graph(onnx.path))
        for row in found.latency:
            precision = row["precision"]
            if row["contestant"] != BARE_GRAPH or precision not in operations_a_second:
                continue
            weight_bytes = graph.parameters * {"fp32": 4, "fp16": 2, "bf16": 2}.get(precision, 1)
            by_memory = 1000 * weight_bytes / bytes_a_second
            by_arithmetic = 1000 * 2 * graph.multiply_adds * row["batch"] / operations_a_second[precision]
            bound = max(by_memory, by_arithmetic)
            rows.append({**row, "bound_ms": round(bound, 4), "share": round(bound / row["ms"], 3)})
    return rows


def memory_over_cycles(plan: Artifact, cycles: int) -> dict[str, Any]:
    """Free GPU memory before and after opening, running and closing many times."""
    shape = plan.manifest.preprocess.input_shape
    free: list[int] = []
    for _ in range(cycles + 1):
        with Runtime(plan.path, device="cuda") as runtime:
            runtime.logits(np.zeros((1, *shape), np.float32))
            runtime.logits(np.zeros((3 * runtime.batch.max, *shape), np.float32))
        free.append(cuda.free_memory_bytes())
    return {
        "cycles": cycles,
        "free_after_first_bytes": free[0],
        "free_after_last_bytes": free[-1],
        "grown_bytes": free[0] - free[-1],
    }


def write(found: Findings, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = "gpu-" + "".join(c if c.isalnum() else "-" for c in (found.gpu.split(" (")[0] or "none").lower())
    (folder / f"{stem}.json").write_text(json.dumps(asdict(found), indent=2, default=str) + "\n")
    (folder / f"{stem}.md").write_text(markdown(found))


def markdown(found: Findings) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in found.machine.packages.items())
    lines = [
        f"# Engines on {found.gpu or 'no GPU'}",
        "",
        f"{found.machine.measured}; driver for CUDA {found.driver_cuda}; {found.machine.cpu}, {found.machine.cores} cores.",
        f"{packages}.",
        "Reproduce: `python benchmarks/gpu.py`. Random weights; medians of interleaved rounds; host memory unless said.",
        "",
        "## What TensorRT says of a plan, step by step",
        "",
        *_table(found.probes, ["plan", "header", "engine", "context", "capturable", "log"]),
        "## Does a plan load, and does it agree with PyTorch FP32",
        "",
        *_table(found.loads, ["plan", "load_seconds", "size_bytes", "top1_agreement", "max_error"]),
        "## Latency, milliseconds",
        "",
        *_table(found.latency, ["contestant", "precision", "batch", "ms"]),
        "## What Runtime adds to a bare loop of the same work",
        "",
        *_table(found.added, ["contestant", "beside", "precision", "batch", "added_us", "added_percent"]),
        "## Share of the roofline",
        "",
        *_table(found.roofline, ["precision", "batch", "ms", "bound_ms", "share"]),
        "## Memory over open and close",
        "",
        *_table([found.memory] if found.memory else [], list(found.memory)),
        "## What failed, in its own words",
        "",
        *([f"- **{what}**: {text}" for what, text in found.failures.items()] or ["Nothing."]),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]], columns: list[str]) -> list[str]:
    if not rows:
        return ["None.", ""]
    body = ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *body, ""]


if __name__ == "__main__":
    main()
