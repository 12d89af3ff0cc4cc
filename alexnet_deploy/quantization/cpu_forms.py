"""Other forms of a graph that may be faster on a CPU: 4-bit weights, thin layers.

Which of them is, and which keeps its answers, only a measurement on the machine tells: `tune` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from alexnet_deploy import logs
from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import CalibrationError, ModelError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

# What thin layers may lose, fully connected ones and convolutions: in thin5 and thinner5 convolutions lose 5 per mille. Networks
# differ in which of the two hold more than their answers need (docs/decisions/0520-*.md).
THIN_LAYERS_LOSE = {
    "thin": (0.001, 0.0),
    "thin2": (0.001, 0.002),
    "thin5": (0.001, 0.005),
    "thin10": (0.001, 0.01),
    "thinner2": (0.02, 0.002),
    "thinner5": (0.05, 0.005),
}
FITTED_TO = 1024  # pictures, to find directions
CALIBRATED_ON = 256
log = logs.logger(__name__)


def other_forms(
    model: Artifact,
    folder: Path,
    *,
    four_bit: bool = True,
    calibration: PictureSet | None = None,
    told: Callable[[str], None] = log.info,
    progress: Progress = silent,
) -> Iterator[Artifact]:
    """Writes the forms that fit a graph into `folder`; none for what is no graph, or has been rewritten already.

    Args:
        model: what they are made from: an INT8 graph of the CPU form, or an FP32 graph.
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
        ways = _thin(model, calibration, progress)
        if not ways:
            told(f"no layer of {model.path.name} gets thinner: none says as much with fewer channels")
    for done, (name, write) in enumerate(ways.items()):
        progress("write other forms", done, len(ways), name)
        try:
            yield write(folder / _named(model.path.name, name))
        except ModelError as error:  # it does not fit this graph
            log.info("%s", error)
        except CalibrationError as error:  # too few pictures
            told(f"{_named(model.path.name, name)} was not tried: {error.found}")
    if ways:
        progress("write other forms", len(ways), len(ways))


def _of_int8(model: Artifact) -> dict[str, Callable[[Path], Artifact]]:
    from alexnet_deploy.quantization.four_bit import to_four_bit

    return {"int4": partial(to_four_bit, model, block=32), "int4x128": partial(to_four_bit, model, block=128)}


def _thin(model: Artifact, pictures: PictureSet, progress: Progress) -> dict[str, Callable[[Path], Artifact]]:
    from alexnet_deploy.quantization.calibration import calibrate
    from alexnet_deploy.quantization.low_rank import MostLost, observe, to_low_rank
    from alexnet_deploy.quantization.quantize import quantize

    fitted_to = pictures.sample(FITTED_TO)
    layers = observe(model, fitted_to, progress)
    seen = fitted_to.content_hashes() if layers else []

    def write(path: Path, most_lost: MostLost) -> Artifact:
        whole = to_low_rank(model, path.with_name(path.name.replace(".int8.cpu", "")), layers, most_lost)
        ranges = calibrate(whole, pictures, method="mse", count=CALIBRATED_ON, progress=progress)
        all_seen = replace(ranges, record=ranges.record.with_pictures(seen))
        return quantize(whole, path, Precision.INT8, form=GraphForm.CPU, calibration=all_seen)

    ways: dict[str, Callable[[Path], Artifact]] = {}
    written: set[tuple[int | None, ...]] = set()
    for name, shares in THIN_LAYERS_LOSE.items():
        most_lost = MostLost(*shares)
        ranks = tuple(layer.rank(most_lost) for layer in layers.values())
        if any(ranks) and ranks not in written:  # several shares may come to the same ranks
            written.add(ranks)
            ways[f"{name}.int8.cpu"] = partial(write, most_lost=most_lost)
    return ways


def _named(name: str, form: str) -> str:
    """alexnet.int8.cpu.onnx, "int4" -> alexnet.int4.cpu.onnx; alexnet.onnx, "thin.int8.cpu" -> alexnet.thin.int8.cpu.onnx"""
    return name.replace(".int8.", f".{form}.") if ".int8." in name else f"{name.removesuffix('.onnx')}.{form}.onnx"
