"""The same model and the same pictures through other tools' INT8, and through ours.

    python benchmarks/peers/run.py MODEL.onnx [--environments DIR]

MODEL.onnx is an artifact of ours, such as models/demo/alexnet.onnx after `make demo`. Each tool gets an environment of its own
(made in DIR once, some minutes and gigabytes), the FP32 graph and the calibration pictures as prepared arrays, and its defaults.
What comes out is judged here, alike for all: the held-out pictures answered by onnxruntime's CPU kernels, and again with Q/DQ
computed as it is written, which is what TensorRT does; whether TensorRT for RTX builds an engine from it; time and memory.

Writes benchmarks/results/peers.json and peers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.neighbours import Neighbours
from alexnet_deploy.pictures import PictureSet

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
ENVIRONMENTS = {
    "olive": ("olive-ai==0.13.0", "requests", "onnxruntime==1.32.0", "torch==2.13.0"),
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "torch==2.13.0"),
    "polygraphy": ("polygraphy==0.53.6", "onnx==1.23.2", "onnxruntime==1.32.0", "tensorrt-rtx==1.7.1.116"),
}
ENGINE_ONLY = {"polygraphy"}  # makes an engine, which nothing here can run, and no graph
CALIBRATION_PICTURES = 512
CALLS = 200
Floats = npt.NDArray[np.float32]


@dataclass
class Outcome:
    """What a tool made of the model, and what that is worth.

    Attributes:
        exit_code, last_words: of the tool; the last line that it wrote to stderr when it failed.
        seconds, peak_mb: of the tool's process, its imports included.
        top1, agreement: per cent of held-out pictures, on onnxruntime's CPU kernels.
        exact_top1, exact_agreement: the same with Q/DQ computed as written, as TensorRT does.
        latency_ms: median call on the CPU, batch 1, two threads, all in turns.
        builds: whether TensorRT for RTX makes an engine of the graph.
        changed_its_input: whether the tool wrote into the file that it was given.
    """

    tool: str
    exit_code: int
    seconds: float
    peak_mb: float
    last_words: str = ""
    size_mb: float | None = None
    top1: float | None = None
    agreement: float | None = None
    exact_top1: float | None = None
    exact_agreement: float | None = None
    latency_ms: float | None = None
    builds: bool | None = None
    changed_its_input: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--environments", type=Path, default=HERE.parent.parent / ".cache/peers")
    asked = parser.parse_args()
    artifact = Artifact.open(asked.model)
    recipe, input_name = artifact.manifest.preprocess, artifact.manifest.input.name
    train, test = PictureSet.open("demo:train").sample(CALIBRATION_PICTURES), PictureSet.open("demo:test")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.savez(work / "calibration.npz", **{input_name: np.concatenate([batch for batch, _ in train.batches(recipe, 64)])})
        pictures = np.concatenate([batch for batch, _ in test.batches(recipe, 64)])
        made = {"FP32, as it is": artifact.path}
        outcomes = [Outcome("FP32, as it is", 0, 0.0, 0.0)]
        outcomes += ours(artifact.path, work, made)
        for name, packages in ENVIRONMENTS.items():
            python = environment(asked.environments / name, packages)
            output = work / f"{name}{'.plan' if name in ENGINE_ONLY else '.onnx'}"
            given = Path(shutil.copy(artifact.path, work / f"given-to-{name}.onnx"))
            outcome = measured(name, [python, HERE / f"{name}_int8.py", given, work / "calibration.npz", output], work)
            outcome.changed_its_input = given.read_bytes() != artifact.path.read_bytes()
            outcomes.append(outcome)
            if output.exists():
                outcome.size_mb = output.stat().st_size / 1e6
            if outcome.exit_code == 0 and name not in ENGINE_ONLY:
                made[name] = output
        others_cpus = judge(outcomes, made, pictures, test.labels)
    RESULTS.mkdir(exist_ok=True)
    found = {"machine": to_builtins(Machine.here()), "others_cpus": others_cpus, "outcomes": [asdict(o) for o in outcomes]}
    (RESULTS / "peers.json").write_text(json.dumps(found, indent=2) + "\n")
    (RESULTS / "peers.md").write_text(page(found, outcomes))


def ours(model: Path, work: Path, made: dict[str, Path]) -> list[Outcome]:
    """Both forms from one call, so that its time and memory stand beside the first only."""
    plan = work / "ours.int8.plan"
    program = Path(sys.executable).with_name("alexnet-deploy")
    outcome = measured("alexnet-deploy, for TensorRT", [program, "build-engine", model, "--int8", "-o", plan], work)
    made["alexnet-deploy, for TensorRT"] = work / "ours.int8.onnx"
    made["alexnet-deploy, for CPUs"] = work / "ours.int8.cpu.onnx"
    return [outcome, Outcome("alexnet-deploy, for CPUs", outcome.exit_code, 0.0, 0.0)]


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """The python of a virtual environment with these packages; one that is there is taken as it is."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def measured(tool: str, words: list[object], work: Path) -> Outcome:
    log = work / "log.txt"
    with log.open("w") as stderr:
        begun = time.perf_counter()
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
    code = os.waitstatus_to_exitcode(status)
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Outcome(tool, code, seconds, usage.ru_maxrss / 1024, last_words=lines[-1] if code and lines else "")


def judge(outcomes: list[Outcome], made: dict[str, Path], pictures: Floats, labels: npt.NDArray[np.int64]) -> float | None:
    """Fills in what is said of each graph; returns the CPUs that other processes kept busy while they were timed."""
    sessions = {name: session(path, exact=False) for name, path in made.items()}
    reference = answers(sessions["FP32, as it is"], pictures)
    by_tool = {outcome.tool: outcome for outcome in outcomes}
    for name, path in made.items():
        outcome = by_tool[name]
        kernels, exact = answers(sessions[name], pictures), answers(session(path, exact=True), pictures)
        outcome.size_mb = path.stat().st_size / 1e6
        outcome.top1, outcome.agreement = share(kernels == labels), share(kernels == reference)
        outcome.exact_top1, outcome.exact_agreement = share(exact == labels), share(exact == reference)
        outcome.builds = builds(path)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    one, others = pictures[:1], Neighbours()
    for _ in range(CALLS):
        for name, running in sessions.items():
            begun = time.perf_counter()
            running.run(None, {running.get_inputs()[0].name: one})
            times[name].append(1000 * (time.perf_counter() - begun))
    busy = others.cpus()
    for name, values in times.items():
        by_tool[name].latency_ms = float(np.median(values))
    return busy


def session(path: Path, *, exact: bool):  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(running, pictures: Floats) -> npt.NDArray[np.int64]:  # type: ignore[no-untyped-def]
    name = running.get_inputs()[0].name
    parts = [running.run(None, {name: pictures[start : start + 50]})[0] for start in range(0, len(pictures), 50)]
    return np.concatenate(parts).argmax(axis=1)


def share(hits: npt.NDArray[np.bool_]) -> float:
    return 100 * float(hits.mean())


def builds(path: Path) -> bool:
    """Whether TensorRT for RTX parses the graph and serialises an engine, batch 1 to 8."""
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
    if not parser.parse(path.read_bytes()):
        return False
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(network.get_input(0).name, (1, *shape), (8, *shape), (8, *shape))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None


def page(found: dict[str, object], outcomes: list[Outcome]) -> str:
    machine, others = found["machine"], found["others_cpus"]
    assert isinstance(machine, dict)
    rows = [f"| {' | '.join(cells(outcome))} |" for outcome in outcomes]
    remarks = [f"- **{o.tool}** ended with exit code {o.exit_code}: `{o.last_words}`" for o in outcomes if o.exit_code]
    remarks += [f"- **{o.tool}** {engine_remark(o, outcomes[0])}" for o in outcomes if o.tool in ENGINE_ONLY and not o.exit_code]
    remarks += [f"- **{o.tool}** wrote into the file that it was given." for o in outcomes if o.changed_its_input]
    return "\n".join(
        [
            "# INT8 by other tools, and by ours",
            "",
            "The demo's AlexNet, 512 pictures to calibrate on, 1,000 others to judge by; every tool with its defaults.",
            "`python benchmarks/peers/run.py models/demo/alexnet.onnx` makes it again.",
            "",
            "| Tool | top-1 % | agree % | top-1 %, exact | agree %, exact | ms | MB | builds | s | peak MB |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
            *rows,
            "",
            "*top-1* and *agree* are on onnxruntime's CPU kernels, *exact* with Q/DQ computed as written, as TensorRT does;",
            "*ms* is the median call on the CPU at batch 1; *builds* whether TensorRT for RTX makes an engine of it;",
            "*s* and *peak MB* are of the whole tool, imports included.",
            "Our graph for TensorRT is not for those kernels (docs/concepts.md).",
            "",
            *remarks,
            *([""] if remarks else []),
            f"{machine['cpu']}, {machine['cores']} cores, {'VNNI' if machine['vnni'] else 'no VNNI'},",
            f"Python {machine['python']}, {str(machine['measured'])[:10]};",
            *([] if others is None else [f"other processes kept {others:.2f} CPUs busy during the timing."]),
            "Versions: " + "; ".join(", ".join(packages) for packages in ENVIRONMENTS.values()) + ".",
            "",
        ]
    )


def engine_remark(engine: Outcome, fp32: Outcome) -> str:
    """An INT8 engine is about a quarter of the FP32 graph."""
    assert engine.size_mb
    assert fp32.size_mb
    sizes = f"an engine of {engine.size_mb:.1f} MB, from an FP32 graph of {fp32.size_mb:.1f} MB"
    return f"made {sizes}" + (
        ": its weights are not 8-bit, and the exit code is 0." if engine.size_mb > 0.8 * fp32.size_mb else "."
    )


def cells(outcome: Outcome) -> list[str]:
    built = "–" if outcome.builds is None else "yes" if outcome.builds else "no"
    judged = (outcome.top1, outcome.agreement, outcome.exact_top1, outcome.exact_agreement)
    effort = (outcome.seconds or None, outcome.peak_mb or None)
    return [
        outcome.tool,
        *map(_of, judged),
        _of(outcome.latency_ms, 2),
        _of(outcome.size_mb),
        built,
        *(_of(value, 0) for value in effort),
    ]


def _of(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


if __name__ == "__main__":
    main()
