"""Our INT8 beside that of onnxruntime's quantiser, NNCF and modelopt: same model, same pictures.

    python benchmarks/quantization/compare.py --data photos10                     # trains an AlexNet first
    python benchmarks/quantization/compare.py --data cifar10 --network mobilenet  # or another kind of network
    python benchmarks/quantization/compare.py --data cifar10 --model alexnet.onnx --python nncf=/path/to/its/python
    python benchmarks/quantization/compare.py --data cifar10 --model alexnet.onnx --only ours-auto,onnxruntime

--data is a folder with train/ and val/ (or test/), one subfolder a class in each. NNCF and modelopt pin other versions of what we
use: give each a virtual environment with `pip install nncf onnx onnxruntime pillow msgspec` (or nvidia-modelopt[onnx]) and name
its python.

The TensorRT form is evaluated as its Q/DQ graph is written, with float between them; the CPU form in onnxruntime's integer
kernels on this machine. Written to benchmarks/results/: a table (.md), everything (.json) and a plot (.svg).

Seconds are those of the clock. Where other work disturbs them: --keep FOLDER --quantise writes the graphs while the machine is
quiet, and the same command without --quantise judges what lies in FOLDER at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

import alexnet_deploy
from alexnet_deploy.answers import truth
from alexnet_deploy.artifact import Artifact, manifest_path
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.onnx_graph.classifier import logits_of
from alexnet_deploy.onnx_graph.session import Array, GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.feeding import feeds
from alexnet_deploy.quantization.sensitivity import Logits, agreement, sqnr_db
from alexnet_deploy.report import plots, words
from alexnet_deploy.report.plots import Mark
from alexnet_deploy.statistics import paired_difference, wilson
from alexnet_deploy.types import BatchRange

_METHODS = ("auto", "minmax", "percentile", "entropy", "mse")
RUNS = (
    ("ours", "fp16", "tensorrt"),
    *(("ours", method, "tensorrt") for method in _METHODS),
    ("onnxruntime", "minmax", "tensorrt"),
    ("onnxruntime", "entropy", "tensorrt"),
    ("onnxruntime", "percentile", "tensorrt"),
    ("modelopt", "max", "tensorrt"),
    ("modelopt", "entropy", "tensorrt"),
    *(("ours", method, "cpu") for method in _METHODS),
    ("onnxruntime", "minmax", "cpu"),
    ("onnxruntime", "entropy", "cpu"),
    ("onnxruntime", "percentile", "cpu"),
    ("nncf", "default", "cpu"),
)
_LONGEST_S = 600


class Quantised(NamedTuple):
    """A quantised graph, and its cost as `quantisers.py` tells it, or the `problem` that there was."""

    path: Path
    cost: dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantiser's result; fractions and decibels over the evaluation pictures."""

    tool: str
    method: str
    form: str
    version: str = ""
    problem: str = ""
    top1: float = float("nan")
    drop_points: float = float("nan")
    drop_low: float = float("nan")
    drop_high: float = float("nan")
    agreement: float = float("nan")
    agreement_low: float = float("nan")
    agreement_high: float = float("nan")
    sqnr_db: float = float("nan")
    peak_mb: float = float("nan")
    seconds: float = float("nan")


def train_model(network: str, data: Path, folder: Path) -> Path:
    if network != "alexnet":
        output = folder / f"{network}.onnx"
        command = [
            sys.executable,
            str(Path(__file__).with_name("networks.py")),
            network,
            "--data",
            str(data),
            "--out",
            str(output),
        ]
        subprocess.run(command, check=True)
        return output
    from alexnet_deploy.export import export
    from training import checkpoint
    from training.settings import TrainSettings
    from training.train import train

    made = train(TrainSettings(data=str(data), width=0.5, input_size=112, epochs=15), folder / "alexnet.safetensors")
    model, source = checkpoint.load(made.checkpoint)
    return export(model, source, folder / "alexnet.onnx", batch=BatchRange()).artifact.path


def quantise(python: str, run: tuple[str, str, str], model: Path, data: Path, count: int, folder: Path) -> Quantised:
    """What a tool makes of the graph and what that costs; what `folder` holds from before is taken."""
    out = folder / f"{'-'.join(run)}.onnx"
    told = out.with_suffix(".cost.json")
    if told.exists():
        return Quantised(out, json.loads(told.read_text()))
    print("running", *run, file=sys.stderr, flush=True)
    script = Path(__file__).with_name("quantisers.py")
    home = str(Path(alexnet_deploy.__file__).parents[1])
    with tempfile.TemporaryDirectory() as name:  # a copy for each: modelopt rewrites the graph that it is given
        for file in (model, manifest_path(model)):
            shutil.copy(file, name)
        command = [python, str(script), *run, str(Path(name) / model.name), str(data), str(count), str(out)]
        try:
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_LONGEST_S, env={**os.environ, "PYTHONPATH": home}
            )
            cost = json.loads(done.stdout[done.stdout.rindex("{") :])
        except subprocess.CalledProcessError as error:
            last = next((line for line in reversed(error.stderr.splitlines()) if line.strip()), "failed")
            cost = {"problem": f"did not run: {last[:120]}"}
        except subprocess.TimeoutExpired:
            cost = {"problem": f"did not end in {_LONGEST_S} s"}
    told.write_text(json.dumps(cost))
    return Quantised(out, cost)


def answers(graph: Path, batches: list[Array], *, integer_kernels: bool) -> Logits:
    import onnx

    model = onnx.load(str(graph))
    runner = GraphRunner(model, [logits_of(model)], integer_kernels=integer_kernels)
    return np.concatenate([runner.run(batch)[0] for batch in batches]).reshape(sum(map(len, batches)), -1).astype(np.float32)


def judged(run: tuple[str, str, str], cost: dict[str, float | str], reference: Logits, own: Logits, labels: np.ndarray) -> Row:
    right, now = (logits.argmax(axis=1) == labels for logits in (reference, own))
    pairs = paired_difference(
        int((right & now).sum()), int((right & ~now).sum()), int((~right & now).sum()), int((~right & ~now).sum())
    )
    same = wilson(int((reference.argmax(axis=1) == own.argmax(axis=1)).sum()), len(labels))
    return Row(
        tool=run[0],
        method=run[1],
        form=run[2],
        version=str(cost["version"]),
        top1=float(now.mean()),
        drop_points=100 * pairs.drop,
        drop_low=100 * pairs.interval.low,
        drop_high=100 * pairs.interval.high,
        agreement=agreement(reference, own),
        agreement_low=same.low,
        agreement_high=same.high,
        sqnr_db=sqnr_db(reference, own),
        peak_mb=float(cost["peak_mb"]),
        seconds=float(cost["seconds"]),
    )


def table(title: str, rows: list[Row], top1: float, pictures: int, calibration: int, machine: Machine) -> str:
    lines = [
        f"# Quantisers on {title}, {date.today()}",
        "",
        f"FP32 top-1 {words.percent(top1)} on {pictures:,} pictures; calibrated on {calibration} others; 95 % intervals.",
        "The TensorRT form as its graph is written; the CPU form in onnxruntime's integer kernels. INT8 but for fp16.",
        "",
        "| form | quantiser | method | top-1 | drop, points | agreement with FP32 | SQNR dB | peak MB | seconds |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        name = f"| {r.form} | {r.tool} {r.version} | {r.method} |"
        if r.problem:
            lines.append(f"{name} {r.problem} | | | | | |")
            continue
        lines.append(
            f"{name} {words.percent(r.top1)} | {r.drop_points:+.2f} [{r.drop_low:+.2f}, {r.drop_high:+.2f}]"
            f" | {words.percent(r.agreement)} [{100 * r.agreement_low:.1f}, {100 * r.agreement_high:.1f}]"
            f" | {r.sqnr_db:.1f} | {r.peak_mb:.0f} | {r.seconds:.0f} |"
        )
    return "\n".join([*lines, "", words.machine(machine), ""])


def plot(rows: list[Row]) -> str:
    """Agreement with FP32 and its interval, a line each."""
    marks = [
        Mark(
            f"{row.form}: {row.tool} {row.method}",
            words.percent(row.agreement),
            100 * row.agreement,
            100 * row.agreement_low,
            100 * row.agreement_high,
            colour=1 if row.tool == "ours" else 0,
        )
        for row in rows
        if not row.problem
    ]
    name = "Agreement with FP32 (top-1), 95 % interval"
    return plots.as_file(plots.intervals(name, marks, tick="{:g} %".format))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/ or test/")
    parser.add_argument(
        "--network", default="alexnet", help="what to train, alexnet or one of networks.py; the results are named so"
    )
    parser.add_argument("--model", type=Path, help="an exported or adopted FP32 graph; one is trained otherwise")
    parser.add_argument("--count", type=int, default=384, help="calibration pictures")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH", help="the environment of a tool")
    parser.add_argument("--title", default="", help="what the table calls the network")
    parser.add_argument("--only", default="", help="tools to run, or tool-method, with commas between")
    parser.add_argument("--keep", type=Path, help="where quantised graphs are kept; those that lie there are not made again")
    parser.add_argument("--quantise", action="store_true", help="with --keep: stop before the graphs are judged")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    pythons = dict(entry.split("=", 1) for entry in given.python)
    only = given.only.split(",") if given.only else [run[0] for run in RUNS]
    train = given.data / "train"
    pictures = PictureSet.open(next((d for d in (given.data / "val", given.data / "test") if d.is_dir()), given.data / "val"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        model = Artifact.open(given.model or train_model(given.network, train, folder))
        runs = [run for run in RUNS if run[0] in only or f"{run[0]}-{run[1]}" in only]
        made = {run: quantise(pythons.get(run[0], sys.executable), run, model.path, train, given.count, folder) for run in runs}
        if given.quantise:
            return
        labels = truth(pictures, model.manifest)
        batches = [feed[:count] for feed, count in feeds(pictures, model.manifest, 64)]
        reference = answers(model.path, batches, integer_kernels=False)
        for run, (graph, cost) in made.items():
            print("judging", *run, file=sys.stderr, flush=True)
            if "problem" in cost:
                rows.append(Row(tool=run[0], method=run[1], form=run[2], problem=str(cost["problem"])))
            else:
                own = answers(graph, batches, integer_kernels=run[2] == "cpu")
                rows.append(judged(run, cost, reference, own, labels))
    machine = Machine.here()
    top1 = float((reference.argmax(axis=1) == labels).mean())
    text = table(given.title or f"one {given.network}", rows, top1, len(pictures), given.count, machine)
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"quantization-{given.network}"
    facts = {"fp32_top1": top1, "pictures": len(pictures), "calibration": given.count, "machine": to_builtins(machine)}
    stem.with_suffix(".json").write_text(json.dumps({**facts, "rows": [asdict(r) for r in rows]}, indent=2) + "\n")
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".svg").write_text(plot(rows))
    print(text)


if __name__ == "__main__":
    main()
