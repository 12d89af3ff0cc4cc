"""The calibration of a network that was trained with its rounding (`train --qat`): ranges from the manifest, plain weights."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.quantization.balance import NO_FACTORS, Factors, taken_out
from alexnet_deploy.quantization.calibration import Calibration
from alexnet_deploy.quantization.layers import Layer
from alexnet_deploy.quantization.weights import INT8_LIMIT, QuantisedWeight, quantise_weight
from alexnet_deploy.types import Precision, Progress, silent


def trained_calibration(model: Artifact) -> Calibration | None:
    """What a float32 graph was trained to be quantised by, or None for one that was not."""
    record = model.manifest.calibration
    if record is None:
        return None
    return Calibration(record, {}, model.manifest.sha256, Nearest(), {})


class Nearest:
    """Each weight to the nearest step, as it was in training; any cleverer choice would be another network."""

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
        stored = edit.initialisers(graph.graph)
        found = {}
        for layer in layers:
            values = edit.array(stored[layer.weight])
            if layer.data in factors:
                values = taken_out(values, layer, factors[layer.data])
            found[layer.weight] = quantise_weight(values, layer.channel_axis, precision, limit=limit)
        return found
