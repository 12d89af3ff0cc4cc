"""What `tune` finds for a full-size AlexNet that was trained on photographs, and how fast that is.

    python benchmarks/tune_on_photos.py --data photos10 --models FOLDER

The network that benchmarks/runtime.py tunes knows simple pictures, which leave most directions of its layers empty: the best
case. This is the usual one. DIR holds train/ and val/; what is missing of the models is made first, which takes an hour of two
cores. Accuracy is compared on val/. Writes benchmarks/results/tune-on-photos.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

from runtime import ORT_DEFAULT, ROOT, of_one_network
from runtime_models import tried_at, write_forms, write_int8, write_peer, write_tuned

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import FallbackWarning
from alexnet_deploy.export import export
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.types import BatchRange

# Small first, where an epoch takes minutes, then at the size that is measured.
TRAINING = {
    "small.safetensors": "--input-size 96 --epochs 8 --batch-size 128 --lr 0.0005",
    "photos.safetensors": "--input-size 224 --epochs 1 --batch-size 64 --lr 0.0001 --weights {folder}/small.safetensors",
}
ALIKE = "--arch alexnet-bn --width 1 --framing whole --fast-paths none"
SECONDS = 95.0  # of measuring
SHARES = {1: 0.42, 8: 0.26, 32: 0.32}  # by batch


def make(folder: Path, data: Path) -> None:
    """Trains, exports and quantises what is not there yet."""
    for name, settings in TRAINING.items():
        if not (folder / name).is_file():
            words = f"train --data {data} {ALIKE} {settings.format(folder=folder)} -o {folder / name}".split()
            subprocess.run([sys.executable, "-m", "alexnet_deploy", *words], check=True)
    fp32, int8, peer, forms = (folder / name for name in ("photos.onnx", "photos.int8.cpu.onnx", "peer.onnx", "forms/written"))
    pictures = PictureSet.open(data / "train")
    if not fp32.is_file():
        from training.checkpoint import load

        model, artifact = load(folder / "photos.safetensors")
        export(model, artifact, fp32, batch=BatchRange(1, 8, 64), pictures=pictures.sample(16))
    if not int8.is_file():
        write_int8(fp32, int8, pictures, "mse")
    if not peer.is_file():
        write_peer(fp32, peer, pictures.sample(64))
    if not forms.is_file():
        write_forms(fp32, int8, forms, pictures)


def chosen(folder: Path, data: Path) -> dict[str, object]:
    """What `tune` chooses and all that it tried, with the numbers between each two thin layers."""
    forms = folder / "forms"
    write_tuned(
        folder / "photos.onnx", folder / "photos.int8.cpu.onnx", forms, folder / "tuned.onnx", PictureSet.open(data / "val")
    )
    made = [Artifact.open(path).manifest for path in sorted(forms.glob("*.cpu.onnx"))]
    tried = json.loads(tried_at(folder / "tuned.onnx").read_text(encoding="utf-8"))
    return {**tried, "ranks": {manifest.file: manifest.notes for manifest in made if manifest.notes}}


def timed(folder: Path) -> dict[str, object]:
    """The choice and INT8 as built against onnxruntime's default quantisation, milliseconds and ratios with 95 % intervals."""
    names = ("peer.onnx", "photos.int8.cpu.onnx", "tuned.onnx")
    return {
        title: {
            label: {
                "ms": round(rounds.median(label), 3),
                "times_as_fast": [round(ratio, 3) for ratio in rounds.ratio(ORT_DEFAULT, label)],
            }
            for label in rounds.samples
        }
        for title, rounds in of_one_network(*(folder / name for name in names), SHARES, SECONDS).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=ROOT / ".cache" / "tune-on-photos")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", FallbackWarning)
    asked.models.mkdir(parents=True, exist_ok=True)
    make(asked.models, asked.data)
    of_training = Artifact.open(asked.models / "photos.safetensors").manifest.training
    assert of_training is not None
    result = {
        "machine": to_builtins(Machine.here()),
        "command": f"python benchmarks/tune_on_photos.py --data {asked.data.name}",
        "training": {name: f"{ALIKE} {settings.format(folder='.')}" for name, settings in TRAINING.items()},
        "figures": of_training.figures,
        "tune": chosen(asked.models, asked.data),
        "timed": timed(asked.models),
    }
    path = ROOT / "benchmarks" / "results" / "tune-on-photos.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
