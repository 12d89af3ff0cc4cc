"""What `train --qat` needs before it trains: the ranges of the checkpoint's activations, as `build-engine --int8` finds them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from msgspec import structs

from alexnet_deploy.errors import InputError
from alexnet_deploy.types import Progress

if TYPE_CHECKING:
    from training.qat import Ranges

_TRAINED = ", then trained with"  # what the record says of a method whose ranges the weights have learnt


def check_weights(weights: str | None) -> str:
    """What is to be trained with rounding. Raises InputError unless it is a checkpoint of ours."""
    if weights is None or not weights.endswith(".safetensors"):
        raise InputError(
            "--qat goes on from a trained network" + (f", not from {weights}" if weights else ""),
            expected="a checkpoint with its manifest",
            fix="--weights models/alexnet.safetensors",
        )
    return weights


def ranges_of(weights: str, data: str, progress: Progress) -> Ranges:
    """Exports the checkpoint, and calibrates it on the training pictures.

    Raises:
        ArtifactError: the checkpoint cannot be read.
        InputError: the pictures are a stream.
        CalibrationError: too few pictures.
    """
    from alexnet_deploy.export import export
    from alexnet_deploy.onnx_graph import load_graph
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.quantization.cache import calibrate_once
    from alexnet_deploy.quantization.layers import find_layers
    from alexnet_deploy.quantization.scales import int8_steps
    from training import checkpoint
    from training.data import open_split
    from training.qat import Ranges

    model, source = checkpoint.load(weights)
    pictures = open_split(data).train
    if not isinstance(pictures, PictureSet):
        raise InputError(
            f"--qat on pictures that come over the network ({data})",
            expected="a set that is stored here, to calibrate on",
            fix="--data FOLDER, with some of them",
        )
    with TemporaryDirectory() as folder:
        graph = export(model, source, Path(folder) / "model.onnx", pictures=pictures.sample(32), progress=progress).artifact
        calibration = calibrate_once(graph, pictures, progress=progress)
        layers = find_layers(load_graph(graph.path))
    record = calibration.record
    steps = {layer.name: int8_steps(calibration.ranges[layer.data], layer.data in record.shifted) for layer in layers}
    return Ranges(structs.replace(record, method=record.method.removesuffix(_TRAINED) + _TRAINED), steps)
