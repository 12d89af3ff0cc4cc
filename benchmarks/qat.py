"""Does rounding while training help? INT8 accuracy of a checkpoint, before and after `train --qat`.

    python benchmarks/qat.py CHECKPOINT PHOTOS      writes benchmarks/results/qat.json

Both graphs are in the TensorRT form, which onnxruntime imitates exactly; accuracy is on the photos' validation pictures.
"plain" rounds weights to nearest with minmax ranges around zero, as simple tools do; "ours" is what `build-engine --int8`
does; "trained" goes on from the checkpoint with rounding, and "control" for the same steps without it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli.qat import ranges_of
from alexnet_deploy.export import export
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.parity import evaluate
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.quantization.trained import Nearest, trained_calibration
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import Precision, silent
from training import checkpoint
from training.data import open_split
from training.recipes import continued, with_recipe
from training.settings import TrainSettings
from training.train import train

RESULTS = Path(__file__).parent / "results"


def accuracy(path: Path, pictures: PictureSet) -> float:
    with Runtime(path, "cpu") as runtime:
        return evaluate(runtime, pictures).accuracy.top1.fraction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("photos")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()

    split = open_split(options.photos)
    assert isinstance(split.train, PictureSet)
    settings = replace(
        with_recipe(TrainSettings(**continued(options.checkpoint)), "qat"),
        data=options.photos,
        weights=options.checkpoint,
        epochs=options.epochs,
    )
    ranges = ranges_of(options.checkpoint, options.photos, silent)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rounded = train(settings, folder / "trained.safetensors", ranges=ranges).checkpoint
        control = train(settings, folder / "control.safetensors").checkpoint
        for kind, path in {"before": Path(options.checkpoint), "control": control, "trained": rounded}.items():
            model, source = checkpoint.load(path)
            graph = export(model, source, folder / f"{kind}.onnx").artifact
            found[kind] = {"fp32": accuracy(graph.path, split.validation)}
            for way, calibration in calibrations(graph, split.train).items():
                written = quantize(graph, folder / f"{kind}.{way}.onnx", Precision.INT8, calibration=calibration)
                found[kind][way] = accuracy(written.path, split.validation)
            print(kind, {way: f"{value:.1%}" for way, value in found[kind].items()}, flush=True)
    record = {
        "machine": to_builtins(Machine.here()),
        "command": f"python benchmarks/qat.py CHECKPOINT PHOTOS --epochs {options.epochs}",
        "note": options.note,
        "checkpoint": Artifact.open(options.checkpoint).manifest.model,
        "settings": {**asdict(settings), "data": "photos", "weights": "CHECKPOINT"},
        "validation_pictures": len(split.validation),
        "top1": found,
    }
    (RESULTS / "qat.json").write_text(json.dumps(record, indent=1) + "\n")


def calibrations(graph: Artifact, pictures: PictureSet) -> dict[str, Calibration]:
    """By which a graph is quantised: the ranges that it was trained with, or else two ways of finding some."""
    if trained := trained_calibration(graph):
        return {"int8 trained": trained}
    ours = calibrate(graph, pictures)
    plain = calibrate(graph, pictures, method="minmax", shift=False)
    return {"int8 plain": replace(plain, weights=Nearest()), "int8 ours": ours}


if __name__ == "__main__":
    main()
