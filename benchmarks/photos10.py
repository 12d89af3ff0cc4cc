"""Accuracy after ten minutes of training on two cores, by the clock.

    python benchmarks/photos10.py PHOTOS --seeds 1 2 3      ten minutes a seed; writes benchmarks/results/photos10.json

PHOTOS is photos10: ten classes of Tiny-ImageNet-200, 500 training and 50 validation photos each, 64 pixels. For each seed
`alexnet-deploy train` is started as anybody would start it, and timed from its start to its end. Accuracy is on the validation
photos after the last epoch: no epoch is chosen by them. A seed that is in the file already is measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alexnet_deploy.machine import Machine, usable_cores
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.statistics import wilson

RESULTS = Path(__file__).parent / "results"
RECIPE = "--arch alexnet-bn --width 0.25 --input-size 96 --framing whole --augment none --mixup 0 --dropout 0.2 --epochs 50"
EVERY = 8  # epochs between two points of a curve that is written
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--output", default="photos10.json")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()

    output = RESULTS / options.output
    command = f"alexnet-deploy train --data photos10 {options.recipe}"
    before = json.loads(output.read_text()) if output.exists() else {}
    seeds: dict[int, dict[str, Any]] = {}
    if before.get("command") == command:
        seeds = {entry["seed"]: entry for entry in before["seeds"]}
    for seed in options.seeds:
        seeds[seed] = {"seed": seed, **trained(options.photos, options.recipe.split(), seed), "note": options.note}
        print(seeds[seed], flush=True)
        output.write_text(record(command, [seeds[seed] for seed in sorted(seeds)]))


def trained(photos: str, recipe: list[str], seed: int) -> dict[str, Any]:
    """One training, by the clock and by what the machine's cores did meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "photos10.safetensors"
        command = [sys.executable, "-m", "alexnet_deploy", "train", "--data", photos, *recipe, "--seed", str(seed)]
        begun, of_all, stolen, own = time.monotonic(), *_machine_seconds(), _children_seconds()
        done = subprocess.run(
            [*command, "--seed", str(seed), "-o", str(checkpoint), "-q", "--json"], capture_output=True, text=True
        )
        seconds = time.monotonic() - begun
        if done.returncode:
            sys.exit(done.stderr)
        own = _children_seconds() - own
        of_all, stolen = (now - then for now, then in zip(_machine_seconds(), (of_all, stolen), strict=True))
    report = json.loads(done.stdout)
    history, of = report["history"], report["validation_pictures"]
    right = round(history[-1]["validation_accuracy"] * of)
    return {
        "right": right,
        "of": of,
        "seconds": round(seconds, 1),
        "core_seconds": round(own, 1),
        "cores_busy": round(own / (seconds * usable_cores() - stolen), 3),
        "foreign_core_seconds": round(of_all - own, 1),
        "stolen_core_seconds": round(stolen, 1),
        "pictures_per_second": [round(entry["pictures_per_second"]) for entry in history[EVERY - 1 :: EVERY]],
        "train_loss": [round(entry["train_loss"], 3) for entry in history[EVERY - 1 :: EVERY]],
        "validation_accuracy": [round(entry["validation_accuracy"], 3) for entry in history[EVERY - 1 :: EVERY]],
    }


def record(command: str, seeds: list[dict[str, Any]]) -> str:
    """The result file: one line a seed."""
    mean, of = statistics.mean(entry["right"] for entry in seeds), seeds[0]["of"]
    facts = {
        "machine": to_builtins(Machine.here()),
        "command": command,
        "data": "photos10: ten classes of Tiny-ImageNet-200, 500 training and 50 validation photos each, 64 px",
        "fields": {
            "cores_busy": "core seconds of the training, of those that the hypervisor gave to this machine",
            "stolen_core_seconds": "what the hypervisor gave to others",
            "pictures_per_second, train_loss, validation_accuracy": f"of every {EVERY}th epoch",
        },
        "mean_accuracy": mean / of,
        "interval_95": to_builtins(wilson(round(mean), of)),  # of one set: the seeds answer about the same photos
        "standard_deviation_of_seeds": statistics.stdev(entry["right"] / entry["of"] for entry in seeds) if seeds[1:] else None,
        "longest_seconds": max(entry["seconds"] for entry in seeds),
    }
    lines = ",\n".join("  " + json.dumps(entry) for entry in seeds)
    return f'{json.dumps(facts, indent=1)[:-2]},\n "seeds": [\n{lines}\n ]\n}}\n'


def _machine_seconds() -> tuple[float, float]:
    """CPU time of all processes, and what the hypervisor gave to others, since the machine started."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq) / _TICKS, steal / _TICKS


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
