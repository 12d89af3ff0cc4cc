"""Training steps a second against a plain PyTorch loop over the same model, on the CPU, in turns.

    python benchmarks/training_speed.py            about 3 minutes; writes benchmarks/results/training-cpu.json

The plain loop is what tutorials write: NCHW, eager, the unfused optimiser, one batch of random pictures that is in memory
already. Ours reads, crops and normalises its pictures as `train` does, and saves no state meanwhile.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, for both

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.statistics import ratio_of_medians
from alexnet_deploy.types import silent
from training.data import open_split
from training.model import ModelConfig, build_model
from training.settings import TrainSettings, demo_settings
from training.train import Training

RESULTS = Path(__file__).parent / "results"
CASES = {
    "demo: width 0.25, 96 px, batch 64": demo_settings(),
    "full: width 1, 224 px, batch 32": replace(demo_settings(), width=1.0, input_size=224, batch_size=32, dropout=0.5),
}


def plain_loop(settings: TrainSettings) -> Callable[[], object]:
    """One step of the loop that tutorials show."""
    model = build_model(ModelConfig("alexnet", 10, settings.width, settings.dropout, settings.input_size)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    criterion = torch.nn.CrossEntropyLoss()
    pictures = torch.randn(settings.batch_size, 3, settings.input_size, settings.input_size)
    labels = torch.randint(10, (settings.batch_size,))

    def step() -> float:
        optimiser.zero_grad()
        loss = criterion(model(pictures), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def ours(settings: TrainSettings, folder: Path) -> Callable[[], object]:
    """One step of `train`, its pictures included."""
    split = open_split("demo", 0)
    split = replace(split, train=split.train.sample(1024))
    training = Training(settings, split, folder / "m.safetensors", "cpu", silent)
    training.model.train()
    for _ in training.batches.epoch(0):  # decodes each picture once, as the first epoch does
        pass
    batches = (batch for epoch in range(1, 1000) for batch in training.batches.epoch(epoch))
    return lambda: training.take_step(*next(batches))


def in_turns(steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each step: one of each in turn, in a new order every round, after two that are not counted."""
    for step in (*steps.values(), *steps.values()):
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    random = np.random.default_rng(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(found.values()))) < 8:
        for name in random.permutation(list(steps)):
            begun = time.perf_counter()
            steps[name]()
            found[name].append(time.perf_counter() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each case")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()
    results = {}
    for name, settings in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            found = in_turns({"plain": plain_loop(settings), "ours": ours(settings, Path(folder))}, options.seconds)
        speed_up, interval = ratio_of_medians(found["plain"], found["ours"])
        rates = {who: settings.batch_size / float(np.median(times)) for who, times in found.items()}
        results[name] = {"pictures_per_second": rates, "speed_up": speed_up, "interval": to_builtins(interval), "steps": found}
        print(f"{name}: plain {rates['plain']:.0f}, ours {rates['ours']:.0f} pictures/s, {speed_up:.2f} times")
    RESULTS.mkdir(exist_ok=True)
    record = {
        "machine": to_builtins(Machine.here()),
        "note": options.note,
        "settings": {name: asdict(settings) for name, settings in CASES.items()},
        "results": results,
    }
    (RESULTS / "training-cpu.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
