"""Fully connected layers as two thin ones: what they say about pictures lies in far fewer directions than they have.

    y = W x + b  ~  U (U' W) x + c        W: outputs x inputs, U: outputs x rank

A wide layer's outputs go together: over pictures, nearly all of their variance lies in a few hundred directions of thousands.
U holds the foremost of them (the principal components of y), and c = mean + U U' (b - mean) leaves the others at their mean. No
other product of that rank comes closer to y over these pictures: it is the singular value decomposition of W weighted by the
moments of x, without the moments themselves, whose matrix is five times as large. (Girshick 2015, section 3.1, "truncated SVD";
Zhang et al. 2015, "Accelerating very deep convolutional networks", section 3.1.)

Answers change, by an amount that only real pictures tell: `tune` takes such a graph where it keeps to `--max-drop`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import structs
from onnx import GraphProto, NodeProto, helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.onnx_graph import edit, load_graph, save_graph
from alexnet_deploy.onnx_graph.session import GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.connected import bias_of, put_in_place, weights_of
from alexnet_deploy.quantization.feeding import feeds
from alexnet_deploy.types import Progress, silent

RANK_STEP = 64
_HELD_BACK = 4  # every fourth picture
_NOISE = 0.01  # of the outputs' variance, as if inputs were noisy: pictures are fewer than directions
_WORTH_IT = 0.75  # of the whole layer's weights: thin layers with more are left whole
_BATCH = 16

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Directions:
    """Where the output of one fully connected layer lies over pictures.

    Attributes:
        mean: float32 (outputs,).
        axes: float32 (outputs, outputs), one direction a column, orthonormal, those with the most variance first.
        lost: float32 (outputs,): the share of variance that lies outside of the first 1, 2 ... of them, on pictures that they
            were not fitted to.
    """

    mean: Float32
    axes: Float32
    lost: Float32

    def rank(self, most_lost: float) -> int:
        """The fewest directions, by steps of RANK_STEP, that lose no more; all of them where no fewer do."""
        enough = np.flatnonzero(self.lost <= most_lost)
        return min(-(-(int(enough[0]) + 1) // RANK_STEP) * RANK_STEP, len(self.mean)) if len(enough) else len(self.mean)


def to_low_rank(model: Artifact, output: str | Path, directions: Mapping[str, Directions], *, most_lost: float) -> Artifact:
    """Writes a graph whose wide fully connected layers are two thin ones, where that is less to read.

    Args:
        model: an FP32 graph.
        output: where it goes; ends in .onnx. It is an FP32 graph again, to be calibrated and quantised as any.
        directions: what `observe` found for it.
        most_lost: the share of a layer's variance that may be lost; its rank is the smallest that keeps to it.

    Raises:
        InputError: a share that is none.
        ModelError: no layer gets thinner.
    """
    if not 0 < most_lost < 1:
        raise InputError(f"a share of {most_lost} of the variance", expected="more than 0, less than 1")
    graph = load_graph(model.path)
    ranks = {}
    for gemm in list(edit.nodes_of(graph.graph, "Gemm")):
        found = directions.get(gemm.output[0])
        if found is not None and (rank := _thin(graph.graph, gemm, found, found.rank(most_lost))):
            ranks[gemm.name or gemm.output[0]] = rank
    if not ranks:
        raise ModelError(
            f"{model.path} has no fully connected layer that gets thinner with {most_lost:.2%} of its variance lost",
            expected="wide layers, as AlexNet's",
        )
    while edit.drop_unused(graph.graph):
        pass
    note = "low rank: " + ", ".join(f"{name} {rank}" for name, rank in ranks.items())
    notes = f"{model.manifest.notes}; {note}" if model.manifest.notes else note
    return save_graph(graph, output, structs.replace(model.manifest, parents=model.lineage(), notes=notes))


def observe(model: Artifact, pictures: PictureSet, progress: Progress = silent) -> dict[str, Directions]:
    """The directions of each fully connected layer that a lower rank could make thinner, by the name of its output.

    Takes a few seconds for the pictures, and for a layer of 4,096 outputs about twenty more of one core.

    Args:
        model: an FP32 graph.
        pictures: of the kind that the model will see, a thousand or so; labels are not used.

    Raises:
        PictureError: a picture cannot be read.
    """
    graph = load_graph(model.path)
    weights = {}
    for gemm in edit.nodes_of(graph.graph, "Gemm"):
        matrix = weights_of(graph.graph, gemm)
        if matrix is not None and bias_of(graph.graph, gemm) is not None and _saves(matrix.shape, RANK_STEP):
            weights[gemm.output[0]] = matrix
    if not weights:
        return {}
    runner = GraphRunner(graph, tuple(weights))
    answers: list[list[Float32]] = []
    done = 0
    for batch, rows in feeds(pictures, model.manifest, _BATCH):
        answers.append([answer[:rows] for answer in runner.run(batch)])
        done += rows
        progress("observe wide layers", done, len(pictures))
    found = {}
    for index, (name, matrix) in enumerate(weights.items()):
        progress("find directions", index, len(weights), name)
        found[name] = _directions(np.concatenate([answer[index] for answer in answers]), matrix)
    progress("find directions", len(weights), len(weights))
    return found


def _directions(outputs: Float32, weights: Float32) -> Directions:
    """From (pictures, outputs) of a layer, and its weights (inputs, outputs)."""
    held_back = np.arange(len(outputs)) % _HELD_BACK == _HELD_BACK - 1
    fitted, others = outputs[~held_back], outputs[held_back]
    mean = fitted.mean(axis=0)
    spread = fitted - mean
    moments = spread.T @ spread
    noise = weights.T @ weights
    noise *= _NOISE * np.trace(moments) / max(np.trace(noise), np.finfo(np.float32).tiny)
    _, axes = np.linalg.eigh(moments + noise)
    axes = np.ascontiguousarray(axes[:, ::-1])
    power = np.square((others - mean) @ axes).sum(axis=0, dtype=np.float64)
    lost = 1 - np.cumsum(power) / max(power.sum(), np.finfo(np.float64).tiny)
    return Directions(mean, axes, lost.astype(np.float32))


def _thin(graph: GraphProto, gemm: NodeProto, directions: Directions, rank: int) -> int:
    """Gemm -> two of them, with `rank` numbers between. The rank, or 0 where that is not thinner."""
    weights, bias = weights_of(graph, gemm), bias_of(graph, gemm)
    if weights is None or bias is None or not _saves(weights.shape, rank):
        return 0
    axes = directions.axes[:, :rank]
    bias = directions.mean + axes @ (axes.T @ (bias - directions.mean))
    # Turned at random, all numbers between are of one size: in INT8 they have one scale in common.
    axes = axes @ np.linalg.qr(np.random.default_rng(0).standard_normal((rank, rank)))[0].astype(np.float32)
    name = gemm.name or gemm.output[0]
    stored = {"in.weight": weights @ axes, "out.weight": axes.T, "out.bias": bias}
    names = {k: edit.add_initialiser(graph, edit.fresh_name(graph, f"{name}.{k}"), v) for k, v in stored.items()}
    between = edit.fresh_name(graph, f"{name}.in")
    made = [
        helper.make_node("Gemm", [gemm.input[0], names["in.weight"]], [between], between),
        helper.make_node("Gemm", [between, names["out.weight"], names["out.bias"]], [gemm.output[0]], f"{name}.out"),
    ]
    put_in_place(graph, gemm, made)
    return rank


def _saves(shape: tuple[int, ...], rank: int) -> bool:
    inputs, outputs = shape
    return rank * (inputs + outputs) <= _WORTH_IT * inputs * outputs
