"""The networks of benchmarks/runtime.py in every form that is compared, made once and kept.

Two full-size AlexNets at 224 px. What is compared as it is has random weights and 1,000 classes, for speed does not depend on
them. What `tune` chooses does: it may take what keeps the answers, and only a trained network has any. That one is trained on
the embedded demo data, all layers, for an epoch (some five minutes of two cores).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.manifest import Preprocess, to_builtins
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.types import BatchRange, GraphForm, Precision

Models = dict[str, Path]
RECIPE = Preprocess(height=224, width=224, resize=256)
MOST_DROP = 0.5
TRAINING = "--arch alexnet-bn --width 1 --input-size 224 --epochs 1 --batch-size 32 --augment none --ema 0 --dropout 0.5"


def make_models(folder: Path) -> Models:
    """Makes what is missing, and says where everything is; "nncf" is benchmarks/nncf_peer.py's to make."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        "torch": "alexnet.safetensors",
        "fp32": "alexnet.onnx",
        "int8": "alexnet.int8.cpu.onnx",
        "ort-default": "ort-default.onnx",
        "nncf": "nncf.xml",
        "trained": "trained.safetensors",
        "trained-fp32": "trained.onnx",
        "trained-int8": "trained.int8.cpu.onnx",
        "trained-ort-default": "trained-ort-default.onnx",
        "trained-uint8-fp32": "trained.uint8.onnx",
        "trained-uint8": "trained.uint8.int8.cpu.onnx",
        "forms": "forms/written",
        "tuned": "tuned.onnx",
    }
    models = {name: folder / file for name, file in names.items()}
    demo = PictureSet.open("demo:train")
    steps: dict[str, Callable[[], object]] = {
        "torch": lambda: _random_weights(models["torch"]),
        "fp32": lambda: _graph(models["torch"], models["fp32"], "float32"),
        "int8": lambda: write_int8(models["fp32"], models["int8"], demo.sample(32), "minmax"),
        "ort-default": lambda: write_peer(models["fp32"], models["ort-default"], demo.sample(64)),
        "trained": lambda: _trained(models["trained"]),
        "trained-fp32": lambda: _graph(models["trained"], models["trained-fp32"], "float32"),
        "trained-int8": lambda: write_int8(models["trained-fp32"], models["trained-int8"], demo, "mse"),
        "trained-ort-default": lambda: write_peer(models["trained-fp32"], models["trained-ort-default"], demo.sample(64)),
        "trained-uint8-fp32": lambda: _graph(models["trained"], models["trained-uint8-fp32"], "uint8"),
        "trained-uint8": lambda: write_int8(models["trained-uint8-fp32"], models["trained-uint8"], demo, "mse"),
        "forms": lambda: write_forms(models["trained-fp32"], models["trained-int8"], models["forms"], demo),
        "tuned": lambda: write_tuned(
            models["trained-fp32"], models["trained-int8"], models["forms"].parent, models["tuned"], PictureSet.open("demo:test")
        ),
    }
    for name, make in steps.items():
        if not models[name].is_file():
            print(f"making {models[name].name}", flush=True)
            make()
    return models


def _random_weights(path: Path) -> None:
    import torch

    from training.checkpoint import save
    from training.model import ModelConfig, build_model

    torch.manual_seed(0)
    model = build_model(ModelConfig())
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.normal_(std=0.05)  # a trained network has biases; all zeros would be folded away
    save(model, path, preprocess=RECIPE)


def _trained(path: Path) -> None:
    subprocess.run([sys.executable, "-m", "alexnet_deploy", "train", *TRAINING.split(), "-o", path], check=True)


def _graph(checkpoint: Path, path: Path, input_dtype: str) -> None:
    from alexnet_deploy.export import export
    from training.checkpoint import load

    model, artifact = load(checkpoint)
    pictures = PictureSet.open("demo:test").subset(range(16))
    export(model, artifact, path, batch=BatchRange(1, 8, 64), pictures=pictures, input_dtype=input_dtype)


def write_int8(graph: Path, path: Path, pictures: PictureSet, method: str) -> None:
    from alexnet_deploy.quantization.calibration import calibrate
    from alexnet_deploy.quantization.quantize import quantize

    whole = Artifact.open(graph)
    quantize(whole, path, Precision.INT8, form=GraphForm.CPU, calibration=calibrate(whole, pictures, method=method, count=256))


def write_peer(graph: Path, path: Path, pictures: PictureSet) -> None:
    """What onnxruntime's quantiser makes of a graph with its defaults."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    recipe = Artifact.open(graph).manifest.preprocess

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = ({"input": batch} for batch, _ in pictures.batches(recipe, 8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    quantize_static(str(graph), str(path), Reader())


def write_forms(fp32: Path, int8: Path, done: Path, calibration: PictureSet) -> None:
    """The other forms that `tune` would write before it measures: here by itself, for it takes minutes and needs no quiet."""
    from alexnet_deploy.quantization.cpu_forms import other_forms

    done.parent.mkdir(exist_ok=True)
    for graph in (fp32, int8):
        for form in other_forms(Artifact.open(graph), done.parent, calibration=calibration):
            print(f"  {form.path.name} {form.manifest.notes}", flush=True)
    done.touch()


def write_tuned(fp32: Path, int8: Path, forms: Path, path: Path, pictures: PictureSet) -> None:
    """What `alexnet-deploy tune FP32 INT8 --batch 1 --max-drop 0.5 --data PICTURES` chooses here, and all that it tried."""
    from alexnet_deploy.tune import tune

    report = tune(
        [Artifact.open(graph) for graph in (fp32, int8, *sorted(forms.glob("*.cpu.onnx")))],
        max_drop=MOST_DROP,
        pictures=pictures,
        four_bit=False,
        output=path,
    )
    if report.chosen is None:
        raise SystemExit(report.missed[0])
    # Its name alone: where the models lie is this machine's affair. And `write_forms` has written the thin layers.
    notes = [note for note in report.notes if not note.startswith("thin layers were not tried")]
    tried = to_builtins(report) | {"path": path.name, "notes": notes}
    tried_at(path).write_text(json.dumps(tried, indent=1) + "\n")


def tried_at(tuned: Path) -> Path:
    """Where the report of the tuning lies that chose a file."""
    return tuned.with_suffix(".tried.json")
