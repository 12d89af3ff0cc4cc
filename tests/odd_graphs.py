"""Image classifiers that are valid, and odd: what some exporter might write, put together at random.

A seed decides everything: the input's size, channels, layout and type, the operator set, the blocks between input and answer, how
their weights are stored, and how the graph ends. All weights are random.
"""

from __future__ import annotations

import random as randomness
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from alexnet_deploy.manifest import Preprocess
from tests.foreign_models import Foreign, Net

OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
_MOST_CHANNELS = 24


@dataclass(frozen=True)
class Plane:
    """A tensor (N, channels, height, width)."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def features(self) -> int:
        return self.channels * self.height * self.width


@dataclass
class OddNet(Net):
    """A graph put together by chance."""

    chance: randomness.Random = field(default_factory=randomness.Random)
    batch: int | str = "N"

    def maybe(self, share: float = 0.5) -> bool:
        return self.chance.random() < share

    def one(self, *choices: Any) -> Any:
        return self.chance.choice(choices)

    def whole(self, low: int, high: int) -> int:
        return self.chance.randint(low, max(low, high))

    def numbers(self, low: float, high: float, *shape: int) -> str:
        return self.constant(self.random.uniform(low, high, shape), np.float32)

    def axes(self, kind: str, data: str, axes: Sequence[int], **more: Any) -> str:
        """Squeeze, Unsqueeze and ReduceMean take their axes as an attribute in old operator sets, as an input in newer ones."""
        if self.opset < (18 if kind == "ReduceMean" else 13):
            return self.node(kind, data, axes=[*axes], **more)
        return self.node(kind, data, self.constant([*axes], np.int64), **more)

    def reshape(self, data: str, *rest: int) -> str:
        """To (N, *rest)."""
        batch = self.batch if isinstance(self.batch, int) and self.maybe() else 0
        rest = (-1, *rest[1:]) if self.maybe() else rest
        return self.node("Reshape", data, self.constant([batch, *rest], np.int64))

    def bias(self, shape: tuple[int, ...]) -> str:
        return self.numbers(-0.3, 0.3, *shape)


def odd_graph(seed: int) -> Foreign:
    """The classifier that belongs to a seed, with the recipe for its pictures."""
    chance = randomness.Random(seed)
    net = OddNet(
        opset=chance.choice(OPSETS), chance=chance, random=np.random.default_rng(seed), batch=chance.choice(["N", "N", "N", 1, 3])
    )
    sides = (1, 2, 5) if net.maybe(0.05) else range(6, 41)
    height, width = (chance.choice(sides) for _ in range(2))
    shape, kind, recipe, plane = _input(net, height, width)
    for _ in range(net.whole(1, 5)):
        plane = net.one(*_BLOCKS)(net, plane)
    classes = net.whole(2, 12)
    result, output_shape = _head(net, plane, classes)
    model = net.model(
        result, input_shape=shape, input_type=kind, output_shape=output_shape, ir_version=8 if net.opset < 19 else 10
    )
    _store_oddly(net, model.graph)
    return Foreign(model, recipe)


def _input(net: OddNet, height: int, width: int) -> tuple[tuple[int | str, ...], int, Preprocess, Plane]:
    """Shape and type of the input, the recipe for it, and the first plane."""
    channels, last, pixels = net.one(3, 3, 3, 1), net.maybe(0.3), net.maybe(0.3)
    order = "grey" if channels == 1 else net.one("rgb", "bgr")
    if pixels:
        scale, mean, std = 1.0, (0.0,) * channels, (1.0,) * channels
    else:
        scale = net.one(1 / 255, 1 / 127.5)
        mean, std = (tuple(net.chance.uniform(0.2, 0.9) for _ in range(channels)) for _ in range(2))
    recipe = Preprocess(
        height=height, width=width, scale=scale, mean=mean, std=std, channel_order=order, layout="nhwc" if last else "nchw"
    )
    data = "data"
    steps = (["Cast"] if pixels else []) + (["Transpose"] if last else [])
    for step in net.chance.sample(steps, len(steps)):
        more = {"to": TensorProto.FLOAT} if step == "Cast" else {"perm": [0, 3, 1, 2]}
        data = net.node(step, data, **more)
    if pixels:
        gain = net.numbers(0.008, 0.02, *net.one((), (1,), (channels, 1, 1), (1, channels, 1, 1)))
        data = net.node("Sub", net.node("Mul", data, gain), net.numbers(0.5, 2.0, *net.one((), (1, channels, 1, 1))))
    shape = (net.batch, height, width, channels) if last else (net.batch, channels, height, width)
    return shape, TensorProto.UINT8 if pixels else TensorProto.FLOAT, recipe, Plane(data, channels, height, width)


def _conv(net: OddNet, x: Plane) -> Plane:
    group = net.one(1, 1, 1, x.channels, *(n for n in (2, 3, 4) if x.channels % n == 0))
    channels = group * net.whole(1, _MOST_CHANNELS // group)
    kernel = [net.whole(1, 5), net.whole(1, 5)]
    strides = [net.one(1, 1, 2, 3), net.one(1, 1, 2, 3)]
    weight = net.weight(channels, x.channels // group, *kernel, fan_in=x.channels // group * kernel[0] * kernel[1])
    operands = [x.name, weight, *([net.bias((channels,))] if net.maybe(0.7) else net.one([], [""]))]
    more: dict[str, Any] = {"strides": strides} if strides != [1, 1] or net.maybe() else {}
    if net.maybe(0.8):
        more["kernel_shape"] = kernel
    if net.maybe(0.2):
        more["auto_pad"] = net.one("SAME_UPPER", "SAME_LOWER")
        height, width = -(-x.height // strides[0]), -(-x.width // strides[1])
    else:
        dilations = [net.one(1, 1, 2), net.one(1, 1, 2)]
        spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        pads = [net.whole(0, span - 1) for span in (*spans, *spans)]
        # Never less than one window.
        pads[2:] = [
            max(after, span - size - before)
            for after, span, size, before in zip(pads[2:], spans, (x.height, x.width), pads[:2], strict=True)
        ]
        if any(pads) or net.maybe():
            more["pads"] = pads
        if dilations != [1, 1]:
            more["dilations"] = dilations
        height, width = (
            (size + pads[i] + pads[i + 2] - spans[i]) // strides[i] + 1 for i, size in enumerate((x.height, x.width))
        )
    if group != 1 or net.maybe():
        more["group"] = group
    return Plane(net.node("Conv", *operands, **more), channels, height, width)


def _activation(net: OddNet, x: Plane) -> Plane:
    def clip(low: bool, high: bool) -> str:
        if net.opset < 11:
            return net.node("Clip", x.name, **({"min": 0.0} if low else {}), **({"max": 3.0} if high else {}))
        bounds = [net.constant(0.0, np.float32) if low else "", net.constant(3.0, np.float32) if high else ""]
        return net.node("Clip", x.name, *(bounds if high else bounds[:1] if low else []))

    def erf() -> str:
        half = net.node(
            "Add", net.node("Erf", net.node("Div", x.name, net.constant(2**0.5, np.float32))), net.constant(1.0, np.float32)
        )
        return net.node("Mul", net.node("Mul", x.name, half), net.constant(0.5, np.float32))

    ways: list[Callable[[], str]] = [
        *([lambda: net.node("Relu", x.name)] * 4),
        lambda: clip(True, True),
        lambda: clip(True, False),
        lambda: clip(False, True),
        lambda: net.node("LeakyRelu", x.name, alpha=net.one(0.01, 0.2)),
        lambda: net.node("PRelu", x.name, net.numbers(0, 0.3, *net.one((1,), (x.channels, 1, 1), (1, x.channels, 1, 1)))),
        lambda: net.node(net.one("Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid"), x.name),
        lambda: net.node("Mul", x.name, net.node(net.one("Sigmoid", "HardSigmoid"), x.name)),
        lambda: net.node("Max", x.name, net.constant(0.0, np.float32)),
        erf,
    ]
    if net.opset >= 10:
        ways.append(lambda: net.node("ThresholdedRelu", x.name, alpha=0.1))
    if net.opset >= 14:
        ways.append(lambda: net.node("HardSwish", x.name))
    if net.opset >= 18:
        ways.append(lambda: net.node("Mish", x.name))
    if net.opset >= 20:
        ways.append(lambda: net.node("Gelu", x.name, approximate=net.one("none", "tanh")))
    return replace(x, name=net.one(*ways)())


def _norm(net: OddNet, x: Plane) -> Plane:
    positive, around_zero = (lambda: net.numbers(0.5, 1.5, x.channels)), (lambda: net.bias((x.channels,)))
    kind = net.one("BatchNormalization", "BatchNormalization", "InstanceNormalization", "LRN", "Layer", "Group")
    match kind:
        case "BatchNormalization":
            name = net.node(kind, x.name, positive(), around_zero(), around_zero(), positive(), epsilon=net.one(1e-5, 1e-3))
        case "InstanceNormalization":
            name = net.node(kind, x.name, positive(), around_zero())
        case "Layer" if net.opset >= 17:
            turned = net.node("Transpose", x.name, perm=[0, 2, 3, 1])
            normed = net.node("LayerNormalization", turned, positive(), around_zero(), axis=-1)
            name = net.node("Transpose", normed, perm=[0, 3, 1, 2])
        case "Group" if net.opset >= 21:
            groups = net.one(1, *(n for n in (2, 4) if x.channels % n == 0))
            name = net.node("GroupNormalization", x.name, positive(), around_zero(), num_groups=groups)
        case _:
            name = net.node("LRN", x.name, size=net.one(3, 5), alpha=1e-2, beta=0.75, bias=1.0)
    return replace(x, name=name)


def _pool(net: OddNet, x: Plane) -> Plane:
    kernel = [net.whole(1, min(3, x.height)), net.whole(1, min(3, x.width))]
    strides = [net.whole(1, 3), net.whole(1, 3)]
    pads = [net.whole(0, k - 1) for k in (*kernel, *kernel)] if net.maybe(0.4) else [0] * 4
    more = {"count_include_pad": 1} if (average := net.maybe(0.4)) and net.maybe() else {}
    name = net.node("AveragePool" if average else "MaxPool", x.name, kernel_shape=kernel, strides=strides, pads=pads, **more)
    height, width = ((size + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, size in enumerate((x.height, x.width)))
    return Plane(name, x.channels, height, width)


def _conv_block(net: OddNet, x: Plane) -> Plane:
    x = _conv(net, x)
    for step in net.one((), (_norm,), (_activation,), (_norm, _activation), (_activation, _pool), (_activation, _norm), (_pool,)):
        x = step(net, x)
    return x


def _like(net: OddNet, x: Plane, weight: str = "") -> Plane:
    """A convolution that keeps its shape, with weights of its own or given ones."""
    weight = weight or net.weight(x.channels, x.channels, 3, 3, fan_in=9 * x.channels)
    return replace(x, name=net.node("Conv", x.name, weight, kernel_shape=[3, 3], pads=[1] * 4))


def _residual(net: OddNet, x: Plane) -> Plane:
    side = _activation(net, _like(net, x))
    other = x if net.maybe() else _like(net, x)
    sides = net.chance.sample([side.name, other.name], 2)
    return replace(x, name=net.node(net.one("Add", "Add", "Sub", "Max", "Mul"), *sides))


def _concat(net: OddNet, x: Plane) -> Plane:
    parts = [x, _activation(net, _like(net, x)), *([_like(net, x)] if net.maybe() else [])]
    return replace(x, name=net.node("Concat", *(p.name for p in parts), axis=net.one(1, -3)), channels=len(parts) * x.channels)


def _shared(net: OddNet, x: Plane) -> Plane:
    """Convolutions behind or beside one another with the same weights."""
    weight = net.weight(x.channels, x.channels, 3, 3, fan_in=9 * x.channels)
    first = _like(net, x, weight)
    if net.maybe():
        return _like(net, _activation(net, first), weight)
    return replace(x, name=net.node("Add", first.name, _like(net, _activation(net, x), weight).name))


def _squeeze_and_excitation(net: OddNet, x: Plane) -> Plane:
    middle = net.whole(1, 8)
    pooled = net.axes("ReduceMean", x.name, [2, 3], keepdims=1) if net.maybe() else net.node("GlobalAveragePool", x.name)
    down = net.relu(net.conv(pooled, middle, x.channels, 1))
    gate = net.node(net.one("Sigmoid", "HardSigmoid"), net.conv(down, x.channels, middle, 1))
    return replace(x, name=net.node("Mul", *net.chance.sample([x.name, gate], 2)))


def _split(net: OddNet, x: Plane) -> Plane:
    """Half of the channels through a convolution, as ShuffleNet does it; where they are even."""
    if x.channels % 2:
        return _conv_block(net, x)
    half = x.channels // 2
    names = [f"part{len(net.nodes)}", f"rest{len(net.nodes)}"]
    if net.opset < 13:
        net.nodes.append(helper.make_node("Split", [x.name], names, axis=1, split=[half, half]))
    else:
        net.nodes.append(helper.make_node("Split", [x.name, net.constant([half, half], np.int64)], names, axis=1))
    side = _activation(net, _like(net, replace(x, name=names[0], channels=half)))
    joined = net.node("Concat", side.name, names[1], axis=1)
    apart = net.reshape(joined, 2, half, x.height, x.width)
    return replace(x, name=net.reshape(net.node("Transpose", apart, perm=[0, 2, 1, 3, 4]), x.channels, x.height, x.width))


def _rearranged(net: OddNet, x: Plane) -> Plane:
    even = x.height % 2 == 0 and x.width % 2 == 0
    kind = net.one("Slice", "Pad", "Resize", "SpaceToDepth", "Dropout", "Identity")
    if kind == "SpaceToDepth" and even and 4 * x.channels <= _MOST_CHANNELS:
        return Plane(net.node(kind, x.name, blocksize=2), 4 * x.channels, x.height // 2, x.width // 2)
    if kind == "Slice" and x.height > 2 and net.opset >= 10:
        start, end, axis = (net.constant([n], np.int64) for n in (1, x.height, 2))
        return replace(x, name=net.node(kind, x.name, start, end, axis), height=x.height - 1)
    if kind == "Pad" and net.opset >= 11:
        margin = net.whole(0, min(x.height, x.width, 4) - 1)
        pads = net.constant([0, 0, margin, 0, 0, 0, 0, margin], np.int64)
        fill = [net.constant(0.5, np.float32)] if net.maybe() else []
        name = net.node(kind, x.name, pads, *fill) if fill else net.node(kind, x.name, pads, mode=net.one("reflect", "edge"))
        return Plane(name, x.channels, x.height + margin, x.width + margin)
    if kind == "Resize" and net.opset >= 11 and max(x.height, x.width) <= 20:
        scales = net.constant([1, 1, 2, 2], np.float32)
        name = net.node(
            kind, x.name, "" if net.opset >= 13 else net.constant([], np.float32), scales, mode=net.one("nearest", "linear")
        )
        return Plane(name, x.channels, 2 * x.height, 2 * x.width)
    return replace(x, name=net.node("Dropout" if kind == "Dropout" else "Identity", x.name))


def _attention(net: OddNet, x: Plane) -> Plane:
    """One head over the places of a plane, with a residual connection around it."""
    places, width = x.height * x.width, x.channels
    if places > 200:
        return _pool(net, x)
    tokens = net.node("Transpose", net.reshape(x.name, width, places), perm=[0, 2, 1])

    def product(data: str) -> str:
        made = net.node("MatMul", data, net.weight(width, width, fan_in=width))
        return net.node("Add", *net.chance.sample([made, net.bias((width,))], 2)) if net.maybe() else made

    query, key, value = (product(tokens) for _ in range(3))
    scores = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 2, 1]))
    weights = net.node("Softmax", net.node("Mul", scores, net.constant(width**-0.5, np.float32)), axis=2)
    mixed = net.node("Add", product(net.node("MatMul", weights, value)), tokens)
    return replace(x, name=net.reshape(net.node("Transpose", mixed, perm=[0, 2, 1]), width, x.height, x.width))


_BLOCKS: tuple[Callable[[OddNet, Plane], Plane], ...] = (
    *([_conv_block] * 6),
    _residual,
    _concat,
    _shared,
    _squeeze_and_excitation,
    _split,
    _rearranged,
    _attention,
    _pool,
)


def _head(net: OddNet, x: Plane, classes: int) -> tuple[str, tuple[int | str, ...]]:
    """The graph's result and its shape."""
    if net.maybe(0.15):
        scores = net.conv(x.name, classes, x.channels, 1)
        pooled = net.node("GlobalAveragePool", scores)
        if net.maybe():
            return pooled, (net.batch, classes, 1, 1)
        flat = net.axes("Squeeze", pooled, [2, 3]) if net.maybe() else net.reshape(pooled, classes)
    else:
        flat, features = _flat(net, x)
        if net.maybe(0.1):  # there and back by the same weights, as an autoencoder's
            tied = net.weight(6, features, fan_in=features)
            back = [tied] if net.opset >= 11 else [tied, net.bias((features,))]
            there = [tied] if net.opset >= 11 else [tied, net.bias((6,))]
            flat = net.node("Gemm", net.relu(net.node("Gemm", flat, *there, transB=1)), *back)
        if net.maybe(0.3):
            flat, features = net.relu(_product(net, flat, features, hidden := net.whole(2, 16))), hidden
        flat = _product(net, flat, features, classes)
    for _ in range(net.whole(0, 1)):
        flat = net.node(net.one("Dropout", "Identity"), flat)
    if net.maybe(0.4):
        flat = net.node(net.one("Softmax", "Softmax", "LogSoftmax"), flat, axis=1)
    return flat, (net.batch, classes)


def _flat(net: OddNet, x: Plane) -> tuple[str, int]:
    """(N, features)"""
    if x.features <= 2000 and net.maybe(0.4):
        return (net.node("Flatten", x.name, axis=1) if net.maybe() else net.reshape(x.name, x.features)), x.features
    match net.whole(0, 3):
        case 0:
            return net.axes("ReduceMean", x.name, [2, 3], keepdims=0), x.channels
        case 1:
            return net.node("Flatten", net.node("GlobalMaxPool", x.name)), x.channels
        case 2:
            return net.axes("Squeeze", net.node("GlobalAveragePool", x.name), [2, 3]), x.channels
        case _:
            return net.reshape(net.node("GlobalAveragePool", x.name), x.channels), x.channels


def _product(net: OddNet, data: str, given: int, made: int) -> str:
    """A fully connected layer, in one of the ways in which these are written."""
    bias = net.one(None, (made,), (made,), (1, made), (1,), ())
    if net.maybe(0.4):
        name = net.node("MatMul", data, net.weight(given, made, fan_in=given))
        return name if bias is None else net.node("Add", *net.chance.sample([name, net.bias(bias)], 2))
    turned = net.maybe(0.6)
    weight = net.weight(*((made, given) if turned else (given, made)), fan_in=given)
    more: dict[str, Any] = {"transB": 1} if turned else {}
    if net.maybe(0.2):
        more["alpha"] = net.one(0.5, 2.0)
    if net.maybe(0.2):
        more["beta"] = net.one(0.0, 0.5, 2.0)
    bias = (made,) if bias is None and net.opset < 11 else bias  # a Gemm without a bias is younger
    return net.node("Gemm", data, weight, *([] if bias is None else [net.bias(bias)]), **more)


def _store_oddly(net: OddNet, graph: Any) -> None:
    """Weights as initialisers in one of their encodings, or as Constant nodes, or behind an Identity, a Cast or a Transpose."""
    in_front: list[NodeProto] = []
    kept: list[TensorProto] = []
    for tensor in graph.initializer:
        values: npt.NDArray[Any] = numpy_helper.to_array(tensor)
        match net.whole(0, 9):
            case 0:
                in_front.append(helper.make_node("Constant", [], [tensor.name], value=numpy_helper.from_array(values)))
            case 1:
                kept.append(numpy_helper.from_array(values, f"{tensor.name}.stored"))
                in_front.append(helper.make_node("Identity", [f"{tensor.name}.stored"], [tensor.name]))
            case 2 if values.dtype == np.float32 and values.ndim > 1:
                kept.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half"))
                in_front.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
            case 3 if values.ndim > 1:
                kept.append(numpy_helper.from_array(np.ascontiguousarray(values.T), f"{tensor.name}.turned"))
                in_front.append(helper.make_node("Transpose", [f"{tensor.name}.turned"], [tensor.name]))
            case 4 if values.dtype == np.float32:
                kept.append(helper.make_tensor(tensor.name, TensorProto.FLOAT, values.shape, values.ravel()))
            case _:
                kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in reversed(in_front):
        graph.node.insert(0, node)
