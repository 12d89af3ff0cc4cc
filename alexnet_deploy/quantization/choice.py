"""Which method, factors and shifts: those with the least error at the logits, on calibration pictures held back for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from alexnet_deploy.manifest import Manifest
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.balance import Factors
from alexnet_deploy.quantization.comparison import logits, typical_error
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.qdq import shiftable, tensorrt_form
from alexnet_deploy.quantization.ranges import Range, choose_range
from alexnet_deploy.quantization.refined import WeightRounder
from alexnet_deploy.quantization.scales import UINT8_STEPS
from alexnet_deploy.quantization.weights import INT8_LIMIT
from alexnet_deploy.types import Precision, Progress

_PADS_GAIN = 1.25  # 1 dB
_LEAST_SHIFTED = 2.0**-4  # below that float16 has no numbers for the scale that would be exact


class Way(NamedTuple):
    """A way to treat channels: with these factors, as Calibration has them."""

    factors: Factors
    histograms: dict[str, Histogram]
    weights: WeightRounder

    def ranges(self, method: str, shifted: Collection[str] = ()) -> dict[str, Range]:
        return ranges_of(self.histograms, method, shifted)


class Shift(NamedTuple):
    """Tensors to shift, and how many times less the error must become."""

    tensors: tuple[str, ...]
    gain: float


class Choice(NamedTuple):
    """What is used; `errors` of all methods in that way, with all steps of int8 in use."""

    way: Way
    method: str
    shifted: tuple[str, ...]
    errors: dict[str, float]


def choose(trial: Trial, ways: Sequence[Way], methods: Sequence[str], shifts: Sequence[Shift], progress: Progress) -> Choice:
    """Whatever has the least error: of all methods in all ways, with all steps of int8 in use; then with less of it shifted.

    In the CPU form all 255 steps are in use in any case, so that this order of the methods is the right one for both forms.
    """
    most = shifts[-1].tensors if shifts else ()
    errors: list[dict[str, float]] = [{} for _ in ways]
    for number, (way, method) in enumerate(product(ways, methods)):
        progress("choose method", number, len(ways) * len(methods))
        errors[number // len(methods)][method] = trial.error(way, method, most)
    progress("choose method", len(ways) * len(methods), len(ways) * len(methods))
    way, found = min(zip(ways, errors, strict=True), key=lambda pair: min(pair[1].values()))
    method = min(found, key=found.__getitem__)
    shifted: tuple[str, ...] = ()
    least = trial.error(way, method) if shifts else found[method]
    for shift in shifts:
        error = found[method] if shift.tensors == most else trial.error(way, method, shift.tensors)
        if error * shift.gain < least:
            shifted, least = shift.tensors, error
    return Choice(way, method, shifted, found)


def shifts_of(model: ModelProto, histograms: dict[str, Histogram]) -> Iterator[Shift]:
    """Each with more tensors than the one before: what is not padded costs next to nothing, a Pad must be worth it."""
    padding = shiftable(model, find_layers(model))
    names = [name for name in padding if _is_one_sided(histograms[name])]
    unpadded = tuple(name for name in names if not padding[name])
    if unpadded:
        yield Shift(unpadded, 1.0)
    if len(names) > len(unpadded):
        yield Shift(tuple(names), _PADS_GAIN)


def _is_one_sided(histogram: Histogram) -> bool:
    return histogram.high >= _LEAST_SHIFTED and -histogram.low <= histogram.high / 2


class Trial:
    """Quantised versions of one graph, compared with it at the logits on pictures held back."""

    def __init__(self, model: ModelProto, manifest: Manifest, pictures: PictureSet, batch_size: int) -> None:
        self._model, self._layers = model, find_layers(model)
        self._manifest, self._pictures, self._batch_size = manifest, pictures, batch_size
        self._reference = self._run(model)

    def _run(self, graph: ModelProto) -> npt.NDArray[np.float32]:
        return logits(graph, self._manifest, self._pictures, self._batch_size)

    def error(self, way: Way, method: str, shifted: Collection[str] = ()) -> float:
        """Of a method, with the weights rounded as they will be."""
        weights = way.weights.quantised(self._model, self._layers, Precision.INT8)
        graph = tensorrt_form(
            self._model, self._layers, way.ranges(method, shifted), weights, factors=way.factors, shifted=shifted
        )
        return typical_error(self._reference, self._run(graph))


def ranges_of(histograms: dict[str, Histogram], method: str, shifted: Collection[str] = ()) -> dict[str, Range]:
    """The ranges of all tensors, of which those in `shifted` will be stored with all 255 steps between their ends."""
    return {
        name: choose_range(histogram, method, _steps(histogram) if name in shifted else INT8_LIMIT)
        for name, histogram in histograms.items()
    }


def _steps(histogram: Histogram) -> int:
    """Of 255 over the whole range, those between zero and its farther end."""
    far, near = max(-histogram.low, histogram.high), min(-histogram.low, histogram.high)
    return round(UINT8_STEPS * far / (far + near)) if far + near > 0 else INT8_LIMIT
