"""Pictures in, the range of every activation out.

One pass over the pictures, in memory that does not depend on their number: each batch goes through the float32 graph, each
tensor of interest into a histogram of fixed size (see `histogram`), and is dropped. Ranges are chosen from the histograms
afterwards (see `ranges`), so that trying another method costs no other pass. Graphs with tensors whose channels may be
balanced (see `balance`) are looked at with a few pictures before.

    calibration = calibrate(Artifact.open("alexnet.onnx"), PictureSet.open("photos/train"))
    quantize(model, "alexnet.int8.onnx", Precision.INT8, calibration=calibration)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from alexnet_deploy.errors import CalibrationError
from alexnet_deploy.manifest import Artifact, CalibrationRecord, Manifest, picture_digits
from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.onnx_graph.session import Array, GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.balance import Channels, Factors, balanceable, choose_factors, taken_out
from alexnet_deploy.quantization.fitness import check_pictures, warn_of_noise
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.layers import Layer, find_layers
from alexnet_deploy.quantization.qdq import UINT8_STEPS, observed_tensors, shiftable, tensorrt_form
from alexnet_deploy.quantization.ranges import AUTO_CANDIDATES, Range, choose_range, method_name
from alexnet_deploy.quantization.rounding import Moments, moments_of, refine
from alexnet_deploy.quantization.weights import INT8_LIMIT, QuantisedWeight, quantise_weight
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

_HELD_BACK_SHARE = 4  # one picture in four ...
_HELD_BACK_MOST = 128  # ... but no more than this many
_EXPOSED_BYTES = 64 << 20
_NO_FACTORS: Factors = {}
_PADS_GAIN = 1.25  # 1 dB
_LEAST_SHIFTED = 2.0**-4  # below that float16 has no numbers for the scale that would be exact
_SHOWN_BINS = 120
_ROUNDING_PICTURES, _ROUNDING_BATCH = 256, 32
_BALANCING_PICTURES, _BALANCING_BATCH = 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How the values of one activation are distributed, and the range of them that is kept.

    Attributes:
        tensor: its name in the graph.
        low, high: the smallest and largest value seen.
        counts: shares of all values in equally wide bins from `low` to `high`.
        kept: the range that was chosen; what lies outside is clipped.

    Channels that are balanced are counted as wide as the widest.
    """

    tensor: str
    low: float
    high: float
    counts: tuple[float, ...]
    kept: Range


class Weights(Protocol):
    """Where the 8-bit weights of a graph come from."""

    def quantised(
        self, graph: ModelProto, layers: Sequence[Layer], precision: Precision, *, limit: int = ..., progress: Progress = ...
    ) -> dict[str, QuantisedWeight]:
        """As `weights.quantise_weights`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was learnt from a set of pictures about one graph.

    Attributes:
        record: for the manifest: data, method, seed, recipe and the chosen ranges.
        histograms: of every observed tensor, by name, times its factors.
        model_sha256: of the graph that the ranges belong to.
        weights: the weights, rounded with the help of some of the pictures, the factors taken out.
        errors: for each method that was tried, the `typical_error` of the logits on pictures held back, with all tensors shifted
            that may be; empty unless the method was chosen by "auto".
        factors: of the tensors whose channels are balanced.
    """

    record: CalibrationRecord
    histograms: dict[str, Histogram]
    model_sha256: str
    weights: Weights
    errors: dict[str, float]
    factors: Factors = field(default_factory=dict)

    @property
    def ranges(self) -> dict[str, Range]:
        """(low, high) of every observed tensor, by name, as the TensorRT form takes them."""
        return self.record.ranges

    def distributions(self) -> tuple[Distribution, ...]:
        """What was seen, for looking at: a tensor each, in the order of the graph."""
        found = []
        for tensor, kept in self.ranges.items():
            if tensor in self.histograms:
                values, weights = self.histograms[tensor].bins().points()
                counts, edges = np.histogram(values, _SHOWN_BINS, weights=weights)
                shares = tuple(round(float(share), 8) for share in counts)
                found.append(Distribution(tensor=tensor, low=float(edges[0]), high=float(edges[-1]), counts=shares, kept=kept))
        return tuple(found)

    def ranges_for(self, form: GraphForm) -> dict[str, Range]:
        """The ranges for one form. Only mse tells them apart: with more steps above zero, as the CPU has, clipping pays less."""
        if form is GraphForm.TENSORRT or not self.histograms:
            return self.ranges
        return _ranges(self.histograms, self.record.method, self.histograms)


class WeightRounder:
    """The 8-bit weights of one graph, refined by what its layers see (see `rounding`); made when first asked for, then kept.

    None of the pictures is one of those that `auto` compares methods by.
    """

    def __init__(self, model: Artifact, pictures: PictureSet, factors: Factors) -> None:
        self._model = model
        self._pictures = pictures
        self._factors = factors
        self._moments: dict[str, Moments] = {}
        self._made: dict[tuple[str, Precision, int], QuantisedWeight] = {}

    def quantised(
        self,
        graph: ModelProto,
        layers: Sequence[Layer],
        precision: Precision,
        *,
        limit: int = INT8_LIMIT,
        progress: Progress = silent,
    ) -> dict[str, QuantisedWeight]:
        """As `weights.quantise_weights`, with the least error of each layer's output."""
        if not self._moments:
            self._moments = self._observe(graph)
        stored = edit.initialisers(graph.graph)
        for done, layer in enumerate(layers):
            key = (layer.weight, precision, limit)
            if key not in self._made:
                progress("round weights", done, len(layers))
                values = edit.array(stored[layer.weight])
                if layer.data in self._factors:
                    values = taken_out(values, layer, self._factors[layer.data])
                moments = self._moments.get(layer.name)
                self._made[key] = (
                    quantise_weight(values, layer.channel_axis, precision, limit=limit)
                    if moments is None
                    else refine(values, layer.channel_axis, moments, precision, limit=limit)
                )
        progress("round weights", len(layers), len(layers))
        return {layer.weight: self._made[layer.weight, precision, limit] for layer in layers}

    def _observe(self, graph: ModelProto) -> dict[str, Moments]:
        layers = find_layers(graph)
        moments = moments_of(graph, layers)
        given = graph.graph.input[0].name
        runner = GraphRunner(graph, [d for d in dict.fromkeys(x.data for x in layers) if d != given])
        few = _some(self._pictures, _ROUNDING_PICTURES)
        for feed, rows in feeds(few, self._model.manifest, _ROUNDING_BATCH):
            values = dict(zip(runner.outputs, runner.run(feed), strict=True)) | {given: feed}
            for layer in layers:
                if layer.name in moments:
                    data = values[layer.data][:rows].astype(np.float32)
                    moments[layer.name].add(data * self._factors[layer.data] if layer.data in self._factors else data)
        return moments


def calibrate(
    model: Artifact,
    pictures: PictureSet,
    *,
    method: str = "auto",
    count: int = 512,
    batch_size: int = 16,
    seed: int = 0,
    shift: bool = True,
    progress: Progress = silent,
) -> Calibration:
    """Observes the activations of a float32 graph.

    Args:
        model: the graph, with the recipe for its pictures in the manifest.
        pictures: real pictures of the kind that the model will see; labels are not used.
        method: "minmax", "percentile" or "percentile-99.9", "entropy", "mse", or "auto": whichever of these has the least
            error at the output of the quantised graph, on a quarter of the pictures that is held back for it.
        count: pictures to use at most, drawn with `seed`, evenly over the classes.
        batch_size: pictures a run; the result does not depend on it. Fewer are used where activations are very large.
        shift: let TensorRT's form shift tensors that are hardly ever negative to the middle of int8 (see `qdq.shiftable`);
            "auto" does so only where it lowers that error.

    Raises:
        CalibrationError: too few different pictures, or the graph computes NaN or infinity from them.
        PictureError: a picture cannot be read; the error names it.
        ModelError: the graph has no layer to quantise.
        InputError: there is no such method.
    """
    chosen_by: Literal["request", "auto"] = "auto" if method == "auto" else "request"
    candidates = AUTO_CANDIDATES if method == "auto" else (method_name(method),)
    pictures = pictures.sample(count, seed)
    hashes = check_pictures(pictures)
    warn_of_noise(pictures)
    graph = load_graph(model.path)
    observed, held_back = _split(pictures, hashes) if method == "auto" else (pictures, None)

    factors = _factors(graph, model.manifest, pictures)
    observer = observe(graph, model.manifest, observed, batch_size, factors, progress)
    ways = [
        _Way(each, observer.histograms | {name: observer.multiplied[name] for name in each}, WeightRounder(model, pictures, each))
        for each in ((factors, _NO_FACTORS) if factors and held_back is not None else (factors,))
    ]
    shifts = tuple(_shifts(graph, observer.histograms)) if shift else ()
    if held_back is None:
        choice = _Choice(ways[0], candidates[0], shifts[-1].tensors if shifts else (), {})
    else:
        choice = _choose(_Trial(graph, model.manifest, held_back, batch_size), ways, candidates, shifts, progress)
    record = CalibrationRecord(
        data=pictures.reference(),
        method=choice.method,
        chosen_by=chosen_by,
        seed=seed,
        preprocess_sha256=model.manifest.preprocess.digest(),
        ranges=choice.way.ranges(choice.method, choice.shifted),
        balanced=tuple(choice.way.factors),
        shifted=choice.shifted,
        pictures=picture_digits(hashes),
    )
    way = choice.way
    return Calibration(record, way.histograms, model.manifest.sha256, way.weights, choice.errors, way.factors)


def observe(
    model: ModelProto,
    manifest: Manifest,
    pictures: PictureSet,
    batch_size: int = 16,
    factors: Factors = _NO_FACTORS,
    progress: Progress = silent,
) -> Observer:
    """Histograms of the tensors that quantisation needs (`qdq.observed_tensors`), over all pictures.

    Raises:
        CalibrationError: a tensor held NaN or infinity.
    """
    observer = Observer(model, manifest, factors)
    observer.add(pictures, batch_size, progress)
    for name, histogram in observer.histograms.items():
        if not histogram.finite:
            raise CalibrationError(
                f"{name} holds NaN or infinity for some calibration pictures",
                expected="a graph that computes finite numbers",
                fix="alexnet-deploy verify the model, and check the preprocessing in its manifest",
            )
    return observer


class Observer:
    """A graph opened for looking at its activations.

    Attributes:
        histograms: of each tensor that quantisation needs, over everything that was added.
        multiplied: of the tensors with factors, times these.
    """

    def __init__(self, model: ModelProto, manifest: Manifest, factors: Factors = _NO_FACTORS) -> None:
        tensors = observed_tensors(model, find_layers(model))
        self.histograms = {name: Histogram() for name in tensors}
        self.multiplied = {name: Histogram() for name in factors}
        self._factors = factors
        self._manifest = manifest
        self._given = model.graph.input[0].name
        self._runner = GraphRunner(model, [name for name in tensors if name != self._given])

    def add(self, pictures: PictureSet, batch_size: int = 16, progress: Progress = silent) -> None:
        """Runs the graph on every picture, in smaller batches where the activations would take too much memory."""
        batch_size = min(batch_size, max(1, _EXPOSED_BYTES // _exposed_bytes(self._runner, self._manifest, pictures)))
        done = 0
        for feed, rows in feeds(pictures, self._manifest, batch_size):
            values = dict(zip(self._runner.outputs, self._runner.run(feed), strict=True)) | {self._given: feed}
            for name, histogram in self.histograms.items():
                histogram.add(values[name][:rows])
            for name, histogram in self.multiplied.items():
                histogram.add(values[name][:rows] * self._factors[name])
            done += rows
            progress("calibrate", done, len(pictures))


def feeds(pictures: PictureSet, manifest: Manifest, batch_size: int) -> Iterator[tuple[Array, int]]:
    """Batches as the graph takes them, and how many rows of each are pictures: where the graph wants more, the last repeats."""
    batch = manifest.batch
    batch_size = min(max(batch_size, batch.min), batch.max)
    made = pictures.pixels if manifest.input.dtype == "uint8" else pictures.batches
    for values, labels in made(manifest.preprocess, batch_size):
        padding = [values[-1:]] * (batch.min - len(values))
        yield (np.concatenate([values, *padding]) if padding else values), len(labels)


def logits_of(model: ModelProto) -> str:
    """The tensor to compare two graphs by: the logits, also where the graph goes on to probabilities."""
    result = model.graph.output[0].name
    last = edit.producers(model.graph)[result]
    return str(last.input[0]) if last.op_type in ("Softmax", "LogSoftmax") else result


def logits(model: ModelProto, manifest: Manifest, pictures: PictureSet, batch_size: int = 16) -> npt.NDArray[np.float32]:
    """What a graph in memory answers, float32 (N, classes); Q/DQ as written."""
    runner = GraphRunner(model, [logits_of(model)])
    rows = [runner.run(feed)[0][:count] for feed, count in feeds(pictures, manifest, batch_size)]
    return np.concatenate(rows).reshape(len(pictures), -1).astype(np.float32)


def relative_error(reference: Array, candidate: Array) -> float:
    """Noise power over signal power of logits; what is common to all classes of a picture counts for neither."""
    signal = reference - reference.mean(axis=1, keepdims=True)
    noise = candidate - candidate.mean(axis=1, keepdims=True) - signal
    power = float(np.square(signal, dtype=np.float64).sum())
    return float(np.square(noise, dtype=np.float64).sum()) / max(power, float(np.finfo(np.float64).tiny))


def typical_error(reference: Array, candidate: Array) -> float:
    """As `relative_error`, of a typical picture: the geometric mean over all of them, which no single one can decide."""
    each = [relative_error(*pair) for pair in zip(reference[:, None], candidate[:, None], strict=True)]
    return float(np.exp(np.log(np.maximum(each, np.finfo(np.float32).tiny)).mean()))


def _ranges(histograms: dict[str, Histogram], method: str, shifted: Collection[str] = ()) -> dict[str, Range]:
    """The ranges of all tensors, of which those in `shifted` will be stored with all 255 steps between their ends."""
    return {
        name: choose_range(histogram, method, _steps(histogram) if name in shifted else INT8_LIMIT)
        for name, histogram in histograms.items()
    }


def _steps(histogram: Histogram) -> int:
    """Of 255 over the whole range, those between zero and its farther end."""
    far, near = max(-histogram.low, histogram.high), min(-histogram.low, histogram.high)
    return round(UINT8_STEPS * far / (far + near)) if far + near > 0 else INT8_LIMIT


def _factors(model: ModelProto, manifest: Manifest, pictures: PictureSet) -> dict[str, Array]:
    """What the channels of each tensor are multiplied by, where that is predicted to help; most graphs have no such tensor."""
    layers = find_layers(model)
    names = balanceable(model, layers, observed_tensors(model, layers))
    if not names:
        return {}
    runner = GraphRunner(model, names)
    channels = {name: Channels() for name in names}
    for feed, rows in feeds(_some(pictures, _BALANCING_PICTURES), manifest, _BALANCING_BATCH):
        for name, values in zip(runner.outputs, runner.run(feed), strict=True):
            channels[name].add(values[:rows])
    return choose_factors(model, layers, channels)


class _Way(NamedTuple):
    """A way to treat channels: with these factors, as Calibration has them."""

    factors: Factors
    histograms: dict[str, Histogram]
    weights: WeightRounder

    def ranges(self, method: str, shifted: Collection[str] = ()) -> dict[str, Range]:
        return _ranges(self.histograms, method, shifted)


class _Shift(NamedTuple):
    """Tensors to shift, and how many times less the error must become."""

    tensors: tuple[str, ...]
    gain: float


class _Choice(NamedTuple):
    way: _Way
    method: str
    shifted: tuple[str, ...]
    errors: dict[str, float]


def _choose(trial: _Trial, ways: Sequence[_Way], methods: Sequence[str], shifts: Sequence[_Shift], progress: Progress) -> _Choice:
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
    return _Choice(way, method, shifted, found)


def _shifts(model: ModelProto, histograms: dict[str, Histogram]) -> Iterator[_Shift]:
    """Each with more tensors than the one before: what is not padded costs next to nothing, a Pad must be worth it."""
    padding = shiftable(model, find_layers(model))
    names = [name for name in padding if _is_one_sided(histograms[name])]
    unpadded = tuple(name for name in names if not padding[name])
    if unpadded:
        yield _Shift(unpadded, 1.0)
    if len(names) > len(unpadded):
        yield _Shift(tuple(names), _PADS_GAIN)


def _is_one_sided(histogram: Histogram) -> bool:
    return histogram.high >= _LEAST_SHIFTED and -histogram.low <= histogram.high / 2


class _Trial:
    """Quantised versions of one graph, compared with it at the logits on pictures held back."""

    def __init__(self, model: ModelProto, manifest: Manifest, pictures: PictureSet, batch_size: int) -> None:
        self._model, self._layers = model, find_layers(model)
        self._manifest, self._pictures, self._batch_size = manifest, pictures, batch_size
        self._reference = self._run(model)

    def _run(self, graph: ModelProto) -> npt.NDArray[np.float32]:
        return logits(graph, self._manifest, self._pictures, self._batch_size)

    def error(self, way: _Way, method: str, shifted: Collection[str] = ()) -> float:
        """Of a method, with the weights rounded as they will be."""
        weights = way.weights.quantised(self._model, self._layers, Precision.INT8)
        graph = tensorrt_form(
            self._model, self._layers, way.ranges(method, shifted), weights, factors=way.factors, shifted=shifted
        )
        return typical_error(self._reference, self._run(graph))


def _split(pictures: PictureSet, hashes: Sequence[str]) -> tuple[PictureSet, PictureSet]:
    """(to observe, held back), by content: the same pictures in another order are split the same way."""
    order = np.argsort(np.array(hashes), kind="stable")
    held_back = min(len(pictures) // _HELD_BACK_SHARE, _HELD_BACK_MOST)
    return pictures.subset(np.sort(order[held_back:])), pictures.subset(np.sort(order[:held_back]))


def _some(pictures: PictureSet, count: int) -> PictureSet:
    """`count` pictures, the same and in the same order however the set is ordered; none of those that `_split` holds back."""
    observed, _ = _split(pictures, pictures.content_hashes())
    return observed.subset(np.argsort(np.array(observed.content_hashes()), kind="stable")[::-1][:count])


def _exposed_bytes(runner: GraphRunner, manifest: Manifest, pictures: PictureSet) -> int:
    """Bytes of all outputs for one picture, found by running the smallest batch."""
    feed, _ = next(feeds(pictures, manifest, 1))
    return max(1, sum(value.nbytes for value in runner.run(feed)) // len(feed))
