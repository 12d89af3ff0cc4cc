"""Training steps a second against a plain PyTorch loop over the same model, on the CPU, in turns.

    python benchmarks/training_speed.py --cases photos        about 2 minutes; benchmarks/results/training-speed.json

plain       what tutorials write: NCHW, eager, the unfused optimiser, one batch of random pictures that is in memory already
ours        `train`: crops, varies and normalises its pictures in processes beside it
synthetic   `train`'s step on one batch that is in memory already: what pictures cost is the difference
reading     `train` on JPEG files that it decodes again in every step, as it does with sets that do not fit into memory
nchw        as synthetic, the other order in memory
bf16        as synthetic, in bfloat16
compiled    as synthetic, by torch.compile

Beside the speed stand its ratio to synthetic, and how much of the cores a step kept busy (of what the hypervisor gave to this
machine), the processes that make batches included. Where reading is slower than synthetic with every core busy, nothing waits;
there is more to do. A case that is in the file already is measured again, the others stay.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, for all

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet_deploy.machine import Machine, usable_cores
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.statistics import ratio_of_medians
from training import batches
from training.data import Split
from training.model import ModelConfig, build_model
from training.recipes import with_recipe
from training.settings import TrainSettings, demo_settings
from training.train import Training

RESULTS = Path(__file__).parent / "results"
CASES = {
    "demo: alexnet, width 0.25, 96 px, batch 64": demo_settings(),
    "photos: alexnet-bn, width 0.25, 112 px, batch 64, crops": with_recipe(
        TrainSettings(arch="alexnet-bn", width=0.25, input_size=112, framing="whole"), "modern"
    ),
    "full: alexnet, width 1, 224 px, batch 32": replace(demo_settings(), width=1.0, input_size=224, batch_size=32, dropout=0.5),
}
TURN_SECONDS = 2.0
UNCOUNTED_STEPS = 4
FEWEST_STEPS = 3
Step = Callable[[], object]


@dataclass
class Timed:
    """A step, and how long each of its runs took: by the clock, on all cores together, and what was stolen meanwhile.

    A turn begins with some steps that are not counted: the pictures of the next three or so were made after the last turn, and
    are not paid for. It ends when nothing more is made.
    """

    step: Step
    seconds: list[float] = field(default_factory=list)  # a step, by the mean of each turn
    total_seconds: float = 0.0
    busy_seconds: float = 0.0
    stolen_seconds: float = 0.0

    def run(self) -> None:
        for _ in range(UNCOUNTED_STEPS):
            self.step()
        begun, busy, stolen = time.perf_counter(), busy_seconds(), stolen_seconds()
        steps = 0
        while steps < FEWEST_STEPS or time.perf_counter() - begun < TURN_SECONDS:
            self.step()
            steps += 1
        took = time.perf_counter() - begun
        self.seconds.append(took / steps)
        self.total_seconds += took
        self.busy_seconds += busy_seconds() - busy
        self.stolen_seconds += stolen_seconds() - stolen
        before = -1.0
        while before != (before := busy_seconds(children=True)):
            time.sleep(0.05)

    def busy(self) -> float:
        """Share of the cores that this machine was given."""
        return self.busy_seconds / (self.total_seconds * usable_cores() - self.stolen_seconds)


def plain(settings: TrainSettings) -> Step:
    """One step of the loop that tutorials show."""
    model = build_model(ModelConfig(settings.arch, 10, settings.width, settings.dropout, settings.input_size)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    pictures = torch.randn(settings.batch_size, 3, settings.input_size, settings.input_size)
    labels = torch.randint(10, (settings.batch_size,))

    def step() -> float:
        optimiser.zero_grad()
        loss = criterion(model(pictures), labels)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def ours(settings: TrainSettings, split: Split, *, synthetic: bool = False) -> Step:
    """One step of `train`, its pictures included unless they are synthetic."""
    training = Training(settings, split, Path("never-written.safetensors"))
    training.learner.begin_epoch()
    for _ in training.batches.epoch(0):  # decodes each picture once, as the first epoch does
        pass
    seen = (one for epoch in count(1) for one in training.batches.epoch(epoch))
    same = next(seen)
    return lambda: training.take_step(same if synthetic else next(seen))


def photos(folder: Path) -> Split:
    """1,024 JPEG files of 256 pixels, as ImageNet's are when they were made smaller for training."""
    grey = PictureSet.open("demo:train").sample(1024)
    for index, name in enumerate(grey.classes):
        (folder / name).mkdir()
        for place in np.flatnonzero(grey.labels == index).tolist():
            Image.fromarray(grey.picture(place)).resize((256, 256)).save(folder / name / f"{place}.jpg", quality=90)
    files = PictureSet.open(folder)
    return Split(files, files)


def variants(settings: TrainSettings, split: Split, names: list[str]) -> dict[str, Timed]:
    made: dict[str, Callable[[], Step]] = {
        "plain": lambda: plain(settings),
        "ours": lambda: ours(settings, split),
        "synthetic": lambda: ours(settings, split, synthetic=True),
        "reading": lambda: reading(settings, split),
        "nchw": lambda: ours(replace(settings, layout="nchw"), split, synthetic=True),
        "bf16": lambda: ours(replace(settings, arithmetic="bf16"), split, synthetic=True),
        "compiled": lambda: ours(replace(settings, compiled=True), split, synthetic=True),
    }
    return {name: Timed(made[name]()) for name in names}


def reading(settings: TrainSettings, split: Split) -> Step:
    share = batches._MEMORY_SHARE
    batches._MEMORY_SHARE = 0.0
    try:
        return ours(settings, split)
    finally:
        batches._MEMORY_SHARE = share


def in_turns(steps: dict[str, Timed], seconds: float) -> None:
    """One of each in turn, in a new order every round, after two that are not counted."""
    for timed in (*steps.values(), *steps.values()):
        timed.step()
    random = np.random.default_rng(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(steps.values())).seconds) < 5:
        for name in random.permutation(list(steps)):
            steps[name].run()


def busy_seconds(*, children: bool = False) -> float:
    """CPU time of the processes that this one has forked, and of itself unless only theirs is asked for."""
    total = 0.0 if children else time.process_time()
    for task in Path("/proc/self/task").iterdir():
        for process in (task / "children").read_text().split():
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
    return total


def stolen_seconds() -> float:
    """Of all cores, what the hypervisor gave to others; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    return int(stat.read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK") if stat.exists() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each case")
    parser.add_argument("--variants", default="plain,ours,synthetic,reading,nchw,bf16")
    parser.add_argument("--cases", default=":", help="those whose name holds this text")
    parser.add_argument("--output", default="training-speed.json")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()
    output = RESULTS / options.output
    results = json.loads(output.read_text()) if output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        split = photos(Path(folder))
        for name, settings in CASES.items():
            if options.cases not in name:
                continue
            torch.manual_seed(0)
            steps = variants(settings, split, options.variants.split(","))
            in_turns(steps, options.seconds)
            results[name] = {
                "machine": to_builtins(Machine.here()),
                "command": f"python benchmarks/training_speed.py --cases {options.cases} --seconds {options.seconds:g} "
                f"--variants {options.variants}",
                "note": options.note,
                "settings": asdict(settings),
                "variants": {variant: figures(timed, steps, settings.batch_size) for variant, timed in steps.items()},
            }
            for variant, found in results[name]["variants"].items():
                print(f"{name}: {variant}", *(f"{key} {value}" for key, value in found.items()), flush=True)
            output.write_text(json.dumps(results, indent=1) + "\n")


def figures(timed: Timed, steps: dict[str, Timed], batch_size: int) -> dict[str, object]:
    """Of one variant, against two others."""
    found: dict[str, object] = {"pictures_per_second": round(batch_size / float(np.median(timed.seconds)), 1)}
    for name in ("plain", "synthetic"):
        ratio, interval = ratio_of_medians(steps[name].seconds, timed.seconds)
        found |= {f"times_{name}": round(ratio, 3), f"times_{name}_interval": [round(interval.low, 3), round(interval.high, 3)]}
    return found | {"cores_busy": round(timed.busy(), 3), "turns": len(timed.seconds)}


if __name__ == "__main__":
    main()
