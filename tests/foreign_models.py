"""Image classifiers as other people's exporters write them, small and made by hand.

Each maker in ACCEPTED gives a graph that goes all the way through adopt, calibrate, quantize, build and verify; each in
REFUSED one that must be turned away with a clear sentence. All have random weights, drawn with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from alexnet_deploy.manifest import Preprocess

CLASSES = 10
SIZE = 32
RECIPE = Preprocess(height=SIZE, width=SIZE)
PIXELS = Preprocess(height=SIZE, width=SIZE, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, layout="nhwc")


@dataclass(frozen=True)
class Foreign:
    """A foreign model and how its pictures are made."""

    model: ModelProto
    recipe: Preprocess = RECIPE


@dataclass
class Net:
    """A graph being put together, one node after the other; every method returns the name of what it made."""

    opset: int = 13
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [name], name=name, **attributes))
        return name

    def weight(self, *shape: int, fan_in: int = 0) -> str:
        values = self.random.standard_normal(shape) * (2 / (fan_in or max(shape))) ** 0.5
        return self.constant(values.astype(np.float32))

    def constant(self, values: Any, dtype: Any = None) -> str:
        name = f"weight{len(self.weights)}"
        self.weights[name] = np.asarray(values, dtype)
        return name

    def conv(
        self, data: str, channels: int, given: int, kernel: int = 3, *, group: int = 1, bias: bool = True, **more: Any
    ) -> str:
        weight = self.weight(channels, given // group, kernel, kernel, fan_in=given // group * kernel**2)
        operands = [data, weight] + ([self.weight(channels, fan_in=100)] if bias else [])
        more.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", *operands, kernel_shape=[kernel] * 2, group=group, **more)

    def relu(self, data: str) -> str:
        return self.node("Relu", data)

    def pool(self, data: str) -> str:
        return self.node("MaxPool", data, kernel_shape=[2, 2], strides=[2, 2])

    def head(self, data: str, features: int) -> str:
        """Global pooling and a Gemm: (N, features, h, w) to (N, CLASSES)."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", data), axis=1)
        return self.gemm(flat, features)

    def gemm(self, data: str, features: int, classes: int = CLASSES) -> str:
        return self.node(
            "Gemm", data, self.weight(classes, features, fan_in=features), self.weight(classes, fan_in=100), transB=1
        )

    def model(
        self,
        result: str,
        *,
        input_shape: tuple[int | str, ...] = ("N", 3, SIZE, SIZE),
        input_type: int = TensorProto.FLOAT,
        output_shape: tuple[int | str, ...] = ("N", CLASSES),
        weights_as_inputs: bool = False,
        ir_version: int = 8,
    ) -> ModelProto:
        initialisers = [numpy_helper.from_array(values, name) for name, values in self.weights.items()]
        inputs = [helper.make_tensor_value_info("data", input_type, input_shape)]
        if weights_as_inputs:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in initialisers]
        outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, output_shape)]
        graph = helper.make_graph(self.nodes, "foreign", inputs, outputs, initialisers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)


def trunk(net: Net, data: str = "data", given: int = 3) -> str:
    """Two convolutions with pooling: (N, given, 32, 32) to (N, 16, 8, 8)."""
    data = net.pool(net.relu(net.conv(data, 8, given)))
    return net.pool(net.relu(net.conv(data, 16, 8)))


def weights_as_inputs() -> Foreign:
    """Opset 9, IR version 3: every weight is listed as a graph input, as ONNX once asked for."""
    net = Net(opset=9)
    return Foreign(net.model(net.head(trunk(net), 16), weights_as_inputs=True, ir_version=3))


def grouped_convolutions() -> Foreign:
    net = Net()
    data = net.pool(net.relu(net.conv("data", 16, 3)))
    return Foreign(net.model(net.head(net.relu(net.conv(data, 32, 16, group=2)), 32)))


def local_response_normalisation() -> Foreign:
    """As BVLC's AlexNet: BGR, 0..255 less the mean, LRN with the paper's constants."""
    net = Net(opset=9)
    data = net.relu(net.conv("data", 16, 3, 5))
    data = net.pool(net.node("LRN", data, size=5, alpha=1e-4, beta=0.75, bias=1.0))
    caffe = Preprocess(height=SIZE, width=SIZE, scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0,) * 3, channel_order="bgr")
    return Foreign(net.model(net.head(data, 16)), caffe)


def batch_normalisation() -> Foreign:
    """After a convolution without bias, where it folds, and after a pooling, where it does not."""

    def norm(data: str, channels: int) -> str:
        values = [net.random.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(4)]
        return net.node("BatchNormalization", data, *(net.constant(v) for v in values), epsilon=1e-3)

    net = Net(opset=9)
    data = net.pool(net.relu(norm(net.conv("data", 16, 3, bias=False), 16)))
    data = net.relu(norm(net.conv(norm(data, 16), 16, 16), 16))
    return Foreign(net.model(net.head(data, 16)))


def concatenation() -> Foreign:
    net = Net(opset=11)
    data = net.pool(net.relu(net.conv("data", 8, 3)))
    branches = [net.relu(net.conv(data, 8, 8, kernel)) for kernel in (1, 3, 5)]
    pooled = net.node("MaxPool", data, kernel_shape=[3, 3], pads=[1] * 4)
    return Foreign(net.model(net.head(net.node("Concat", *branches, pooled, axis=1), 32)))


def depthwise_convolutions() -> Foreign:
    """As MobileNet: depthwise, pointwise, Clip for ReLU6."""
    net = Net()
    limits = net.constant(0.0, np.float32), net.constant(6.0, np.float32)
    data = net.node("Clip", net.conv("data", 16, 3, strides=[2, 2]), *limits)
    data = net.node("Clip", net.conv(data, 16, 16, group=16), *limits)
    return Foreign(net.model(net.head(net.node("Clip", net.conv(data, 32, 16, 1), *limits), 32)))


def weights_from_constants() -> Foreign:
    """Every weight is a Constant node, one of them behind a Transpose and an Identity."""
    net = Net()
    data = trunk(net)
    flat = net.node("Flatten", net.node("GlobalAveragePool", data))
    turned = net.node("Identity", net.node("Transpose", net.weight(CLASSES, 16), perm=[1, 0]))
    result = net.node("Add", net.node("MatMul", flat, turned), net.weight(CLASSES))
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)) for name, values in net.weights.items()
    ]
    net.nodes[:0] = constants
    net.weights.clear()
    return Foreign(net.model(result))


def weights_from_constant_of_shape() -> Foreign:
    net = Net(opset=9)
    data = trunk(net)
    fill = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.05])
    averaging = net.node("ConstantOfShape", net.constant([16, 16, 3, 3], np.int64), value=fill)
    zeros = net.node("ConstantOfShape", net.constant([16], np.int64))
    data = net.node("Conv", data, averaging, zeros, kernel_shape=[3, 3], pads=[1] * 4)
    return Foreign(net.model(net.head(net.relu(data), 16)))


def fixed_batch() -> Foreign:
    """Batch 1 everywhere, in a Reshape too."""
    net = Net(opset=10)
    flat = net.node("Reshape", trunk(net), net.constant([1, 16 * 8 * 8], np.int64))
    result = net.gemm(flat, 16 * 8 * 8)
    return Foreign(net.model(result, input_shape=(1, 3, SIZE, SIZE), output_shape=(1, CLASSES)))


def softmax_at_the_end() -> Foreign:
    net = Net(opset=9)
    return Foreign(net.model(net.node("Softmax", net.head(trunk(net), 16), axis=1)))


def log_softmax_at_the_end() -> Foreign:
    net = Net()
    return Foreign(net.model(net.node("LogSoftmax", net.head(trunk(net), 16), axis=1)))


def channels_last() -> Foreign:
    """As TensorFlow exports: NHWC in, a Transpose in front."""
    net = Net(opset=11)
    data = trunk(net, net.node("Transpose", "data", perm=[0, 3, 1, 2]))
    recipe = Preprocess(height=SIZE, width=SIZE, scale=1 / 127.5, mean=(1.0,) * 3, std=(1.0,) * 3, layout="nhwc")
    return Foreign(net.model(net.head(data, 16), input_shape=("N", SIZE, SIZE, 3)), recipe)


def pixels_in() -> Foreign:
    """uint8 NHWC, normalised inside."""
    net = Net()
    data = net.node("Cast", "data", to=TensorProto.FLOAT)
    data = net.node("Div", net.node("Sub", data, net.constant([120.0], np.float32)), net.constant([60.0], np.float32))
    data = trunk(net, net.node("Transpose", data, perm=[0, 3, 1, 2]))
    model = net.model(net.head(data, 16), input_shape=("N", SIZE, SIZE, 3), input_type=TensorProto.UINT8)
    return Foreign(model, PIXELS)


def pixels_in_planes() -> Foreign:
    """uint8 NCHW in the order BGR."""
    net = Net()
    data = net.node("Mul", net.node("Cast", "data", to=TensorProto.FLOAT), net.constant(1 / 255, np.float32))
    model = net.model(net.head(trunk(net, data), 16), input_type=TensorProto.UINT8)
    recipe = Preprocess(height=SIZE, width=SIZE, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, layout="nchw", channel_order="bgr")
    return Foreign(model, recipe)


def pixels_transposed_first() -> Foreign:
    """uint8 NHWC into a Transpose, which TensorRT does not take."""
    net = Net()
    data = net.node("Cast", net.node("Transpose", "data", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    data = trunk(net, net.node("Mul", data, net.constant(1 / 255, np.float32)))
    model = net.model(net.head(data, 16), input_shape=("N", SIZE, SIZE, 3), input_type=TensorProto.UINT8)
    return Foreign(model, PIXELS)


def fully_convolutional() -> Foreign:
    """The output is (N, classes, 1, 1), as SqueezeNet's."""
    net = Net()
    data = net.conv(trunk(net), CLASSES, 16, 1)
    return Foreign(net.model(net.node("GlobalAveragePool", data), output_shape=("N", CLASSES, 1, 1)))


def residual() -> Foreign:
    net = Net()
    data = net.pool(net.relu(net.conv("data", 16, 3)))
    side = net.conv(net.relu(net.conv(data, 16, 16)), 16, 16)
    return Foreign(net.model(net.head(net.relu(net.node("Add", side, data)), 16)))


def reshape_by_computed_shape() -> Foreign:
    """As older PyTorch exports view(x.size(0), -1): Shape, Gather, Unsqueeze, Concat, Reshape."""
    net = Net(opset=11)
    data = trunk(net)
    rows = net.node("Gather", net.node("Shape", data), net.constant(0, np.int64), axis=0)
    shape = net.node("Concat", net.node("Unsqueeze", rows, axes=[0]), net.constant([-1], np.int64), axis=0)
    return Foreign(net.model(net.gemm(net.node("Reshape", data, shape), 16 * 8 * 8)))


def dropout_and_identity() -> Foreign:
    net = Net(opset=10)
    flat = net.node("Flatten", net.node("AveragePool", trunk(net), kernel_shape=[1, 1]))
    data = net.relu(net.gemm(net.node("Dropout", flat, ratio=0.5), 16 * 8 * 8, 32))
    return Foreign(net.model(net.node("Identity", net.gemm(net.node("Dropout", data, ratio=0.5), 32))))


def greyscale() -> Foreign:
    net = Net()
    model = net.model(net.head(trunk(net, given=1), 16), input_shape=("N", 1, SIZE, SIZE))
    return Foreign(model, Preprocess(height=SIZE, width=SIZE, mean=(0.3,), std=(0.4,), channel_order="grey"))


def any_size() -> Foreign:
    """Height and width are open, and the recipe fixes them; the batch is -1, as PaddlePaddle's exporter writes it."""
    net = Net()
    return Foreign(net.model(net.head(trunk(net), 16), input_shape=(-1, 3, "H", "W"), output_shape=(-1, CLASSES)))


def smooth_activations() -> Foreign:
    """SiLU, LeakyRelu, HardSwish; a convolution with padding by name and one with dilation."""
    net = Net(opset=14)
    data = net.conv("data", 8, 3, pads=[1] * 4)
    data = net.pool(net.node("Mul", data, net.node("Sigmoid", data)))
    data = net.node("LeakyRelu", net.conv(data, 16, 8, pads=[2] * 4, dilations=[2, 2]), alpha=0.1)
    weight = net.weight(16, 16, 3, 3, fan_in=144)
    data = net.node("HardSwish", net.node("Conv", data, weight, kernel_shape=[3, 3], auto_pad="SAME_UPPER"))
    return Foreign(net.model(net.head(data, 16)))


def shared_weights() -> Foreign:
    """Two convolutions with the same weights."""
    net = Net()
    data = net.pool(net.relu(net.conv("data", 16, 3)))
    weight = net.weight(16, 16, 3, 3, fan_in=144)
    for _ in range(2):
        data = net.relu(net.node("Conv", data, weight, kernel_shape=[3, 3], pads=[1] * 4))
    return Foreign(net.model(net.head(data, 16)))


def weights_stored_in_half() -> Foreign:
    """Weights in float16 behind a Cast, to make the file small."""
    net = Net()
    data = net.pool(net.relu(net.conv("data", 16, 3)))
    stored = net.constant(net.random.standard_normal((16, 16, 3, 3)) * 0.1, np.float16)
    data = net.node("Conv", data, net.node("Cast", stored, to=TensorProto.FLOAT), kernel_shape=[3, 3])
    return Foreign(net.model(net.head(net.relu(data), 16)))


def local_function() -> Foreign:
    """A layer written as a function of the model's own."""
    net = Net(opset=17)
    data = trunk(net)
    net.nodes.append(helper.make_node("Twice", [data], ["twice"], domain="own"))
    model = net.model(net.head("twice", 16))
    body = [helper.make_node("Add", ["x", "x"], ["y"])]
    function = helper.make_function("own", "Twice", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return Foreign(model)


def newest_opset() -> Foreign:
    net = Net(opset=22)
    return Foreign(net.model(net.head(trunk(net), 16), ir_version=10))


def attention() -> Foreign:
    """As a vision transformer: patches as tokens, LayerNormalization, products of rank 3, GELU written out."""
    net = Net(opset=17)
    width, places = 16, 16

    def norm(data: str) -> str:
        return net.node(
            "LayerNormalization", data, net.constant(np.ones(width, np.float32)), net.weight(width, fan_in=100), axis=-1
        )

    def product(data: str, given: int = width, made: int = width) -> str:
        return net.node("Add", net.weight(made, fan_in=100), net.node("MatMul", data, net.weight(given, made, fan_in=given)))

    patches = net.conv("data", width, 3, 8, strides=[8, 8], pads=[0] * 4)
    tokens = net.node("Transpose", net.node("Reshape", patches, net.constant([0, width, places], np.int64)), perm=[0, 2, 1])
    normed = norm(tokens)
    query, key, value = (product(normed) for _ in range(3))
    scores = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 2, 1]))
    weights = net.node("Softmax", net.node("Mul", scores, net.constant(np.float32(width**-0.5))), axis=-1)
    tokens = net.node("Add", tokens, product(net.node("MatMul", weights, value)))
    hidden = product(norm(tokens), made=2 * width)
    half = net.node(
        "Add", net.node("Erf", net.node("Div", hidden, net.constant(np.float32(2**0.5)))), net.constant(np.float32(1))
    )
    gelu = net.node("Mul", net.node("Mul", hidden, half), net.constant(np.float32(0.5)))
    tokens = net.node("Add", tokens, product(gelu, given=2 * width))
    return Foreign(net.model(net.gemm(net.node("ReduceMean", norm(tokens), axes=[1], keepdims=0), width)))


def attention_tokens_first() -> Foreign:
    """As torch's MultiheadAttention: four heads, (tokens, N, width) inside, one query a picture."""
    net = Net(opset=17)
    width, places, heads = 32, 16, 4

    def product(data: str) -> str:
        return net.node("Add", net.node("MatMul", data, net.weight(width, width, fan_in=width)), net.weight(width, fan_in=100))

    def apart(data: str, tokens: int) -> str:
        """(tokens, N, width) to (N, heads, tokens, width / heads)"""
        rows = net.node("Reshape", product(data), net.constant([tokens, -1, width // heads], np.int64))
        turned = net.node("Transpose", rows, perm=[1, 0, 2])
        return net.node("Reshape", turned, net.constant([-1, heads, tokens, width // heads], np.int64))

    patches = net.conv("data", width, 3, 8, strides=[8, 8], pads=[0] * 4)
    planes = net.node("Reshape", patches, net.constant([0, width, places], np.int64))
    tokens = net.node("Transpose", planes, perm=[2, 0, 1])
    one = net.constant([1], np.int64)
    shape = net.node("Concat", net.node("Shape", "data", start=0, end=1), one, one, axis=0)
    asked = net.node("Transpose", net.node("Expand", net.weight(1, 1, width), shape), perm=[1, 0, 2])
    root = net.constant([(width // heads) ** -0.25], np.float32)
    query = net.node("Mul", apart(asked, 1), root)
    key = net.node("Mul", net.node("Transpose", apart(tokens, places), perm=[0, 1, 3, 2]), root)
    mixed = net.node("MatMul", net.node("Softmax", net.node("MatMul", query, key), axis=-1), apart(tokens, places))
    flat = net.node("Reshape", net.node("Transpose", mixed, perm=[2, 0, 1, 3]), net.constant([-1, width], np.int64))
    return Foreign(net.model(net.gemm(flat, width)))


def tied_weights() -> Foreign:
    """There and back by the same matrix, as an autoencoder."""
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", trunk(net)))
    tied = net.weight(12, 16, fan_in=16)
    return Foreign(net.model(net.gemm(net.node("Gemm", net.relu(net.node("Gemm", flat, tied, transB=1)), tied), 16)))


def biases_of_all_shapes() -> Foreign:
    """alpha and beta, biases of one row, of one number, of none, and an Add behind each."""
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", trunk(net)))
    for shape, alpha, beta in (((1, 16), 0.5, 2.0), ((1,), 1.0, 1.0), ((), 2.0, 0.5)):
        bias = net.constant(net.random.uniform(-0.2, 0.2, shape), np.float32)
        flat = net.node("Gemm", flat, net.weight(16, 16, fan_in=16), bias, alpha=alpha, beta=beta)
        flat = net.relu(net.node("Add", net.constant(np.full((1, 16), 0.1, np.float32)), flat))
    return Foreign(net.model(net.node("Sub", net.gemm(flat, 16), net.constant(np.float32(0.3)))))


def group_normalisation() -> Foreign:
    """Of opset 21; onnx's own inference tells nothing of its result."""
    net = Net(opset=21)
    data = net.pool(net.conv("data", 16, 3))
    scale, shift = (net.constant(net.random.uniform(0.5, 1.5, 16), np.float32) for _ in range(2))
    data = net.relu(net.node("GroupNormalization", data, scale, shift, num_groups=4))
    return Foreign(net.model(net.head(net.relu(net.conv(data, 16, 16)), 16), ir_version=10))


def scale_layers() -> Foreign:
    """Batch normalisation as Caffe's Scale and dlib's affine layers: a product and a sum a channel."""
    net = Net()
    data = "data"
    for given, channels in ((3, 8), (8, 16)):
        gain, offset = (net.constant(net.random.uniform(0.5, 1.5, (channels, 1, 1)), np.float32) for _ in range(2))
        scaled = net.node("Mul", gain, net.conv(data, channels, given, bias=False))
        data = net.pool(net.relu(net.node("Sub", net.node("Add", scaled, offset), net.constant(np.float32(0.2)))))
    return Foreign(net.model(net.head(data, 16)))


ACCEPTED: dict[str, Callable[[], Foreign]] = {
    maker.__name__: maker
    for maker in (
        weights_as_inputs,
        grouped_convolutions,
        local_response_normalisation,
        batch_normalisation,
        concatenation,
        depthwise_convolutions,
        weights_from_constants,
        weights_from_constant_of_shape,
        fixed_batch,
        softmax_at_the_end,
        log_softmax_at_the_end,
        channels_last,
        pixels_in,
        pixels_in_planes,
        pixels_transposed_first,
        fully_convolutional,
        residual,
        reshape_by_computed_shape,
        dropout_and_identity,
        greyscale,
        any_size,
        smooth_activations,
        shared_weights,
        weights_stored_in_half,
        local_function,
        newest_opset,
        attention,
        attention_tokens_first,
        tied_weights,
        biases_of_all_shapes,
        group_normalisation,
        scale_layers,
    )
}


def two_inputs() -> ModelProto:
    net = Net()
    model = net.model(net.head(trunk(net, net.node("Add", "data", "more")), 16))
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N", 3, SIZE, SIZE]))
    return model


def state_in_and_out() -> ModelProto:
    """As recurrent networks keep what they know: it is the inputs that rule it out, not the outputs."""
    model = two_inputs()
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N", 3, SIZE, SIZE]))
    return model


def no_input() -> ModelProto:
    net = Net()
    model = net.model(net.head(trunk(net, net.weight(1, 3, SIZE, SIZE)), 16))
    del model.graph.input[:]
    return model


def two_outputs() -> ModelProto:
    net = Net()
    data = trunk(net)
    first, second = net.head(data, 16), net.head(data, 16)
    model = net.model(first)
    model.graph.output.append(helper.make_tensor_value_info(second, TensorProto.FLOAT, ["N", CLASSES]))
    return model


def segmentation() -> ModelProto:
    """A map of classes, not one row a picture."""
    net = Net()
    return net.model(trunk(net), output_shape=("N", 16, 8, 8))


def text_classifier() -> ModelProto:
    net = Net()
    data = net.node("ReduceMean", net.node("Gather", net.weight(50, 16), "data"), axes=[1], keepdims=0)
    return net.model(net.gemm(data, 16), input_shape=("N", 12), input_type=TensorProto.INT64)


def class_numbers() -> ModelProto:
    """Ends in an ArgMax."""
    net = Net()
    model = net.model(net.node("ArgMax", net.head(trunk(net), 16), axis=1, keepdims=0))
    model.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.INT64, ["N"]))
    return model


def one_yes_or_no_a_class() -> ModelProto:
    net = Net()
    return net.model(net.node("Sigmoid", net.head(trunk(net), 16)))


def control_flow() -> ModelProto:
    net = Net()
    scores = net.head(trunk(net), 16)
    branch = helper.make_graph(
        [helper.make_node("Identity", [scores], ["chosen"])],
        "branch",
        [],
        [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)],
    )
    return net.model(net.node("If", net.constant(True), then_branch=branch, else_branch=branch))


def absurd_constant() -> ModelProto:
    """A ConstantOfShape of 4 TB."""
    net = Net()
    huge = net.node("ConstantOfShape", net.constant([1_000_000, 1_000_000], np.int64))
    scores = net.head(trunk(net), 16)
    return net.model(net.node("Add", scores, net.node("ReduceMax", huge, keepdims=0)))


def absurd_input() -> ModelProto:
    net = Net()
    return net.model(net.head(trunk(net), 16), input_shape=("N", 3, 1_000_000, 1_000_000))


def absurd_padding() -> ModelProto:
    net = Net()
    data = net.node("Pad", "data", net.constant([0, 0, 500_000, 500_000, 0, 0, 0, 0], np.int64))
    return net.model(net.head(trunk(net, data), 16))


def ancient_opset() -> ModelProto:
    net = Net(opset=5)
    return net.model(net.node("Softmax", "data"), ir_version=3)


def unknown_operator() -> ModelProto:
    net = Net()
    data = trunk(net)
    net.nodes.append(helper.make_node("Mystery", [data], ["mystery"], domain="someone.else"))
    model = net.model(net.head("mystery", 16))
    model.opset_import.append(helper.make_opsetid("someone.else", 1))
    return model


def not_a_number() -> ModelProto:
    net = Net()
    return net.model(net.node("Mul", net.head(trunk(net), 16), net.constant(np.nan, np.float32)))


def rows_that_mix() -> ModelProto:
    """Each answer depends on the whole batch, whose size is fixed to 2 by a weight."""
    net = Net()
    mixed = net.node("MatMul", net.constant([[0.5, 0.5], [0.5, -0.5]], np.float32), net.head(trunk(net), 16))
    return net.model(mixed, input_shape=(2, 3, SIZE, SIZE), output_shape=(2, CLASSES))


# name -> maker, and words of the sentence that turns it away.
REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "two_inputs": (two_inputs, "2 inputs"),
    "state_in_and_out": (state_in_and_out, "2 inputs"),
    "no_input": (no_input, "0 inputs"),
    "two_outputs": (two_outputs, "2 outputs"),
    "segmentation": (segmentation, "float32 (N, classes)"),
    "text_classifier": (text_classifier, "int64"),
    "class_numbers": (class_numbers, "int64"),
    "one_yes_or_no_a_class": (one_yes_or_no_a_class, "Sigmoid"),
    "control_flow": (control_flow, "control flow"),
    "absurd_constant": (absurd_constant, "1,000,000"),
    "absurd_input": (absurd_input, "1,000,000"),
    "absurd_padding": (absurd_padding, "elements"),
    "ancient_opset": (ancient_opset, "opset 5"),
    "unknown_operator": (unknown_operator, "someone.else"),
    "not_a_number": (not_a_number, "NaN"),
    "rows_that_mix": (rows_that_mix, "neighbours"),
}


def save(model: ModelProto, path: Path, *, external: bool = False) -> Path:
    """Writes a model; with `external`, its weights into a file beside it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=external, location=f"{path.stem}.weights", size_threshold=0)
    return path
