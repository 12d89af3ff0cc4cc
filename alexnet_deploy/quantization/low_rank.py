"""Layers as two thin ones: what they say about pictures lies in far fewer directions than they have.

    y = W x + b  ~  U (U' W x + U' (b - mean)) + mean        W: outputs x inputs, U: outputs x rank

A wide layer's outputs go together: over pictures, nearly all of their variance lies in a part of the directions they have. U
holds the foremost of them (the principal components of y, see directions.py), and the others are left at their mean. No other
product of that rank comes closer to y over these pictures: it is the singular value decomposition of W weighted by the moments
of x, without the moments themselves, whose matrix is several times as large. A fully connected layer becomes two; a convolution
becomes one with as many channels as the rank, and one of 1 x 1 behind it, for what holds for outputs holds at every place.
(Girshick 2015, section 3.1, "truncated SVD"; Zhang et al. 2015, "Accelerating very deep convolutional networks", section 3.1.)

Answers change, by an amount that only real pictures tell: `tune` takes such a graph where it keeps to `--max-drop`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
from alexnet_deploy.quantization.directions import Directions, directions_of
from alexnet_deploy.quantization.feeding import feeds, of_pictures
from alexnet_deploy.types import Progress, silent

RANK_STEP = {"Gemm": 64, "Conv": 16}  # what the kernels take at a time
_WORTH_IT = 0.75  # of the whole layer's multiplications: pairs with more are left whole
_PLACES = 4  # of a convolution's output, from each picture: 4,096 samples of 1,024 pictures, and memory for fifty layers
_BATCH = 16

Float32 = npt.NDArray[np.float32]


class MostLost(NamedTuple):
    """The share of a layer's variance that may be lost: from 0, which leaves layers whole, to below 1.

    Attributes:
        connected: of each fully connected layer.
        convolutions: of each convolution.
    """

    connected: float = 0.0
    convolutions: float = 0.0

    def __str__(self) -> str:
        return f"{self.connected:.2%} of fully connected layers' variance, {self.convolutions:.2%} of convolutions'"


@dataclass(frozen=True, eq=False)
class Wide:
    """A layer that two thin ones could stand for.

    Attributes:
        kind: "Gemm" or "Conv".
        inputs: numbers that one output is made of: for a convolution, channels times the places of its kernel.
        directions: where its outputs lie.
    """

    kind: str
    inputs: int
    directions: Directions

    def rank(self, most_lost: MostLost) -> int | None:
        """The numbers between the two: as few as keep to `most_lost`. None where that is not thinner."""
        share = most_lost.connected if self.kind == "Gemm" else most_lost.convolutions
        rank = self.directions.rank(share, RANK_STEP[self.kind])
        return rank if share and _saves(self.inputs, len(self.directions.mean), rank) else None


def to_low_rank(model: Artifact, output: str | Path, layers: Mapping[str, Wide], most_lost: MostLost) -> Artifact:
    """Writes a graph whose wide layers are two thin ones, where that is less to read and to multiply.

    Args:
        model: an FP32 graph.
        output: where it goes; ends in .onnx. It is an FP32 graph again, to be calibrated and quantised as any.
        layers: what `observe` found in it.
        most_lost: a layer's rank is the smallest that keeps to it.

    Raises:
        InputError: a share that is none.
        ModelError: no layer gets thinner.
    """
    if not all(0 <= share < 1 for share in most_lost):
        raise InputError(f"{most_lost} may be lost", expected="from 0 to less than 100 %")
    graph = load_graph(model.path)
    made = {}
    for layer in _layers(graph.graph):
        wide = layers.get(layer.output)
        if wide is not None and (rank := wide.rank(most_lost)) is not None:
            put_in_place(graph.graph, layer.node, _two(graph.graph, layer, wide.directions, rank))
            made[layer.name] = rank
    if not made:
        raise ModelError(
            f"{model.path} has no layer that gets thinner where no more is lost than {most_lost}",
            expected="wide layers, as AlexNet's",
        )
    while edit.drop_unused(graph.graph):
        pass
    note = "low rank: " + ", ".join(f"{name} {rank}" for name, rank in made.items())
    notes = f"{model.manifest.notes}; {note}" if model.manifest.notes else note
    return save_graph(graph, output, structs.replace(model.manifest, parents=model.lineage(), notes=notes))


def observe(model: Artifact, pictures: PictureSet, progress: Progress = silent) -> dict[str, Wide]:
    """The layers that a lower rank could make thinner, by the name of their output.

    Takes as long as the pictures take through the graph, and for a fully connected layer of 4,096 outputs about twenty seconds
    more of one core.

    Args:
        model: an FP32 graph.
        pictures: of the kind that the model will see, a thousand or so; labels are not used.

    Raises:
        PictureError: a picture cannot be read.
    """
    graph = load_graph(model.path)
    layers = [layer for layer in _layers(graph.graph) if layer.can_be_thinner]
    if not layers:
        return {}
    runner = GraphRunner(graph, [layer.output for layer in layers])
    random = np.random.default_rng(0)
    samples: list[list[Float32]] = []
    done = 0
    for batch, rows in feeds(pictures, model.manifest, _BATCH):
        samples.append([_at_some_places(of_pictures(answer, rows, len(batch)), rows, random) for answer in runner.run(batch)])
        done += rows
        progress("observe wide layers", done, len(pictures))
    found = {}
    for index, layer in enumerate(layers):
        progress("find directions", index, len(layers), layer.name)
        outputs = np.concatenate([sample[index] for sample in samples])
        found[layer.output] = Wide(layer.kind, len(layer.weights), directions_of(outputs, layer.weights))
    progress("find directions", len(layers), len(layers))
    return found


def _at_some_places(outputs: Float32, rows: int, random: np.random.Generator) -> Float32:
    """Of a layer, (pictures, outputs, ...) or (pictures x tokens, outputs) -> (pictures, places, outputs).

    Neighbours say much the same, so some places do, and some tokens.
    """
    flat = outputs.reshape(*outputs.shape[:2], -1).transpose(0, 2, 1)
    if len(flat) != rows and len(flat) % rows == 0:
        flat = flat.reshape(rows, -1, flat.shape[2])
    places = random.permutation(flat.shape[1])[:_PLACES]
    return np.ascontiguousarray(flat[:, places])


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer with constant weights, as a matrix.

    Attributes:
        weights: float32 (inputs, outputs).
        bias: float32 (outputs,).
        kernel: of a convolution, (channels, ...) of one output; empty for a fully connected layer.
    """

    node: NodeProto
    weights: Float32
    bias: Float32
    kernel: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        return str(self.node.op_type)

    @property
    def output(self) -> str:
        return str(self.node.output[0])

    @property
    def name(self) -> str:
        return str(self.node.name) or self.output

    @property
    def can_be_thinner(self) -> bool:
        inputs, outputs = self.weights.shape
        return _saves(inputs, outputs, RANK_STEP[self.kind])


def _layers(graph: GraphProto) -> Iterator[_Layer]:
    """Fully connected layers and convolutions over all channels; one after the other, since weights are large."""
    for node in list(edit.nodes_of(graph, *RANK_STEP)):
        stored = edit.initialisers(graph).get(node.input[1])
        kernel: tuple[int, ...] = ()
        if node.op_type == "Gemm":
            weights = weights_of(graph, node)
        elif stored is not None and edit.attribute(node, "group", 1) == 1:
            kernels = edit.array(stored)
            weights, kernel = np.ascontiguousarray(kernels.reshape(len(kernels), -1).T), kernels.shape[1:]
        else:
            continue
        if weights is not None:
            without = len(node.input) < 3 or not node.input[2]
            bias = np.zeros(weights.shape[1], np.float32) if without else bias_of(graph, node)
            if bias is not None:
                yield _Layer(node, weights, bias, kernel)


def _two(graph: GraphProto, layer: _Layer, directions: Directions, rank: int) -> list[NodeProto]:
    """What stands for a layer: two, with `rank` numbers between, which are 0 on average."""
    # Turned at random, all numbers between are of one size: in INT8 they have one scale in common.
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((rank, rank)))[0].astype(np.float32)
    axes = directions.axes[:, :rank] @ turned
    into, out_of = layer.weights @ axes, axes.T  # (inputs, rank), (rank, outputs)
    if layer.kernel:
        into, out_of = into.T.reshape(rank, *layer.kernel), out_of.T.reshape(-1, rank, *(1 for _ in layer.kernel[1:]))
    values = {
        "in.weight": into,
        "in.bias": (layer.bias - directions.mean) @ axes,
        "out.weight": out_of,
        "out.bias": directions.mean,
    }
    named = {k: edit.add_initialiser(graph, edit.fresh_name(graph, f"{layer.name}.{k}"), v) for k, v in values.items()}
    between = edit.fresh_name(graph, f"{layer.name}.in")
    first = helper.make_node(layer.kind, [layer.node.input[0], named["in.weight"], named["in.bias"]], [between], between)
    if layer.kernel:
        first.attribute.extend(layer.node.attribute)
    second = helper.make_node(layer.kind, [between, named["out.weight"], named["out.bias"]], [layer.output], f"{layer.name}.out")
    return [first, second]


def _saves(inputs: int, outputs: int, rank: int) -> bool:
    return rank * (inputs + outputs) <= _WORTH_IT * inputs * outputs
