"""What calibration costs in time and memory, on a full-size AlexNet (61 million parameters, 224 px) with drawn weights.

    python benchmarks/calibration_cost.py            # about ten minutes on two cores
    python benchmarks/calibration_cost.py --quick

time     one calibration pass against the bare float32 forward pass of the same pictures, both with their preprocessing;
         taken turn by turn, so that other work on the machine meets both; the median ratio counts
memory   the largest resident size of a process that calibrates on 32 and on 2,048 pictures
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.machine import Machine, peak_memory_bytes
from alexnet_deploy.manifest import Preprocess, to_builtins
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.onnx_graph.session import GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import calibrate
from alexnet_deploy.quantization.feeding import feeds
from alexnet_deploy.quantization.observation import Observer
from alexnet_deploy.types import BatchRange

MOST_TIMES, MOST_GROWTH_MB = 1.3, 100.0


def make_model(folder: Path) -> Path:
    """Exports an untrained AlexNet: neither time nor memory depends on the weights."""
    import torch

    from alexnet_deploy.export import export
    from training import checkpoint
    from training.model import ModelConfig, build_model

    torch.manual_seed(0)
    model = build_model(ModelConfig())
    source = checkpoint.save(model, folder / "alexnet.safetensors", preprocess=Preprocess(height=224, width=224))
    pictures = PictureSet.open("demo:test").subset(range(8))
    return export(model.eval(), source, folder / "alexnet.onnx", batch=BatchRange(), pictures=pictures).artifact.path


def time_ratio(model: Path, rounds: int, count: int) -> dict[str, float]:
    artifact, graph = Artifact.open(model), load_graph(model)
    pictures = PictureSet.open("demo:train").subset(range(count))
    bare, observer = GraphRunner(graph), Observer(graph, artifact.manifest)
    forward, calibration = [], []
    for _ in range(rounds + 1):  # the first warms up and is left out
        started = time.perf_counter()
        for feed, _ in feeds(pictures, artifact.manifest, 16):
            bare.run(feed)
        between = time.perf_counter()
        observer.add(pictures)
        forward.append(between - started)
        calibration.append(time.perf_counter() - between)
    ratios = [c / f for c, f in zip(calibration[1:], forward[1:], strict=True)]
    return {
        "pictures": count,
        "rounds": rounds,
        "forward_ms_per_picture": 1e3 * statistics.median(forward[1:]) / count,
        "calibration_ms_per_picture": 1e3 * statistics.median(calibration[1:]) / count,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def peak_megabytes(model: Path, count: int) -> float:
    """In a process of its own, so that nothing that ran before counts."""
    command = [sys.executable, __file__, "--child", str(model), "--count", str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(model: Path, count: int) -> None:
    calibrate(Artifact.open(model), PictureSet.open("demo:train"), method="minmax", count=count)
    print(peak_memory_bytes() / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pictures and rounds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration-cost.json"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.count)
        return
    many = 256 if given.quick else 2048
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        cost = time_ratio(model, rounds=3 if given.quick else 9, count=48)
        few_mb, many_mb = peak_megabytes(model, 32), peak_megabytes(model, many)
    memory = {"peak_mb_32": few_mb, f"peak_mb_{many}": many_mb, "growth_mb": many_mb - few_mb}
    result = {"time": cost, "memory": memory, "machine": to_builtins(Machine.here())}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    spread = f"from {cost['ratio_low']:.2f} to {cost['ratio_high']:.2f}"
    print(f"time    {cost['ratio']:.2f}x the forward pass ({spread}); at most {MOST_TIMES}")
    print(f"memory  {few_mb:.0f} MB with 32 pictures, {many_mb:.0f} MB with {many}; may grow by {MOST_GROWTH_MB:.0f} MB")
    sys.exit(cost["ratio"] > MOST_TIMES or memory["growth_mb"] > MOST_GROWTH_MB)


if __name__ == "__main__":
    main()
