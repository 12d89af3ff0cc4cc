"""Other forms of a graph that may be faster on a CPU: 4-bit weights, thin layers.

Which of them is, and which keeps its answers, only a measurement on the machine tells: `tune` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from alexnet_deploy import logs
from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import CalibrationError, ModelError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

# By how much the logits of graphs with thin layers may be off, relative: 4-bit layers move AlexNet's by 4 to 7 %.
THIN_LAYERS_ERR = {"thin1": 0.01, "thin2": 0.02, "thin4": 0.04, "thin7": 0.07, "thin10": 0.1}
FITTED_TO = 1024  # pictures, to find directions
COMPARED_ON = 32  # pictures, to find how thin layers may be; the directions are fitted to others
CALIBRATED_ON = 256
log = logs.logger(__name__)


def other_forms(
    model: Artifact,
    folder: Path,
    *,
    batch: int = 1,
    four_bit: bool = True,
    calibration: PictureSet | None = None,
    told: Callable[[str], None] = log.info,
    progress: Progress = silent,
) -> Iterator[Artifact]:
    """Writes the forms that fit a graph into `folder`; none for what is no graph, or has been rewritten already.

    Args:
        model: what they are made from: an INT8 graph of the CPU form, or an FP32 graph.
        batch: pictures in a call, which decides where thin layers save time.
        four_bit: rewrite INT8 graphs.
        calibration: rewrite FP32 graphs with thin layers, fitted to these pictures.
        told: gets a sentence where there is no thin form, with the reason.
    """
    manifest = model.manifest
    if manifest.kind != "onnx" or find_spec("onnx") is None:
        return
    is_four_bit = any(layer.precision is Precision.INT4 for layer in manifest.layers)
    ways: dict[str, Callable[[Path], Artifact]] = {}
    if four_bit and manifest.precision is Precision.INT8 and manifest.form is GraphForm.CPU and not is_four_bit:
        ways = _of_int8(model)
    elif calibration is not None and manifest.precision is Precision.FP32:
        try:
            ways = _thin(model, calibration, batch, progress)
        except CalibrationError as error:
            told(f"thin layers were not tried: {error.found}")
        else:
            if not ways:
                told(f"no layer of {model.path.name} gets thinner: none says as much with fewer numbers")
    for done, (name, write) in enumerate(ways.items()):
        progress("write other forms", done, len(ways), name)
        try:
            yield write(folder / _named(model.path.name, name))
        except ModelError as error:  # it does not fit this graph
            log.info("%s", error)
        except CalibrationError as error:  # what goes through it is not finite
            told(f"{_named(model.path.name, name)} was not tried: {error.found}")
    if ways:
        progress("write other forms", len(ways), len(ways))


def _of_int8(model: Artifact) -> dict[str, Callable[[Path], Artifact]]:
    from alexnet_deploy.quantization.four_bit import to_four_bit

    return {"int4": partial(to_four_bit, model, block=32), "int4x128": partial(to_four_bit, model, block=128)}


def _thin(model: Artifact, pictures: PictureSet, batch: int, progress: Progress) -> dict[str, Callable[[Path], Artifact]]:
    from alexnet_deploy.quantization.calibration import calibrate
    from alexnet_deploy.quantization.fitness import check_pictures
    from alexnet_deploy.quantization.low_rank import to_low_rank
    from alexnet_deploy.quantization.quantize import quantize
    from alexnet_deploy.quantization.thinness import choose_ranks, thin_layers
    from alexnet_deploy.quantization.wide import observe

    sample = pictures.sample(FITTED_TO + COMPARED_ON)
    seen = check_pictures(sample)
    order = np.random.default_rng(0).permutation(len(sample))
    compared_on = min(COMPARED_ON, len(sample) // 4)
    layers = observe(model, sample.subset(order[compared_on:]), progress)
    if not layers:
        return {}
    tried = thin_layers(model, layers, sample.subset(order[:compared_on]), max(THIN_LAYERS_ERR.values()) ** 2, progress)

    def write(path: Path, ranks: Mapping[str, int]) -> Artifact:
        whole = to_low_rank(model, path.with_name(path.name.replace(".int8.cpu", "")), layers, ranks)
        # The numbers between two thin layers are small but for what the classes are told by, which every other method clips.
        ranges = calibrate(whole, pictures, method="minmax", count=CALIBRATED_ON, progress=progress)
        all_seen = replace(ranges, record=ranges.record.with_pictures(seen))
        return quantize(whole, path, Precision.INT8, form=GraphForm.CPU, calibration=all_seen)

    chosen: dict[str, Mapping[str, int]] = {}
    for name, error in THIN_LAYERS_ERR.items():
        ranks = choose_ranks(layers, tried, error**2, batch)
        if ranks and ranks not in chosen.values():  # several errors may come to the same ranks
            chosen[f"{name}.int8.cpu"] = ranks
    return {name: partial(write, ranks=ranks) for name, ranks in chosen.items()}


def _named(name: str, form: str) -> str:
    """alexnet.int8.cpu.onnx, "int4" -> alexnet.int4.cpu.onnx; alexnet.onnx, "thin.int8.cpu" -> alexnet.thin.int8.cpu.onnx"""
    return name.replace(".int8.", f".{form}.") if ".int8." in name else f"{name.removesuffix('.onnx')}.{form}.onnx"
