"""Runtime against its peers on the CPU: full-size AlexNet, 224 px, random weights (speed does not depend on them).

    python benchmarks/runtime.py                     everything, about 6 minutes; makes its models in .cache/benchmarks once
    python benchmarks/runtime.py overhead pictures   some parts only; the others keep their last figures

Everything in one part is timed in turns, so that load hits all alike, and medians are compared within the part only.
Writes benchmarks/results/runtime-cpu.json, .md and one .svg a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet_deploy.errors import FallbackWarning
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import Artifact, Preprocess, to_builtins
from alexnet_deploy.report import plots
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange, GraphForm, Precision

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for tests.tiny
RESULTS = ROOT / "benchmarks" / "results"
RECIPE = Preprocess(height=224, width=224, resize=256)
MEAN, STD = np.array(RECIPE.mean, np.float32), np.array(RECIPE.std, np.float32)
Call = Callable[[], object]
Figures = dict[str, list[float]]


def in_turns(calls: dict[str, Call], seconds: float, least: int = 12, clock: Callable[[], float] = time.perf_counter) -> Figures:
    """Milliseconds of every call: one untimed and a few timed calls of each in turn, in a new order every round."""
    found: Figures = {name: [] for name in calls}
    order = np.random.default_rng(0)
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(next(iter(found.values()))) < least:
        for name in order.permutation(list(calls)):
            calls[name]()
            turn = time.perf_counter() + 0.03
            while True:
                begun = clock()
                calls[name]()
                found[name].append(1000 * (clock() - begun))
                if time.perf_counter() > turn:
                    break
            time.sleep(0.003)
    return found


def make_models(folder: Path) -> dict[str, Path]:
    """The checkpoint, its graphs in all forms, and what onnxruntime's own quantiser makes of it with its defaults."""
    paths = {
        "torch": folder / "alexnet.safetensors",
        "fp32": folder / "alexnet.onnx",
        "uint8": folder / "alexnet.uint8.int8.cpu.onnx",
        "int8": folder / "alexnet.int8.cpu.onnx",
        "int4": folder / "alexnet.int4.cpu.onnx",
        "ort-default": folder / "ort-default.onnx",
    }
    if all(path.is_file() for path in paths.values()):
        return paths
    import torch
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from alexnet_deploy.export import export
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.quantization.calibration import calibrate
    from alexnet_deploy.quantization.four_bit import to_four_bit
    from alexnet_deploy.quantization.quantize import quantize
    from training.checkpoint import load, save
    from training.model import ModelConfig, build_model

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build_model(ModelConfig())
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.normal_(std=0.05)  # a trained network has biases; all zeros would be folded away
    save(model, paths["torch"], preprocess=RECIPE)
    model, checkpoint = load(paths["torch"])
    pictures = PictureSet.open("demo:test").subset(range(64))
    for form, input_dtype in (("int8", "float32"), ("uint8", "uint8")):
        path = paths["fp32"] if input_dtype == "float32" else folder / "alexnet.uint8.onnx"
        graph = export(model, checkpoint, path, batch=BatchRange(1, 8, 64), pictures=pictures, input_dtype=input_dtype).artifact
        ranges = calibrate(graph, pictures, method="minmax", count=32)
        quantize(graph, paths[form], Precision.INT8, form=GraphForm.CPU, calibration=ranges)
    to_four_bit(Artifact.open(paths["int8"]), paths["int4"])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            batches = [batch for batch, _ in pictures.batches(RECIPE, 8)]
            self.feeds = iter([{"input": batch} for batch in batches])

        def get_next(self) -> dict[str, object] | None:
            return next(self.feeds, None)

    quantize_static(str(paths["fp32"]), str(paths["ort-default"]), Reader())
    return paths


def session(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A bare onnxruntime session with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    return lambda batch: opened.run(None, {name: batch})[0]


def floats(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 224, 224), np.float32)


def overhead(models: dict[str, Path], seconds: float) -> dict[str, Figures]:
    """Runtime.logits against the bare session: the same file, batch 1, one thread each so that nothing but the call differs."""
    import onnxruntime

    from tests.tiny import float_batch, tiny_artifact

    found = {}
    picture = floats(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_artifact(Path(folder) / "tiny.onnx").path
        for label, path, batch in (("tiny", tiny, float_batch(1)), ("full", models["int8"], floats(1))):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            bare = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            with Runtime(path, "cpu", "onnxruntime", threads=1) as runtime:
                calls: dict[str, Call] = {
                    "bare session": lambda bare=bare, batch=batch: bare.run(None, {"input": batch}),
                    "Runtime.logits": lambda runtime=runtime, batch=batch: runtime.logits(batch),
                    "the finiteness check of a full picture": lambda picture=picture: np.isfinite(picture).all(),
                }
                found[label] = in_turns(calls, seconds)
    return found


def peers(models: dict[str, Path], seconds: float) -> dict[str, Figures]:
    """Everything that runs AlexNet on this CPU, at batch 1, 8 and 32."""
    import torch

    from training.checkpoint import load

    model, _ = load(models["torch"])
    by_default = session(models["ort-default"])
    found = {}
    with (
        Runtime(models["int8"], "cpu", "onnxruntime") as int8,
        Runtime(models["int4"], "cpu", "onnxruntime") as int4,
        Runtime(models["int4"], "cpu", "onnxruntime", threads=1) as int4_one,
        Runtime(models["int8"], "cpu", "openvino") as openvino,
        Runtime(models["int4"], "cpu", "openvino") as openvino4,
        Runtime(models["fp32"], "cpu", "onnxruntime") as fp32,
        torch.inference_mode(),
    ):
        for count in (1, 8, 32):
            batch = floats(count)
            tensor = torch.from_numpy(batch)
            calls: dict[str, Call] = {
                "Runtime, INT8": lambda batch=batch: int8.logits(batch),
                "Runtime, INT8 with 4-bit FC": lambda batch=batch: int4.logits(batch),
                "Runtime, INT8 with 4-bit FC, 1 thread": lambda batch=batch: int4_one.logits(batch),
                "Runtime, INT8 on OpenVINO": lambda batch=batch: openvino.logits(batch),
                "Runtime, 4-bit FC on OpenVINO": lambda batch=batch: openvino4.logits(batch),
                "Runtime, FP32": lambda batch=batch: fp32.logits(batch),
                "onnxruntime, its default quantisation": lambda batch=batch: by_default(batch),
                "PyTorch eager, FP32": lambda tensor=tensor: model(tensor),
            }
            found[str(count)] = in_turns(calls, seconds * (1 if count < 32 else 2), least=6)
    return found


def one_thread(models: dict[str, Path], seconds: float) -> dict[str, Figures]:
    """CPU time (not time on the clock) of the same peers with one thread each: holds on a machine that others load as well."""
    import onnxruntime
    import torch

    from training.checkpoint import load

    torch.set_num_threads(1)
    model, _ = load(models["torch"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    by_default = onnxruntime.InferenceSession(models["ort-default"], options, providers=["CPUExecutionProvider"])
    found = {}
    with (
        Runtime(models["int8"], "cpu", "onnxruntime", threads=1) as int8,
        Runtime(models["int4"], "cpu", "onnxruntime", threads=1) as int4,
        Runtime(models["int8"], "cpu", "openvino", threads=1) as openvino,
        Runtime(models["int4"], "cpu", "openvino", threads=1) as openvino4,
        Runtime(models["fp32"], "cpu", "onnxruntime", threads=1) as fp32,
        torch.inference_mode(),
    ):
        for count in (1, 8):
            batch = floats(count)
            tensor = torch.from_numpy(batch)
            calls: dict[str, Call] = {
                "Runtime, INT8": lambda batch=batch: int8.logits(batch),
                "Runtime, INT8 with 4-bit FC": lambda batch=batch: int4.logits(batch),
                "Runtime, INT8 on OpenVINO": lambda batch=batch: openvino.logits(batch),
                "Runtime, 4-bit FC on OpenVINO": lambda batch=batch: openvino4.logits(batch),
                "Runtime, FP32": lambda batch=batch: fp32.logits(batch),
                "onnxruntime, its default quantisation": lambda batch=batch: by_default.run(None, {"input": batch}),
                "PyTorch eager, FP32": lambda tensor=tensor: model(tensor),
            }
            found[str(count)] = in_turns(calls, seconds, clock=time.process_time)
    return found


def pixels(models: dict[str, Path], seconds: float) -> dict[str, Figures]:
    """uint8 pictures in, probabilities out, against what people write with numpy before a bare session."""
    bare = session(models["int8"])
    mean64, std64 = np.array(RECIPE.mean), np.array(RECIPE.std)

    def softmax(logits: np.ndarray) -> np.ndarray:
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    found = {}
    with Runtime(models["int8"], "cpu", "onnxruntime") as runtime, Runtime(models["uint8"], "cpu", "onnxruntime") as baked:
        for count in (1, 8):
            pictures = np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)
            calls: dict[str, Call] = {
                "Runtime.predict, uint8": lambda p=pictures: runtime.predict(p),
                "Runtime.predict, uint8 in the graph": lambda p=pictures: baked.predict(p),
                "numpy (float64 mean and std) + session": lambda p=pictures: softmax(
                    bare(((p / 255.0 - mean64) / std64).transpose(0, 3, 1, 2).astype(np.float32))
                ),
                "numpy (float32 throughout) + session": lambda p=pictures: softmax(
                    bare(np.ascontiguousarray(((p.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)))
                ),
            }
            found[str(count)] = in_turns(calls, seconds)
    return found


def cold(models: dict[str, Path], seconds: float) -> dict[str, Figures]:
    """Whole processes: import, load, first answer; and `import alexnet_deploy` against bare Python."""
    first = "import numpy as np; x = np.zeros((1, 3, 224, 224), np.float32); "
    found = {}
    for label in ("int8", "fp32"):
        path = str(models[label])
        found[f"first answer, {label}"] = _processes(
            {
                "bare onnxruntime": f"{first}import onnxruntime as o; "
                f"o.InferenceSession({path!r}, providers=['CPUExecutionProvider']).run(None, {{'input': x}})",
                "Runtime": f"{first}from alexnet_deploy import Runtime; Runtime({path!r}, 'cpu', 'onnxruntime').logits(x)",
            },
            rounds=max(5, int(4 * seconds)),
        )
    found["import"] = _processes({"bare Python": "pass", "import alexnet_deploy": "import alexnet_deploy"}, rounds=25)
    return found


def _processes(codes: dict[str, str], rounds: int) -> Figures:
    found: Figures = {name: [] for name in codes}
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    for _ in range(rounds + 1):
        for name, code in codes.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"{code}\nimport os; os._exit(0)"], check=True, env=environment, cwd=ROOT)
            found[name].append(1000 * (time.perf_counter() - begun))
    return {name: values[1:] for name, values in found.items()}  # the first of each fills the disk cache


def pictures(models: dict[str, Path], seconds: float) -> dict[str, Figures]:
    """JPEG files in, classes out: pictures a second against decoding alone and inference alone."""
    from PIL import Image

    from alexnet_deploy.decoding import fitted

    count = 64
    random = np.random.default_rng(0)
    found = {}
    with tempfile.TemporaryDirectory() as folder, Runtime(models["int8"], "cpu", "onnxruntime") as runtime:
        for height, width in ((375, 500), (1200, 1600)):
            small = random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
            files = [Path(folder) / f"{height}-{index}.jpg" for index in range(count)]
            for file in files:
                noise = np.roll(small, random.integers(1, 40), axis=1)
                Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
            ready = np.stack([p for p in fitted(files, RECIPE) if isinstance(p, np.ndarray)])
            calls: dict[str, Call] = {
                "decoding alone": lambda files=files: list(fitted(files, RECIPE)),
                "inference alone": lambda ready=ready: [runtime.predict(ready[i : i + 8]) for i in range(0, count, 8)],
                "classify": lambda files=files: runtime.classify(files),
            }
            found[f"{width}x{height}"] = in_turns(calls, 2 * seconds, least=5)
    return found


PARTS = {"overhead": overhead, "peers": peers, "one_thread": one_thread, "pixels": pixels, "cold": cold, "pictures": pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--models", type=Path, default=ROOT / ".cache" / "benchmarks")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each thing that is timed")
    parser.add_argument("--make-only", action="store_true", help="make the models and stop")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", FallbackWarning)
    models = make_models(asked.models)
    if asked.make_only:
        return
    path = RESULTS / "runtime-cpu.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    for name in asked.parts or PARTS:
        load = os.getloadavg()[0]
        figures = PARTS[name](models, asked.seconds)
        kept[name] = {"machine": to_builtins(Machine.here()), "load_before": load, "figures": figures}
        for group, each in figures.items():
            print(name, group, {label: round(float(np.median(values)), 3) for label, values in each.items()}, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept))
    write_report(kept)


def write_report(kept: dict[str, dict[str, object]]) -> None:
    """The figures as Markdown, with a plot for each group of the peers and for the pictures."""
    text = [
        "# Runtime on the CPU",
        "",
        "Full-size AlexNet, 224 px, random weights. Each part was timed in turns in one process: compare within a part only.",
        "Where the load average before a part is above 1, others used the machine: only one_thread (CPU time) holds well then.",
        "Medians, with the 10th and the 90th percentile, in ms. `python benchmarks/runtime.py` makes all of it again.",
        "",
    ]
    for name, part in kept.items():
        function = PARTS[name]
        text += [f"## {name}", "", (function.__doc__ or "").strip(), ""]
        machine, figures = part["machine"], part["figures"]
        text += [f"{_machine(machine)}; load average before: {part['load_before']:.1f}.", ""]
        for group, each in figures.items():
            text += [f"**{GROUPS.get(name, '{}').format(group)}**", "", *_table(name, each), ""]
            if name in ("peers", "one_thread", "pictures"):
                plot = f"runtime-{name}-{group}.svg"
                marks = [
                    plots.Mark(label, f"{np.median(values):.2f} ms", float(np.median(values))) for label, values in each.items()
                ]
                (RESULTS / plot).write_text(_standalone(str(plots.bars(f"{name}, {group}: median ms", marks))))
                text += [f"![{name}, {group}]({plot})", ""]
    (RESULTS / "runtime-cpu.md").write_text("\n".join(text))


GROUPS = {
    "one_thread": "batch {}",
    "peers": "batch {}",
    "pixels": "batch {}",
    "pictures": "64 JPEGs of {}",
    "overhead": "{} network, batch 1",
    "cold": "{}",
}


def _table(name: str, each: Figures) -> list[str]:
    first = float(np.median(next(iter(each.values()))))
    rows = ["| | median | p10 | p90 | n | against the first |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for label, values in each.items():
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
        against = f"{1000 * (middle - first):+.0f} us" if name == "overhead" else f"{middle / first:.2f}x"
        rows.append(f"| {label} | {middle:.3f} | {low:.3f} | {high:.3f} | {len(values)} | {against} |")
    return rows


def _machine(machine: dict[str, object]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
    vnni = "VNNI" if machine["vnni"] else "no VNNI"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {vnni}, Python {machine['python']}; {packages}; {machine['measured'][:10]}"
    )


def _standalone(svg: str) -> str:
    """An SVG that a file viewer draws as well: with its namespace, and the page's colours inside."""
    style = (ROOT / "alexnet_deploy" / "report" / "style.css").read_text()
    if "xmlns=" not in svg:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    start = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:start]}<style>{style}</style>{svg[start:]}"


if __name__ == "__main__":
    main()
