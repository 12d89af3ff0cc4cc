"""How thin each wide layer may be: what every rank does to the logits, and which ranks together save the most.

How much of its variance a layer can lose says little: of one, 5 % are what the classes are told by, of another, half of it is
nothing that any later layer looks at. So each layer is made thinner by itself, and the logits are compared. Errors of different
layers have little in common, and their powers add up: that is how what all of them do together is foretold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.onnx_graph.classifier import logits_of
from alexnet_deploy.onnx_graph.session import GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.comparison import relative_error
from alexnet_deploy.quantization.connected import put_in_place
from alexnet_deploy.quantization.directions import Directions
from alexnet_deploy.quantization.feeding import feeds
from alexnet_deploy.quantization.wide import RANK_STEP, MatrixLayer, Wide, matrix_layers
from alexnet_deploy.types import Progress, silent

_THINNER = 2 / 3  # of the rank before: every next one that is tried
_MULTIPLICATIONS_A_BYTE = 16  # that a CPU does while a byte of weights comes from memory: 160 billion a second against 10 GB
_CELLS = 4096  # that the error allowed is cut into
_BATCH = 16

Float32 = npt.NDArray[np.float32]


class Thin(NamedTuple):
    """One layer as two, all others whole.

    Attributes:
        rank: numbers between the two.
        error: noise power over signal power at the logits.
    """

    rank: int
    error: float


def thin_layers(
    model: Artifact, layers: Mapping[str, Wide], pictures: PictureSet, most: float, progress: Progress = silent
) -> dict[str, tuple[Thin, ...]]:
    """Makes each layer thinner and thinner until the logits err too much, by the name of its output, from wide to thin.

    Takes one run of the pictures for every rank that is tried: some ten for a fully connected layer of AlexNet, three for a
    convolution.

    Args:
        model: an FP32 graph.
        layers: what `observe` found in it.
        pictures: some that nothing was fitted to; a few dozen are enough, since every logit of each is a sample.
        most: the noise power over signal power at which a layer is left.
    """
    graph = load_graph(model.path)
    network = _Network(graph, model, layers, pictures)
    found: dict[str, tuple[Thin, ...]] = {}
    for done, (name, wide) in enumerate(layers.items()):
        progress("make layers thinner", done, len(layers), name)
        tried = []
        for rank in _ranks(wide):
            error = network.error(name, wide.directions, rank)
            if not error <= most:  # nor is nan
                break
            tried.append(Thin(rank, error))
        found[name] = tuple(tried)
    progress("make layers thinner", len(layers), len(layers))
    return found


def choose_ranks(layers: Mapping[str, Wide], tried: Mapping[str, Sequence[Thin]], most: float, batch: int = 1) -> dict[str, int]:
    """The ranks that save the most time together, while the logits' error is foretold to be no more than `most`.

    Args:
        layers: what `observe` found.
        tried: what `thin_layers` found of them.
        most: noise power over signal power at the logits.
        batch: pictures in a call: with more of them multiplications count, with one the weights that come from memory.

    Returns:
        By the name of a layer's output; layers that had better stay whole are left out.
    """
    names = list(layers)
    costs, errors = [], []
    for name in names:
        wide = layers[name]
        share = (wide.inputs + wide.outputs) / (wide.inputs * wide.outputs)  # of the whole layer, for one number between
        whole = wide.inputs * wide.outputs * (1 + wide.places * batch / _MULTIPLICATIONS_A_BYTE)
        costs.append([whole, *(whole * share * thin.rank for thin in tried[name])])
        errors.append([0.0, *(thin.error for thin in tried[name])])
    chosen = cheapest(costs, errors, most)
    return {name: tried[name][index - 1].rank for name, index in zip(names, chosen, strict=True) if index}


def cheapest(costs: Sequence[Sequence[float]], errors: Sequence[Sequence[float]], most: float) -> list[int]:
    """Takes one option of each item, so that costs are least and errors add up to no more than `most`.

    By dynamic programming over what is left of the error, in steps of a 4,096th, errors rounded up (Kellerer, Pferschy, Pisinger:
    Knapsack Problems, 2004, section 11.5).

    Args:
        costs, errors: of each option of each item, from 0; every item has one without error.

    Returns:
        The index of the option, for each item.
    """
    best = np.zeros(_CELLS + 1)  # the least cost, by how many steps of error may be spent
    choices = []
    for cost, error in zip(costs, errors, strict=True):
        steps = [int(np.ceil(min(each / most, 2.0) * _CELLS)) if each else 0 for each in error]
        candidates = np.full((len(cost), _CELLS + 1), np.inf)
        for option, (price, spent) in enumerate(zip(cost, steps, strict=True)):
            if spent <= _CELLS:
                candidates[option, spent:] = best[: _CELLS + 1 - spent] + price
        choices.append((candidates.argmin(axis=0), steps))
        best = candidates.min(axis=0)
    left, chosen = _CELLS, []
    for option_at, steps in reversed(choices):
        chosen.append(int(option_at[left]))
        left -= steps[chosen[-1]]
    return chosen[::-1]


class _Network:
    """A graph whose wide layers are given their weights in each call."""

    def __init__(self, graph: ModelProto, model: Artifact, layers: Mapping[str, Wide], pictures: PictureSet) -> None:
        self._layers = {layer.output: layer for layer in matrix_layers(graph.graph) if layer.output in layers}
        self._given: dict[str, dict[str, Float32]] = {}
        for name, layer in self._layers.items():
            values = {
                edit.fresh_name(graph.graph, f"{layer.name}.{operand}"): value
                for operand, value in (("weight", layer.as_stored(layer.weights)), ("bias", layer.bias))
            }
            put_in_place(graph.graph, layer.node, [layer.made(*values)])
            graph.graph.input.extend(helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in values.items())
            self._given[name] = values
        edit.drop_all_unused(graph.graph)
        self._runner = GraphRunner(graph, [logits_of(graph)])
        self._batches = list(feeds(pictures, model.manifest, _BATCH))
        self._whole = self._logits({})

    def error(self, name: str, directions: Directions, rank: int) -> float:
        """Noise power over signal power at the logits, where this layer keeps `rank` directions."""
        layer, axes = self._layers[name], directions.axes[:, :rank]
        thin = _flattened(layer, directions.mean, axes)
        return relative_error(self._whole, self._logits(dict(zip(self._given[name], thin, strict=True))))

    def _logits(self, instead: dict[str, Float32]) -> Float32:
        given = {name: value for values in self._given.values() for name, value in values.items()} | instead
        return np.concatenate([self._runner.run(batch, given)[0][:rows].reshape(rows, -1) for batch, rows in self._batches])


def _flattened(layer: MatrixLayer, mean: Float32, axes: Float32) -> tuple[Float32, Float32]:
    """Weights and bias of the whole layer that answers as the two thin ones would."""
    weights = (layer.weights @ axes) @ axes.T
    bias = ((layer.bias - mean) @ axes) @ axes.T + mean
    return layer.as_stored(np.asarray(weights, np.float32)), np.asarray(bias, np.float32)


def _ranks(wide: Wide) -> list[int]:
    """Those that are tried, from wide to thin."""
    step = RANK_STEP[wide.kind]
    ranks = [wide.most]
    while ranks[-1] > step:
        ranks.append(min(max(int(ranks[-1] * _THINNER) // step * step, step), ranks[-1] - step))
    return ranks
