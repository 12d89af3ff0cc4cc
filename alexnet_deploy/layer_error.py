"""Where in the network an artifact departs from its reference: the error of every layer's output, ONNX against ONNX.

Graphs made from one another keep the names of their tensors, so the same tensor of both is compared, on the same pictures.
The error of a layer holds that of the layers before it: a layer that adds little shows the SQNR of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph import edit, layer_precisions, load_graph
from alexnet_deploy.onnx_graph.session import GraphRunner
from alexnet_deploy.parity_report import LayerError, LayerErrors
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.feeding import feeds, of_pictures
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.qdq import shifted_outputs
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import Precision, Progress, silent

PICTURES = 64


class _Sums:
    """Running sums over batches: nothing grows with the number of pictures."""

    def __init__(self) -> None:
        self.signal = self.noise = self.largest = self.worst = 0.0

    def add(self, reference: npt.NDArray[np.float64], candidate: npt.NDArray[np.float64]) -> None:
        difference = reference - candidate
        self.signal += float(np.square(reference).sum())
        self.noise += float(np.square(difference).sum())
        self.largest = max(self.largest, float(np.abs(reference).max(initial=0.0)))
        self.worst = max(self.worst, float(np.abs(difference).max(initial=0.0)))


def layer_errors(
    reference: Artifact, candidate: Artifact, pictures: PictureSet, *, batch_size: int = 16, progress: Progress = silent
) -> LayerErrors:
    """Compares the output of every Conv, Gemm and MatMul that both graphs have. Q/DQ pairs are computed as they are written.

    Args:
        reference, candidate: ONNX graphs that take the same input; the candidate made from the reference.
        pictures: a few dozen are enough.

    Raises:
        InputError: one is no ONNX graph, their inputs differ, or no layer has the same name in both.
    """
    for artifact in (reference, candidate):
        if artifact.manifest.kind != "onnx":
            raise InputError(
                f"{artifact.path.name} is a {artifact.manifest.kind}: its layers cannot be looked into",
                expected="ONNX graphs, both of them",
                fix="compare the graphs that it was made from or built into, such as alexnet.onnx and alexnet.int8.onnx",
            )
    if (reference.manifest.input, reference.manifest.preprocess) != (candidate.manifest.input, candidate.manifest.preprocess):
        raise InputError(
            f"{reference.path.name} and {candidate.path.name} take different inputs", expected="one made from the other"
        )
    ours, theirs = load_graph(reference.path), load_graph(candidate.path)
    made = edit.producers(theirs.graph)
    shifted = shifted_outputs(theirs)
    layers = [layer for layer in find_layers(ours) if layer.output in made or layer.output in shifted]
    if not layers:
        raise InputError(
            f"{reference.path.name} and {candidate.path.name} have no layer of the same name", expected="one made from the other"
        )
    names = [layer.output for layer in layers]
    called, away = zip(*(shifted.get(name, (name, 0.0)) for name in names), strict=True)
    runners = [GraphRunner(ours, names), GraphRunner(theirs, called)]
    sums = {name: _Sums() for name in names}
    done = 0
    for feed, rows in feeds(pictures, reference.manifest, batch_size):
        left, right = (runner.run(feed) for runner in runners)
        for name, one, other, less in zip(names, left, right, away, strict=True):
            seen, found = (of_pictures(values, rows, len(feed)).astype(np.float64) for values in (one, other))
            sums[name].add(seen, found + less)
        done += rows
        progress(f"layers of {candidate.path.name}", done, len(pictures))
    precisions = {entry.layer: entry.precision for entry in layer_precisions(theirs)}
    return LayerErrors(
        reference=reference.path.name,
        candidate=candidate.path.name,
        pictures=pictures.reference(),
        layers=tuple(
            _layer_error(layer.name, layer.op, precisions.get(layer.name, Precision.FP32), sums[layer.output]) for layer in layers
        ),
    )


def _layer_error(layer: str, op: str, precision: Precision, sums: _Sums) -> LayerError:
    return LayerError(
        layer=layer,
        op=op,
        precision=precision,
        sqnr_db=float(10 * np.log10(max(sums.signal, np.finfo(np.float64).tiny) / sums.noise)) if sums.noise else None,
        relative=sums.worst / sums.largest if sums.largest else float(sums.worst > 0),
    )


def compare_layers(
    reference: Runtime, candidates: Sequence[Runtime], pictures: PictureSet, progress: Progress = silent
) -> tuple[LayerErrors, ...]:
    """`layer_errors` for several candidates, on PICTURES of the pictures; for a plan whose twin runs, the twin's layers, once."""
    chosen = pictures.sample(PICTURES)
    graphs = {each.running.manifest.sha256: each.running for each in candidates}
    return tuple(layer_errors(reference.running, graph, chosen, progress=progress) for graph in graphs.values())
