"""Fine-tuning against training from scratch, on the same photos, for the same number of steps.

    python benchmarks/fine_tuning.py CIFAR10 PHOTOS      about 5 minutes on two cores; writes benchmarks/results/fine-tuning.json

CIFAR10 and PHOTOS are folders with train/ and val/ (or test/). One network is trained on CIFAR10; then, for each seed, three
are trained on PHOTOS with the same settings and so in the same time: from scratch, from that network, and from it with frozen
convolutions (less time). Accuracy is on the photos' validation pictures, after the last epoch: nothing was chosen by them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from training.recipes import with_recipe
from training.settings import TrainSettings
from training.train import train

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10")
    parser.add_argument("photos")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cifar-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()

    network = TrainSettings(arch="alexnet-bn", width=0.25, input_size=64, framing="whole")
    settings = replace(with_recipe(network, "modern"), data=options.photos, epochs=options.epochs)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "cifar.safetensors"
        start = train(replace(settings, data=options.cifar10, epochs=options.cifar_epochs), before)
        print(f"CIFAR-10: {start.history[-1].validation_accuracy:.1%} in {start.seconds:.0f} s", flush=True)
        ways = {
            "from scratch": settings,
            "fine-tuned": replace(settings, weights=str(before), features_lr=0.5),
            "fine-tuned, features frozen": replace(settings, weights=str(before), features_lr=0.0),
        }
        for seed in range(options.seeds):
            for name, way in ways.items():
                report = train(replace(way, seed=seed), Path(folder) / "photos.safetensors")
                figures = {"seed": seed, "accuracy": report.history[-1].validation_accuracy, "seconds": report.seconds}
                found.setdefault(name, []).append(figures)
                print(f"seed {seed}, {name}: {figures['accuracy']:.1%} in {figures['seconds']:.0f} s", flush=True)
    RESULTS.mkdir(exist_ok=True)
    record = {
        "machine": to_builtins(Machine.here()),
        "note": options.note,
        "command": f"python benchmarks/fine_tuning.py CIFAR10 PHOTOS --seeds {options.seeds} "
        f"--cifar-epochs {options.cifar_epochs} --epochs {options.epochs}",
        "settings": {**asdict(settings), "data": "photos"},
        "cifar10": {"accuracy": start.history[-1].validation_accuracy, "seconds": start.seconds, "epochs": options.cifar_epochs},
        "validation_pictures": report.validation_pictures,
        "results": found,
    }
    (RESULTS / "fine-tuning.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
