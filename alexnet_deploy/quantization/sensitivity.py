"""What each layer's quantisation costs, and which layers are better left alone.

A layer's cost is measured with that layer quantised and every other in float32, at the logits: the share of noise there
needs no labels, and adds up over layers well enough to order them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.logs import logger
from alexnet_deploy.machine import has_vnni
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.balance import NO_FACTORS
from alexnet_deploy.quantization.calibration import Calibration
from alexnet_deploy.quantization.comparison import logits, relative_error
from alexnet_deploy.quantization.layers import Layer, find_layers
from alexnet_deploy.quantization.pixels import equal_steps, read_pixels
from alexnet_deploy.quantization.qdq import cpu_form, tensorrt_form
from alexnet_deploy.quantization.weights import INT8_LIMIT, REDUCED_LIMIT
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

AUTO_AGREEMENT = 0.99
_AUTO_MOST = 3  # `--skip auto` leaves at most a third of the layers alone: beyond that FP16 is the better answer

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """What quantising this one layer does to the network's answers.

    Attributes:
        layer, op: the layer.
        sqnr_db: at the logits: signal power over noise power, in decibels; higher is better.
        agreement: share of pictures whose top-1 class stays.
        top1_change: of accuracy, in percentage points, negative for a loss; None without labels.
    """

    layer: str
    op: str
    sqnr_db: float
    agreement: float
    top1_change: float | None


class Trials:
    """Quantised versions of one graph, made in memory and run on the same pictures; weights are rounded once.

    Attributes:
        layers: what can be quantised.
        reference: the float32 graph's logits, (N, classes).
    """

    def __init__(
        self,
        model: Artifact,
        calibration: Calibration,
        pictures: PictureSet,
        *,
        precision: Precision = Precision.INT8,
        form: GraphForm = GraphForm.TENSORRT,
    ) -> None:
        self._manifest = model.manifest
        self._graph = load_graph(model.path)
        self._ranges, self._shifted = calibration.ranges_for(form), calibration.record.shifted
        self._pictures = pictures
        self._precision, self._form = precision, form
        self.layers: tuple[Layer, ...] = find_layers(self._graph)
        limit = REDUCED_LIMIT if form is GraphForm.CPU and not has_vnni() else INT8_LIMIT
        steps = equal_steps(self._graph, self.layers, calibration.factors) if form is GraphForm.CPU else NO_FACTORS
        self._factors = {**calibration.factors, **steps}
        self._weights = calibration.weights.quantised(self._graph, self.layers, precision, limit=limit, factors=steps)
        self.reference: Logits = logits(self._graph, self._manifest, pictures)

    def run(self, skipped: Collection[str]) -> Logits:
        """The logits with every layer quantised but `skipped`."""
        chosen = [layer for layer in self.layers if layer.name not in skipped]
        if not chosen:
            return self.reference
        if self._form is GraphForm.CPU:
            graph = cpu_form(self._graph, chosen, self._ranges, self._weights, self._factors)
            read_pixels(graph)
        else:
            graph = tensorrt_form(self._graph, chosen, self._ranges, self._weights, self._precision, self._factors, self._shifted)
        return logits(graph, self._manifest, self._pictures)


def measure(trials: Trials, labels: Labels | None = None, progress: Progress = silent) -> tuple[LayerSensitivity, ...]:
    """One entry a layer, in the graph's order.

    Args:
        labels: the right class of each picture, -1 where unknown; None for no accuracies.
    """
    names = {layer.name for layer in trials.layers}
    table = []
    for done, layer in enumerate(trials.layers):
        progress("sensitivity", done, len(trials.layers))
        answer = trials.run(names - {layer.name})
        table.append(
            LayerSensitivity(
                layer=layer.name,
                op=layer.op,
                sqnr_db=sqnr_db(trials.reference, answer),
                agreement=agreement(trials.reference, answer),
                top1_change=None if labels is None else top1_change(trials.reference, answer, labels),
            )
        )
    progress("sensitivity", len(trials.layers), len(trials.layers))
    return tuple(table)


def choose_skip(
    model: Artifact,
    calibration: Calibration,
    pictures: PictureSet,
    *,
    precision: Precision = Precision.INT8,
    target: float = AUTO_AGREEMENT,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """The layers that `--skip auto` leaves alone: the most sensitive, as few as give `target` agreement with float32.

    Args:
        pictures: any of the right kind; labels are not used.

    Returns:
        Names, the most sensitive first; at most a third of all layers, even where that is not enough.
    """
    trials = Trials(model, calibration, pictures, precision=precision)
    most = len(trials.layers) // _AUTO_MOST
    if agreement(trials.reference, trials.run(())) >= target:
        return ()
    order = worst_first(measure(trials, progress=progress))
    for count in range(1, most + 1):
        reached = agreement(trials.reference, trials.run(order[:count]))
        log.info("%d layers left alone: %.1f %% agree with float32", count, 100 * reached)
        if reached >= target:
            return order[:count]
    return order[:most]


def worst_first(table: Sequence[LayerSensitivity]) -> tuple[str, ...]:
    """Names of layers, the one that adds most noise first."""
    return tuple(row.layer for row in sorted(table, key=lambda row: row.sqnr_db))


def sqnr_db(reference: Logits, candidate: Logits) -> float:
    """Signal over noise of logits in decibels, at most 200."""
    return float(-10 * np.log10(max(relative_error(reference, candidate), 1e-20)))


def agreement(reference: Logits, candidate: Logits) -> float:
    """Share of pictures with the same top-1 class."""
    return float((reference.argmax(axis=1) == candidate.argmax(axis=1)).mean())


def top1_change(reference: Logits, candidate: Logits, labels: Labels) -> float:
    """Accuracy gained (or, negative, lost) in percentage points, over the pictures with a label."""
    known = labels >= 0
    right, now = ((given.argmax(axis=1) == labels)[known] for given in (reference, candidate))
    return 100.0 * float(now.mean() - right.mean())
