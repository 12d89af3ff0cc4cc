"""The weights of a graph, rounded with the help of what its layers see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.session import GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.balance import NO_FACTORS, Factors, taken_out
from alexnet_deploy.quantization.feeding import feeds, of_pictures, some
from alexnet_deploy.quantization.layers import Layer, find_layers
from alexnet_deploy.quantization.rounding import Moments, moments_of, refine
from alexnet_deploy.quantization.weights import INT8_LIMIT, QuantisedWeight, quantise_weight
from alexnet_deploy.types import Precision, Progress, silent

_PICTURES, _BATCH = 256, 32


class WeightRounder:
    """The 8-bit weights of one graph, refined by what its layers see (see `rounding`); made when first asked for, then kept.

    None of the pictures is one of those that `auto` compares methods by.
    """

    def __init__(self, model: Artifact, pictures: PictureSet, factors: Factors) -> None:
        self._model = model
        self._pictures = pictures
        self._factors = factors
        self._moments: dict[str, Moments] = {}
        self._made: dict[tuple[str, Precision, int, bool], QuantisedWeight] = {}

    def quantised(
        self,
        graph: ModelProto,
        layers: Sequence[Layer],
        precision: Precision,
        *,
        limit: int = INT8_LIMIT,
        factors: Factors = NO_FACTORS,
        progress: Progress = silent,
    ) -> dict[str, QuantisedWeight]:
        """As `calibration.Weights` has it, with the least error of each layer's output."""
        if not self._moments:
            self._moments = self._observe(graph)
        stored = edit.initialisers(graph.graph)
        for done, layer in enumerate(layers):
            key = (layer.weight, precision, limit, layer.data in factors)
            if key not in self._made:
                progress("round weights", done, len(layers))
                values = edit.array(stored[layer.weight])
                if layer.data in self._factors:
                    values = taken_out(values, layer, self._factors[layer.data])
                moments = self._moments.get(layer.name)
                if layer.data in factors:
                    values = taken_out(values, layer, factors[layer.data])
                    moments = moments and moments.of_multiplied(factors[layer.data])
                self._made[key] = (
                    quantise_weight(values, layer.channel_axis, precision, limit=limit)
                    if moments is None
                    else refine(values, layer.channel_axis, moments, precision, limit=limit)
                )
        progress("round weights", len(layers), len(layers))
        return {layer.weight: self._made[layer.weight, precision, limit, layer.data in factors] for layer in layers}

    def _observe(self, graph: ModelProto) -> dict[str, Moments]:
        layers = find_layers(graph)
        moments = moments_of(graph, layers)
        given = graph.graph.input[0].name
        runner = GraphRunner(graph, [d for d in dict.fromkeys(x.data for x in layers) if d != given])
        few = some(self._pictures, _PICTURES)
        for feed, rows in feeds(few, self._model.manifest, _BATCH):
            values = dict(zip(runner.outputs, runner.run(feed), strict=True)) | {given: feed}
            for layer in layers:
                if layer.name in moments:
                    data = of_pictures(values[layer.data], rows, len(feed)).astype(np.float32)
                    moments[layer.name].add(data * self._factors[layer.data] if layer.data in self._factors else data)
        return moments
