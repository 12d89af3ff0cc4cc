"""Layers that two thin ones could stand for: their weights as a matrix, and where their outputs lie over pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.onnx_graph.session import GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.connected import bias_of, weights_of
from alexnet_deploy.quantization.directions import Directions, directions_of
from alexnet_deploy.quantization.feeding import feeds, of_pictures
from alexnet_deploy.types import Progress, silent

RANK_STEP = {"Gemm": 64, "Conv": 16}  # what the kernels take at a time
_WORTH_IT = 0.75  # of the whole layer's multiplications: pairs with more are left whole
_PLACES = 4  # of a convolution's output, from each picture: 4,096 samples of 1,024 pictures, and memory for fifty layers
_BATCH = 16

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Wide:
    """A layer that two thin ones could stand for.

    Attributes:
        kind: "Gemm" or "Conv".
        inputs: numbers that one output is made of: for a convolution, channels times the places of its kernel.
        places: of a picture at which it is computed: those of a convolution's output, or tokens; 1 for most connected layers.
        directions: where its outputs lie.
    """

    kind: str
    inputs: int
    places: int
    directions: Directions

    @property
    def outputs(self) -> int:
        return len(self.directions.mean)

    @property
    def most(self) -> int:
        """The largest rank at which two layers are thinner than this one; 0 where none is."""
        return _most(self.kind, self.inputs, self.outputs)


@dataclass(frozen=True, eq=False)
class MatrixLayer:
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

    def as_stored(self, matrix: Float32) -> Float32:
        """(inputs, outputs) as the node takes it: a convolution (outputs, channels, ...), a Gemm as it is."""
        return np.ascontiguousarray(matrix.T.reshape(-1, *self.kernel) if self.kernel else matrix)

    def made(self, weights: str, bias: str) -> NodeProto:
        """The same layer with other weights, stored as `as_stored` has them."""
        node = NodeProto(op_type=self.kind, name=self.node.name, input=[self.node.input[0], weights, bias], output=[self.output])
        if self.kernel:
            node.attribute.extend(self.node.attribute)
        return node


def matrix_layers(graph: GraphProto) -> Iterator[MatrixLayer]:
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
                yield MatrixLayer(node, weights, bias, kernel)


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
    layers = [layer for layer in matrix_layers(graph.graph) if _most(layer.kind, *layer.weights.shape)]
    if not layers:
        return {}
    runner = GraphRunner(graph, [layer.output for layer in layers])
    random = np.random.default_rng(0)
    samples: list[list[Float32]] = []
    places = [1] * len(layers)
    done = 0
    for batch, rows in feeds(pictures, model.manifest, _BATCH):
        by_place = [_by_place(of_pictures(answer, rows, len(batch)), rows) for answer in runner.run(batch)]
        places = [values.shape[1] for values in by_place]
        samples.append([_at_some_places(values, random) for values in by_place])
        done += rows
        progress("observe wide layers", done, len(pictures))
    found = {}
    for index, layer in enumerate(layers):
        progress("find directions", index, len(layers), layer.name)
        outputs = np.concatenate([sample[index] for sample in samples])
        found[layer.output] = Wide(layer.kind, len(layer.weights), places[index], directions_of(outputs, layer.weights))
    progress("find directions", len(layers), len(layers))
    return found


def _by_place(outputs: Float32, rows: int) -> Float32:
    """Of a layer, (pictures, outputs, ...) or (pictures x tokens, outputs) -> (pictures, places, outputs)."""
    flat = outputs.reshape(*outputs.shape[:2], -1).transpose(0, 2, 1)
    if len(flat) != rows and len(flat) % rows == 0:
        flat = flat.reshape(rows, -1, flat.shape[2])
    return flat


def _at_some_places(outputs: Float32, random: np.random.Generator) -> Float32:
    """(pictures, places, outputs) -> (pictures, some places, outputs): neighbours say much the same, and so do some tokens."""
    places = random.permutation(outputs.shape[1])[:_PLACES]
    return np.ascontiguousarray(outputs[:, places])


def _most(kind: str, inputs: int, outputs: int) -> int:
    step = RANK_STEP[kind]
    return int(_WORTH_IT * inputs * outputs / (inputs + outputs)) // step * step
