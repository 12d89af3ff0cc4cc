"""Hand-made float32 classifiers for the tests of quantisation, with seeded weights of sensible size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import adopt

SIZE = 32
CLASSES = 10
RECIPE = Preprocess(height=SIZE, width=SIZE)


class Net:
    """Collects nodes and weights; each method returns the name of the tensor it made."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[object] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        inputs = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        values = self.random.standard_normal(shape) * np.sqrt(2 / inputs)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def constant(self, name: str, values: list[int]) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"node_{out}", **attributes))
        return out

    def conv(self, data: str, name: str, out_in: tuple[int, int], kernel: int = 3, **attributes: object) -> str:
        operands = [data, self.weight(f"{name}.weight", *out_in, kernel, kernel), self.weight(f"{name}.bias", out_in[0])]
        pads = [kernel // 2] * 4
        node = helper.make_node("Conv", operands, [f"{name}.out"], name=name, pads=pads, **attributes)
        self.nodes.append(node)
        return f"{name}.out"

    def gemm(self, data: str, name: str, out_in: tuple[int, int], out: str = "") -> str:
        operands = [data, self.weight(f"{name}.weight", *out_in), self.weight(f"{name}.bias", out_in[0])]
        out = out or f"{name}.out"
        self.nodes.append(helper.make_node("Gemm", operands, [out], name=name, transB=1))
        return out

    def model(self) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def alexnet_like(seed: int = 0) -> ModelProto:
    """Two convolutions with pooling, one without, two Gemms: every way in which AlexNet's layers follow each other."""
    net = Net(seed)
    x = net.op("Relu", net.conv("input", "conv1", (16, 3), 5))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    x = net.op("Relu", net.conv(x, "conv2", (24, 16)))
    x = net.op("Relu", net.conv(x, "conv3", (24, 24)))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    x = net.op("Flatten", x)
    x = net.op("Relu", net.gemm(x, "fc1", (64, 24 * 7 * 7)))
    net.gemm(x, "fc2", (CLASSES, 64), out="logits")
    return net.model()


def branching(seed: int = 0) -> ModelProto:
    """A residual, a depthwise and a grouped convolution, Concat, Clip, LRN, average pooling and a MatMul without bias."""
    net = Net(seed)
    x = net.op("Relu", net.conv("input", "stem", (16, 3), strides=[2, 2]))
    y = net.op("Relu", net.conv(x, "depthwise", (16, 1), group=16))
    y = net.conv(y, "pointwise", (16, 16), 1)
    x = net.op("Relu", net.op("Add", x, y))
    x = net.op("LRN", x, size=3)
    left = net.op("Relu", net.conv(x, "left", (8, 16)))
    right = net.op("Relu", net.conv(x, "right", (8, 8), group=2))
    x = net.op("Concat", left, right, axis=1)
    x = net.op("GlobalAveragePool", net.op("Relu", net.conv(x, "last", (32, 16))))
    x = net.op("Flatten", x)
    net.op("MatMul", x, net.weight("head.weight", 32, CLASSES), out="logits")
    return net.model()


def artifact_of(model: ModelProto, folder: Path, name: str = "net.onnx") -> Artifact:
    original = folder / f"original.{name}"
    original.write_bytes(model.SerializeToString())
    return adopt(original, RECIPE, output=folder / name)
