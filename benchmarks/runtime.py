"""Runtime against its peers on the CPU: full-size AlexNet, 224 px, random weights (speed does not depend on them).

    python benchmarks/runtime.py --make-only         its models, into .cache/benchmarks, once; some three minutes
    python benchmarks/runtime.py                     everything, about 12 minutes
    python benchmarks/runtime.py overhead pictures   some parts only; the others keep their last figures

Contenders take turns, and ratios are those within a round (see rounds.py). The peer "OpenVINO + NNCF" is there once
benchmarks/nncf_peer.py has made its model. Writes benchmarks/results/runtime-cpu.json, .md and the plots.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rounds import Call, Rounds, in_rounds

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import FallbackWarning
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import Preprocess, to_builtins
from alexnet_deploy.report import plots
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange, GraphForm, Precision

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for tests.tiny
RESULTS = ROOT / "benchmarks" / "results"
RECIPE = Preprocess(height=224, width=224, resize=256)
MEAN, STD = np.array(RECIPE.mean, np.float32), np.array(RECIPE.std, np.float32)
BATCHES = (1, 8, 32)
OURS, TUNED = "Runtime, INT8", "Runtime, tuned for batch 1, 4 bits"
WIDE = "Runtime, INT8, first convolution by fours"
THIN = "Runtime, INT8, thin layers (rank 1,024 and 512)"
RANKS = {"classifier.1": 1024, "classifier.4": 512}  # of 4,096; Fast R-CNN took 1,024 and 256 for layers larger than these
ORT_DEFAULT, NNCF = "onnxruntime, its default quantisation", "OpenVINO + NNCF"
EAGER, COMPILED = "PyTorch eager, FP32", "torch.compile, FP32"
PEERS = (ORT_DEFAULT, NNCF, EAGER, COMPILED)
Models = dict[str, Path]
Parts = dict[str, Rounds]


def make_models(folder: Path) -> Models:
    """The checkpoint, its graphs in all forms, and what onnxruntime's own quantiser makes of it with its defaults."""
    paths = {
        "torch": folder / "alexnet.safetensors",
        "fp32": folder / "alexnet.onnx",
        "uint8": folder / "alexnet.uint8.int8.cpu.onnx",
        "int8": folder / "alexnet.int8.cpu.onnx",
        "int4": folder / "alexnet.int4.cpu.onnx",
        "int4x128": folder / "alexnet.int4x128.cpu.onnx",
        "int8wide": folder / "alexnet.int8wide.cpu.onnx",
        "thin": folder / "alexnet.thin.int8.cpu.onnx",
        "uint8-int4": folder / "alexnet.uint8.int4x128.cpu.onnx",
        "ort-default": folder / "ort-default.onnx",
    }
    if all(path.is_file() for path in paths.values()):
        return {**paths, "nncf": folder / "nncf.xml"}
    import torch
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from alexnet_deploy.export import export
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.quantization.calibration import calibrate
    from alexnet_deploy.quantization.four_bit import to_four_bit
    from alexnet_deploy.quantization.quantize import quantize
    from alexnet_deploy.quantization.width_to_channels import to_wide_channels
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
    int8 = Artifact.open(paths["int8"])
    to_four_bit(int8, paths["int4"])
    to_four_bit(int8, paths["int4x128"], block=128)
    to_wide_channels(int8, paths["int8wide"])
    make_thin(Artifact.open(paths["fp32"]), paths["thin"], pictures)
    to_four_bit(Artifact.open(paths["uint8"]), paths["uint8-int4"], block=128)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            batches = [batch for batch, _ in pictures.batches(RECIPE, 8)]
            self.feeds = iter([{"input": batch} for batch in batches])

        def get_next(self) -> dict[str, object] | None:
            return next(self.feeds, None)

    quantize_static(str(paths["fp32"]), str(paths["ort-default"]), Reader())
    return {**paths, "nncf": folder / "nncf.xml"}


def make_thin(whole: Artifact, path: Path, pictures: Any) -> None:
    """What `tune` makes of a trained network, with ranks that are given: directions of random weights say nothing."""
    from alexnet_deploy.quantization.calibration import calibrate
    from alexnet_deploy.quantization.low_rank import Directions, to_low_rank
    from alexnet_deploy.quantization.quantize import quantize
    from alexnet_deploy.quantization.width_to_channels import to_wide_channels

    directions = {}
    for layer, rank in RANKS.items():
        axes = np.linalg.qr(np.random.default_rng(0).standard_normal((4096, rank)))[0].astype(np.float32)
        lost = np.append(np.ones(rank - 1, np.float32), np.float32(0))
        directions[layer] = Directions(np.zeros(4096, np.float32), axes, lost)
    with tempfile.TemporaryDirectory() as folder:
        thin = to_low_rank(whole, Path(folder) / "thin.onnx", directions, most_lost=0.5)
        ranges = calibrate(thin, pictures, method="minmax", count=32)
        int8 = quantize(thin, path, Precision.INT8, form=GraphForm.CPU, calibration=ranges)
    to_wide_channels(int8, path)


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


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


@contextmanager
def tuned_runtime(models: Models) -> Iterator[Runtime]:
    """What `alexnet-deploy tune alexnet.int8.cpu.onnx` chooses here for batch 1; the forms that it writes are there already."""
    from alexnet_deploy.tune import tune

    chosen = models["int8"].parent / "tuned-1.onnx"
    if not chosen.is_file():
        forms = [Artifact.open(models[name]) for name in ("int8", "int8wide", "int4", "int4x128")]
        report = tune(forms, four_bit=False, output=chosen)
        assert report.chosen is not None
        print(f"tuned: {report.chosen.file} on {report.chosen.backend}, {report.chosen.threads} threads", flush=True)
    with Runtime(chosen) as runtime:
        yield runtime


def overhead(models: Models, seconds: float) -> Parts:
    """Runtime.logits against the very session that is in it: batch 1, one thread, so that nothing but the call differs.

    The full-size INT8 network has more weights than the processor's cache has room (61 MB), so that each call finds the code and
    the batch of the one before thrown out; that with thin layers (24 MB) has not.
    """
    from tests.tiny import float_batch, tiny_artifact

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_artifact(Path(folder) / "tiny.onnx").path
        for label, path, batch in (
            ("tiny", tiny, float_batch(1)),
            ("full-size INT8", models["int8"], floats(1)),
            ("full-size INT8, thin layers,", models["thin"], floats(1)),
        ):
            with Runtime(path, "cpu", "onnxruntime", threads=1) as runtime:
                bare = runtime._engine._session  # another session of the same file differs by 2 to 3 % already
                calls: dict[str, Call] = {
                    "bare session": lambda bare=bare, batch=batch: bare.run(None, {"input": batch}),
                    "Runtime.logits": lambda runtime=runtime, batch=batch: runtime.logits(batch),
                }
                found[f"{label} network"] = in_rounds(calls, seconds, warm=2, timed=5, rest=0)
    return found


def peers(models: Models, seconds: float) -> Parts:
    """A batch of prepared pictures in, logits out, on all cores: each peer as its own documentation calls it.

    All of them first, then those that are close to each other in more rounds.
    """
    import torch

    from training.checkpoint import load

    model, _ = load(models["torch"])
    torch._dynamo.config.automatic_dynamic_shapes = False  # code for each batch size apart: the best that it can do
    compiled = torch.compile(model)
    calls: dict[str, Callable[[np.ndarray], object]] = {
        ORT_DEFAULT: session(models["ort-default"]),
        EAGER: lambda batch: model(torch.from_numpy(batch)),
        COMPILED: lambda batch: compiled(torch.from_numpy(batch)),
    }
    if models["nncf"].is_file():
        calls[NNCF] = bare_openvino(models["nncf"])
    found = {}
    with (
        ExitStack() as opened,
        torch.inference_mode(),
        Runtime(models["int8"], "cpu", "onnxruntime") as int8,
        Runtime(models["int8wide"], "cpu", "onnxruntime") as wide,
        Runtime(models["thin"], "cpu", "onnxruntime") as thin,
    ):
        ours = {
            OURS: int8.logits,
            WIDE: wide.logits,
            THIN: thin.logits,
            TUNED: opened.enter_context(tuned_runtime(models)).logits,
        }
        for count in BATCHES:
            each = {name: partial(call, floats(count)) for name, call in {**ours, **calls}.items()}
            close = {name: each[name] for name in (*ours, ORT_DEFAULT)}
            found[f"batch {count}"] = in_rounds(each, seconds / 3, timed=3 if count < 32 else 1)
            found[f"batch {count}, the closest"] = in_rounds(close, seconds, timed=3 if count < 32 else 1)
    return found


def bare_openvino(path: Path) -> Callable[[np.ndarray], object]:
    import openvino

    request = openvino.Core().compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    return lambda batch: request.infer({0: batch}, share_inputs=True, share_outputs=True)


def uint8(models: Models, seconds: float) -> Parts:
    """uint8 pictures in, probabilities out, against what people write with numpy before a bare session."""
    bare = session(models["ort-default"])
    mean64, std64 = np.array(RECIPE.mean), np.array(RECIPE.std)

    def softmax(logits: np.ndarray) -> np.ndarray:
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def in_float32(p: np.ndarray) -> np.ndarray:
        return softmax(bare(np.ascontiguousarray(((p.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2))))

    def in_float64(p: np.ndarray) -> np.ndarray:
        return softmax(bare(((p / 255.0 - mean64) / std64).transpose(0, 3, 1, 2).astype(np.float32)))

    found = {}
    with (
        Runtime(models["int8"], "cpu", "onnxruntime") as plain,
        Runtime(models["uint8"], "cpu", "onnxruntime") as baked,
        Runtime(models["uint8-int4"], "cpu", "onnxruntime") as small,
    ):
        for count in (1, 8):
            p = pixels(count)
            calls: dict[str, Call] = {
                "numpy (float32) + session": lambda p=p: in_float32(p),
                "numpy (float64 mean and std) + session": lambda p=p: in_float64(p),
                "Runtime.predict, INT8": lambda p=p: plain.predict(p),
                "Runtime.predict, uint8 in the graph, INT8": lambda p=p: baked.predict(p),
                "Runtime.predict, uint8 in the graph, 4-bit FC": lambda p=p: small.predict(p),
            }
            found[f"batch {count}"] = in_rounds(calls, seconds)
    return found


def cold(models: Models, seconds: float) -> Parts:
    """Whole processes: import, load, first answer; and `import alexnet_deploy` against bare Python."""
    first = "import numpy as np; x = np.zeros((1, 3, 224, 224), np.float32); "
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for label in ("int8", "fp32"):
            path = str(models[label])
            codes = {
                "bare onnxruntime": f"{first}import onnxruntime as o; "
                f"o.InferenceSession({path!r}, providers=['CPUExecutionProvider']).run(None, {{'input': x}})",
                "Runtime": f"{first}from alexnet_deploy import Runtime; Runtime({path!r}, 'cpu', 'onnxruntime').logits(x)",
            }
            found[f"first answer, {label}"] = _processes(codes, folder, seconds)
        found["import"] = _processes(
            {"bare Python": "pass", "import alexnet_deploy": "import alexnet_deploy"}, folder, seconds / 2
        )
    return found


def _processes(codes: dict[str, str], compiled: str, seconds: float) -> Rounds:
    # Python's compiled modules are kept, as wherever a package was installed.
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}

    def run(code: str) -> Call:
        words = [sys.executable, "-c", f"{code}\nimport os; os._exit(0)"]
        return lambda: subprocess.run(words, check=True, env=environment, cwd=ROOT)

    return in_rounds({name: run(code) for name, code in codes.items()}, seconds, warm=0, timed=1, rest=0)


def pictures(models: Models, seconds: float) -> Parts:
    """64 JPEG files in, classes out, against decoding alone and inference alone.

    Twice: with all cores for everything, where the halves share what each has to itself when it is alone, so that their sum
    is the bound; and with one thread for each half, where the slower half is.
    """
    from PIL import Image

    count = 64
    random = np.random.default_rng(0)
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Runtime(models["int8"], "cpu", "onnxruntime") as all_cores,
        Runtime(models["int8"], "cpu", "onnxruntime", threads=1) as one_core,
    ):
        for height, width in ((375, 500), (1200, 1600)):
            small = random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
            files = [Path(folder) / f"{height}-{index}.jpg" for index in range(count)]
            for file in files:
                noise = np.roll(small, random.integers(1, 40), axis=1)
                Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
            for title, runtime, workers in (("all cores", all_cores, None), ("a core for each half", one_core, 1)):
                calls: dict[str, Call] = {
                    "decoding alone": partial(_decoded, files, workers),
                    "inference alone": partial(_inferred, runtime, _decoded(files, None)),
                    "one after the other": partial(_in_sequence, runtime, files, workers),
                    "classify": partial(_classified, runtime, files, workers),
                }
                found[f"{width}x{height}, {title}"] = in_rounds(calls, seconds / 2, warm=0, timed=1)
    return found


def _decoded(files: list[Path], workers: int | None) -> np.ndarray:
    from alexnet_deploy.decoding import fitted

    return np.stack([p for p in fitted(files, RECIPE, workers=workers) if isinstance(p, np.ndarray)])


def _inferred(runtime: Runtime, ready: np.ndarray) -> None:
    for start in range(0, len(ready), runtime.batch.opt):
        runtime.predict(ready[start : start + runtime.batch.opt])


def _in_sequence(runtime: Runtime, files: list[Path], workers: int | None) -> None:
    """The same work without overlap: all pictures first, then all batches."""
    _inferred(runtime, _decoded(files, workers))


def _classified(runtime: Runtime, files: list[Path], workers: int | None) -> None:
    for outcome in runtime.classify_each(files, workers=workers):
        outcome.unwrap()


PARTS = {"overhead": overhead, "peers": peers, "uint8": uint8, "cold": cold, "pictures": pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--models", type=Path, default=ROOT / ".cache" / "benchmarks")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each table")
    parser.add_argument("--make-only", action="store_true", help="make the models and stop")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", FallbackWarning)
    models = make_models(asked.models)
    if asked.make_only:
        return
    path = RESULTS / "runtime-cpu.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    for name in asked.parts or PARTS:
        found = PARTS[name](models, asked.seconds)
        kept[name] = {"machine": to_builtins(Machine.here()), "tables": {k: _table(name, r) for k, r in found.items()}}
        for title, rounds in found.items():
            print(name, title, {label: round(rounds.median(label), 3) for label in rounds.samples}, flush=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=1) + "\n")
    write_report(kept)


def _table(part: str, rounds: Rounds) -> dict[str, Any]:
    """What the report needs, and anybody who wants to look closer: percentiles, ratios, up to 200 latencies of each."""
    base = _base(part, rounds)
    rows = {}
    for label, samples in rounds.samples.items():
        low, middle, high = np.quantile(samples, (0.1, 0.5, 0.9))
        ratio, worst, best = rounds.ratio(base, label)
        rows[label] = {
            "median_ms": middle,
            "p10_ms": low,
            "p90_ms": high,
            "times_as_fast": ratio,
            "interval": [worst, best],
            "added_us": rounds.difference_us(label, base),
            "latencies_ms": np.round(samples.reshape(-1)[:200], 4).tolist(),
        }
    first = next(iter(rounds.samples.values()))
    return {"base": base, "rounds": len(first), "left_out": rounds.left_out, "foreign_cpus": rounds.foreign, "rows": rows}


def _base(part: str, rounds: Rounds) -> str:
    """What all are compared with: the fastest peer; the first row elsewhere, and for pictures the slower half."""
    if part == "peers":
        return min((label for label in PEERS if label in rounds.samples), key=rounds.median)
    if part == "pictures":
        return max(("decoding alone", "inference alone"), key=rounds.median)
    return next(iter(rounds.samples))


def write_report(kept: dict[str, Any]) -> None:
    """The figures as Markdown, with their plots."""
    text = [
        "# Runtime on the CPU",
        "",
        "Full-size AlexNet, 224 px, random weights. Contenders take turns in one process; *times as fast* is the median of the",
        "ratios within a round, with its 95 % interval, and above 1 is faster than the row in bold. Rounds in which other",
        "processes kept more than 0.15 CPUs busy are left out. `python benchmarks/runtime.py` makes all of it again.",
        "",
    ]
    for name in (name for name in PARTS if name in kept):
        part = kept[name]
        text += [f"## {name}", "", inspect.cleandoc(PARTS[name].__doc__ or ""), "", _machine(part["machine"]), ""]
        for title, table in part["tables"].items():
            left_out = f", {table['left_out']} more left out" if table["left_out"] else ""
            text += [f"**{title}** ({table['rounds']} rounds{left_out}; others kept {table['foreign_cpus']:.2f} CPUs busy)", ""]
            text += [*_rows(name, table), ""]
        text += [line for drawn in _plots(name, part["tables"]) for line in (drawn, "")]
    (RESULTS / "runtime-cpu.md").write_text("\n".join(text).rstrip() + "\n")


def _rows(part: str, table: dict[str, Any]) -> list[str]:
    last = "added, us" if part == "overhead" else "times as fast"
    rows = [f"| | median, ms | p10 | p90 | {last} |", "| --- | ---: | ---: | ---: | ---: |"]
    for label, row in table["rows"].items():
        low, high = row["interval"]
        end = f"{row['added_us']:+.0f}" if part == "overhead" else f"{row['times_as_fast']:.2f} ({low:.2f} to {high:.2f})"
        named = f"**{label}**" if label == table["base"] else label
        rows.append(f"| {named} | {row['median_ms']:.3f} | {row['p10_ms']:.3f} | {row['p90_ms']:.3f} | {end} |")
    return rows


def _plots(part: str, tables: dict[str, Any]) -> list[str]:
    """Markdown of the plots of a part, which it writes: medians side by side, and for the peers latency and throughput."""
    if part in ("overhead", "cold"):
        return []
    drawn = []
    for title, table in tables.items():
        marks = [plots.Mark(k, f"{row['median_ms']:.2f} ms", row["median_ms"]) for k, row in table["rows"].items()]
        drawn.append(
            _write(
                f"{part}-{title.replace(',', '').replace(' ', '-')}",
                f"{part}, {title}: median, ms",
                plots.bars(f"{part}, {title}", marks),
            )
        )
    if part == "peers":
        # Of those that are close to each other, the figures of more rounds.
        by_batch = {n: tables[f"batch {n}"]["rows"] | tables[f"batch {n}, the closest"]["rows"] for n in BATCHES}
        names = [name for name in (OURS, THIN, TUNED, *PEERS) if all(name in rows for rows in by_batch.values())]
        latency = [plots.Series(name, by_batch[1][name]["latencies_ms"], colour=i + 1) for i, name in enumerate(names)]
        drawn.append(_write("peers-latency", "Latency at batch 1, ms", plots.distributions("Latency at batch 1", latency)))
        speed = [
            plots.Series(name, [1000 * b / rows[name]["median_ms"] for b, rows in by_batch.items()], list(by_batch), colour=i + 1)
            for i, name in enumerate(names)
        ]
        drawing = plots.lines("Throughput, pictures a second", speed, x_label="batch size", tick="{:,.0f}".format)
        drawing = _with_key(str(drawing), speed)
        drawn.append(_write("peers-throughput", "Throughput over the batch size, pictures a second", drawing))
    return drawn


def _with_key(drawing: str, each: list[plots.Series]) -> str:
    """The lines of a plot named below it, inside of the same SVG."""
    before, height = re.split(r'(?<=viewBox="0 0 )(\d+ )(\d+)', drawing, maxsplit=1)[1:3]
    rows = []
    for row, (key, name) in enumerate(re.findall(r"<li><svg(.*?</svg>)(.*?)</li>", str(plots.legend(each)))):
        y = int(height) + 20 * row
        rows.append(f'<svg x="52" y="{y}" width="22" height="12"{key}<text x="82" y="{y + 10}">{name}</text>')
    taller = f'viewBox="0 0 {before}{int(height) + 20 * len(rows)}"'
    return drawing.replace(f'viewBox="0 0 {before}{height}"', taller).removesuffix("</svg>") + "".join(rows) + "</svg>"


def _write(name: str, title: str, drawing: object) -> str:
    """Writes one plot as an SVG that a file viewer draws as well; returns the Markdown that shows it."""
    style = (ROOT / "alexnet_deploy" / "report" / "style.css").read_text()
    svg = str(drawing)
    if "xmlns=" not in svg:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    start = svg.index(">", svg.index("<svg")) + 1
    (RESULTS / f"runtime-{name}.svg").write_text(f"{svg[:start]}<style>{style}</style>{svg[start:]}\n")
    return f"![{title}](runtime-{name}.svg)"


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
    vnni = "VNNI" if machine["vnni"] else "no VNNI"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {vnni}, Python {machine['python']}; {packages}; {machine['measured'][:10]}."
    )


if __name__ == "__main__":
    main()
