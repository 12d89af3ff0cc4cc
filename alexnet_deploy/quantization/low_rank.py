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

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from msgspec import structs
from onnx import GraphProto, NodeProto, helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import edit, load_graph, save_graph
from alexnet_deploy.quantization.connected import put_in_place
from alexnet_deploy.quantization.directions import Directions
from alexnet_deploy.quantization.wide import MatrixLayer, Wide, matrix_layers


def to_low_rank(model: Artifact, output: str | Path, layers: Mapping[str, Wide], ranks: Mapping[str, int]) -> Artifact:
    """Writes a graph in which some wide layers are two thin ones.

    Args:
        model: an FP32 graph.
        output: where it goes; ends in .onnx. It is an FP32 graph again, to be calibrated and quantised as any.
        layers: what `observe` found in it.
        ranks: how many numbers lie between the two, by the name of the layer's output; layers without one stay whole.
    """
    graph = load_graph(model.path)
    made = {}
    for layer in matrix_layers(graph.graph):
        if layer.output in ranks:
            rank = made[layer.name] = ranks[layer.output]
            put_in_place(graph.graph, layer.node, _two(graph.graph, layer, layers[layer.output].directions, rank))
    edit.drop_all_unused(graph.graph)
    note = "low rank: " + ", ".join(f"{name} {rank}" for name, rank in made.items())
    notes = f"{model.manifest.notes}; {note}" if model.manifest.notes else note
    return save_graph(graph, output, structs.replace(model.manifest, parents=model.lineage(), notes=notes))


def _two(graph: GraphProto, layer: MatrixLayer, directions: Directions, rank: int) -> list[NodeProto]:
    """What stands for a layer: two, with `rank` numbers between, which are 0 on average."""
    # Turned at random, all numbers between are of one size: in INT8 they have one scale in common.
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((rank, rank)))[0].astype(np.float32)
    axes = directions.axes[:, :rank] @ turned
    out_of = axes.reshape(-1, rank, *(1 for _ in layer.kernel[1:])) if layer.kernel else axes.T
    values = {
        "in.weight": layer.as_stored(layer.weights @ axes),
        "in.bias": (layer.bias - directions.mean) @ axes,
        "out.weight": np.ascontiguousarray(out_of),
        "out.bias": directions.mean,
    }
    named = {k: edit.add_initialiser(graph, edit.fresh_name(graph, f"{layer.name}.{k}"), v) for k, v in values.items()}
    between = edit.fresh_name(graph, f"{layer.name}.in")
    first = layer.made(named["in.weight"], named["in.bias"])
    first.name, first.output[0] = between, between
    second = helper.make_node(layer.kind, [between, named["out.weight"], named["out.bias"]], [layer.output], f"{layer.name}.out")
    return [first, second]
