"""Pictures in, the range of every activation out.

One pass over the pictures, in memory that does not depend on their number: each batch goes through the float32 graph, each
tensor of interest into a histogram of fixed size (see `histogram`), and is dropped. Ranges are chosen from the histograms
afterwards (see `ranges`), so that trying another method costs no other pass. Graphs with tensors whose channels may be
balanced (see `balance`) are looked at with a few pictures before.

    calibration = calibrate(Artifact.open("alexnet.onnx"), PictureSet.open("photos/train"))
    quantize(model, "alexnet.int8.onnx", Precision.INT8, calibration=calibration)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from onnx import ModelProto

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.manifest import CalibrationRecord, picture_digits
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.balance import NO_FACTORS, Factors
from alexnet_deploy.quantization.choice import Choice, Trial, Way, choose, ranges_of, shifts_of
from alexnet_deploy.quantization.feeding import split
from alexnet_deploy.quantization.fitness import check_pictures, warn_of_noise
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.layers import Layer
from alexnet_deploy.quantization.observation import channel_factors, observe
from alexnet_deploy.quantization.ranges import AUTO_CANDIDATES, Range, method_name
from alexnet_deploy.quantization.refined import WeightRounder
from alexnet_deploy.quantization.weights import QuantisedWeight
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

_SHOWN_BINS = 120


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
        self,
        graph: ModelProto,
        layers: Sequence[Layer],
        precision: Precision,
        *,
        limit: int = ...,
        factors: Factors = ...,
        progress: Progress = ...,
    ) -> dict[str, QuantisedWeight]:
        """The weights of `layers`, by the name of their initialiser.

        Args:
            precision: INT8 or FP8.
            limit: the largest int8 magnitude to use.
            factors: taken out of the weights; of further tensors than those the calibration balances.
        """
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
        return ranges_of(self.histograms, self.record.method, self.histograms)


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
    observed, held_back = split(pictures, hashes) if method == "auto" else (pictures, None)

    factors = channel_factors(graph, model.manifest, pictures)
    observer = observe(graph, model.manifest, observed, batch_size, factors, progress)
    ways = [
        Way(each, observer.histograms | {name: observer.multiplied[name] for name in each}, WeightRounder(model, pictures, each))
        for each in ((factors, NO_FACTORS) if factors and held_back is not None else (factors,))
    ]
    shifts = tuple(shifts_of(graph, observer.histograms)) if shift else ()
    if held_back is None:
        choice = Choice(ways[0], candidates[0], shifts[-1].tensors if shifts else (), {})
    else:
        choice = choose(Trial(graph, model.manifest, held_back, batch_size), ways, candidates, shifts, progress)
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
