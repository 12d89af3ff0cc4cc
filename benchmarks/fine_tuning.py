"""Fine-tuning against training from scratch, on the same photos, for the same number of steps.

    python benchmarks/fine_tuning.py NETWORK PHOTOS      about 4 minutes on two cores; writes benchmarks/results/fine-tuning.json

NETWORK is a checkpoint that was trained on other pictures, PHOTOS a folder with train/ and val/. For each seed, three networks of
NETWORK's architecture are trained on PHOTOS by the modern recipe: from scratch; from NETWORK, with the same settings and so in
the same time; and from it with frozen convolutions, in less. For the first seed there is a fourth, from NETWORK until an epoch
brings nothing any more, of which the best is kept. But for that one, accuracy is of the last epoch: nothing was chosen by the
validation photos.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from training.recipes import continued, with_recipe
from training.settings import TrainSettings
from training.train import train

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("photos")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--patience", type=int, default=2, help="of the way that stops early")
    parser.add_argument("--features-lr", type=float, default=0.5)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()

    network = TrainSettings(**continued(options.network), epochs=options.epochs)
    settings = replace(with_recipe(network, "modern"), data=options.photos)
    tuned = replace(settings, weights=options.network, features_lr=options.features_lr)
    ways = {
        "from scratch": settings,
        "fine-tuned": tuned,
        "fine-tuned, features frozen": replace(tuned, features_lr=0.0),
        "fine-tuned until it gets no better": replace(tuned, epochs=4 * options.epochs, patience=options.patience),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, way in ways.items():
                if way.patience and seed:
                    continue
                begun, clock = time.process_time(), time.perf_counter()
                report = train(replace(way, seed=seed), Path(folder) / "photos.safetensors")
                figures = {
                    "seed": seed,
                    "accuracy": report.history[report.kept_epoch - 1].validation_accuracy,
                    "epochs": len(report.history),
                    "kept_epoch": report.kept_epoch,
                    "seconds": round(time.perf_counter() - clock, 1),
                    "core_seconds": round(time.process_time() - begun, 1),
                    "validation_accuracy": [record.validation_accuracy for record in report.history],
                }
                found[name].append(figures)
                print(
                    f"seed {seed}, {name}: {figures['accuracy']:.1%} for {figures['core_seconds']:.0f} core seconds", flush=True
                )
    before = Artifact.open(options.network).manifest
    record = {
        "machine": to_builtins(Machine.here()),
        "note": options.note,
        "command": f"python benchmarks/fine_tuning.py NETWORK PHOTOS --seeds {options.seeds} --epochs {options.epochs} "
        f"--patience {options.patience} --features-lr {options.features_lr:g}",
        "network": {"model": before.model, "figures": before.training.figures if before.training else {}},
        "settings": {**asdict(settings), "data": Path(options.photos).name},
        "validation_pictures": report.validation_pictures,
        "mean_accuracy": {name: statistics.mean(one["accuracy"] for one in figures) for name, figures in found.items()},
        "results": found,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fine-tuning.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
