"""Pictures in, the range of every activation out.

One pass over the pictures, in memory that does not depend on their number: each batch goes through the float32 graph, each
tensor of interest into a histogram of fixed size (see `histogram`), and is dropped. Ranges are chosen from the histograms
afterwards (see `ranges`), so that trying another method costs no other pass.

    calibration = calibrate(Artifact.open("alexnet.onnx"), PictureSet.open("photos/train"))
    quantize(model, "alexnet.int8.onnx", Precision.INT8, calibration=calibration)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from alexnet_deploy.errors import CalibrationError
from alexnet_deploy.manifest import Artifact, CalibrationRecord, Manifest, picture_digits
from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.onnx_graph.session import Array, GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.fitness import check_pictures, warn_of_noise
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.layers import Layer, find_layers
from alexnet_deploy.quantization.qdq import UINT8_STEPS, observed_tensors, tensorrt_form
from alexnet_deploy.quantization.ranges import AUTO_CANDIDATES, Range, choose_range, method_name
from alexnet_deploy.quantization.rounding import Moments, moments_of, refine
from alexnet_deploy.quantization.weights import INT8_LIMIT, QuantisedWeight, quantise_weight, quantise_weights
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

_HELD_BACK_SHARE = 4  # one picture in four ...
_HELD_BACK_MOST = 128  # ... but no more than this many
_EXPOSED_BYTES = 64 << 20
_SHOWN_BINS = 120
_ROUNDING_PICTURES, _ROUNDING_BATCH = 256, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How the values of one activation are distributed, and the range of them that is kept.

    Attributes:
        tensor: its name in the graph.
        low, high: the smallest and largest value seen.
        counts: shares of all values in equally wide bins from `low` to `high`.
        kept: the range that was chosen; what lies outside is clipped.
    """

    tensor: str
    low: float
    high: float
    counts: tuple[float, ...]
    kept: Range


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was learnt from a set of pictures about one graph.

    Attributes:
        record: for the manifest: data, method, seed, recipe and the chosen ranges.
        histograms: of every observed tensor, by name.
        model_sha256: of the graph that the ranges belong to.
        weights: the weights, rounded with the help of some of the pictures.
        errors: for each method that was tried, the relative error of the logits on pictures held back
            (noise power over signal power); empty unless the method was chosen by "auto".
    """

    record: CalibrationRecord
    histograms: dict[str, Histogram]
    model_sha256: str
    weights: WeightRounder
    errors: dict[str, float]

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
        """The ranges for one form. Only mse tells them apart: with 255 steps above zero, as the CPU has, clipping pays less."""
        if form is GraphForm.TENSORRT or self.record.method != "mse":
            return self.ranges
        return {
            name: choose_range(histogram, "mse", UINT8_STEPS) if histogram.low >= 0 else self.ranges[name]
            for name, histogram in self.histograms.items()
        }


class WeightRounder:
    """The 8-bit weights of one graph, refined by what its layers see (see `rounding`); made when first asked for, then kept."""

    def __init__(self, model: Artifact, pictures: PictureSet) -> None:
        self._model = model
        self._pictures = pictures
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
        few = _by_content(self._pictures, _ROUNDING_PICTURES)
        for feed, rows in feeds(few, self._model.manifest, _ROUNDING_BATCH):
            values = dict(zip(runner.outputs, runner.run(feed), strict=True)) | {given: feed}
            for layer in layers:
                if layer.name in moments:
                    moments[layer.name].add(values[layer.data][:rows].astype(np.float32))
        return moments


def calibrate(
    model: Artifact,
    pictures: PictureSet,
    *,
    method: str = "auto",
    count: int = 512,
    batch_size: int = 16,
    seed: int = 0,
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

    histograms = observe(graph, model.manifest, observed, batch_size, progress)
    ranges = {name: _ranges(histograms, name) for name in candidates}
    errors: dict[str, float] = {}
    if held_back is not None:
        errors = _output_errors(graph, model.manifest, ranges, held_back, batch_size, progress)
    best = min(errors, key=errors.__getitem__) if errors else candidates[0]
    record = CalibrationRecord(
        data=pictures.reference(),
        method=best,
        chosen_by=chosen_by,
        seed=seed,
        preprocess_sha256=model.manifest.preprocess.digest(),
        ranges=ranges[best],
        pictures=picture_digits(hashes),
    )
    return Calibration(record, histograms, model.manifest.sha256, WeightRounder(model, pictures), errors)


def observe(
    model: ModelProto, manifest: Manifest, pictures: PictureSet, batch_size: int = 16, progress: Progress = silent
) -> dict[str, Histogram]:
    """Histograms of the tensors that quantisation needs (`qdq.observed_tensors`), over all pictures.

    Raises:
        CalibrationError: a tensor held NaN or infinity.
    """
    observer = Observer(model, manifest)
    observer.add(pictures, batch_size, progress)
    for name, histogram in observer.histograms.items():
        if not histogram.finite:
            raise CalibrationError(
                f"{name} holds NaN or infinity for some calibration pictures",
                expected="a graph that computes finite numbers",
                fix="alexnet-deploy verify the model, and check the preprocessing in its manifest",
            )
    return observer.histograms


class Observer:
    """A graph opened for looking at its activations.

    Attributes:
        histograms: of each tensor that quantisation needs, over everything that was added.
    """

    def __init__(self, model: ModelProto, manifest: Manifest) -> None:
        tensors = observed_tensors(model, find_layers(model))
        self.histograms = {name: Histogram() for name in tensors}
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


def _ranges(histograms: dict[str, Histogram], method: str) -> dict[str, Range]:
    return {name: choose_range(histogram, method) for name, histogram in histograms.items()}


def _output_errors(
    model: ModelProto,
    manifest: Manifest,
    ranges: dict[str, dict[str, Range]],
    pictures: PictureSet,
    batch_size: int,
    progress: Progress,
) -> dict[str, float]:
    """For each method, how far the logits of the quantised graph are from the float ones."""
    layers = find_layers(model)
    weights = quantise_weights(model, layers, Precision.INT8)
    reference = logits(model, manifest, pictures, batch_size)
    errors = {}
    for done, (method, chosen) in enumerate(ranges.items()):
        progress("choose method", done, len(ranges))
        candidate = logits(tensorrt_form(model, layers, chosen, weights), manifest, pictures, batch_size)
        errors[method] = relative_error(reference, candidate)
    progress("choose method", len(ranges), len(ranges))
    return errors


def _split(pictures: PictureSet, hashes: Sequence[str]) -> tuple[PictureSet, PictureSet]:
    """(to observe, held back), by content: the same pictures in another order are split the same way."""
    order = np.argsort(np.array(hashes), kind="stable")
    held_back = min(len(pictures) // _HELD_BACK_SHARE, _HELD_BACK_MOST)
    return pictures.subset(np.sort(order[held_back:])), pictures.subset(np.sort(order[:held_back]))


def _by_content(pictures: PictureSet, count: int) -> PictureSet:
    """`count` pictures, the same and in the same order however the set is ordered; not those that `_split` holds back."""
    return pictures.subset(np.argsort(np.array(pictures.content_hashes()), kind="stable")[::-1][:count])


def _exposed_bytes(runner: GraphRunner, manifest: Manifest, pictures: PictureSet) -> int:
    """Bytes of all outputs for one picture, found by running the smallest batch."""
    feed, _ = next(feeds(pictures, manifest, 1))
    return max(1, sum(value.nbytes for value in runner.run(feed)) // len(feed))
