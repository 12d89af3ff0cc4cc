"""The layers of a graph that can be quantised, and how their tensors hang together.

A graph is expected in the dialect of `onnx_graph.normalise`: weights are initialisers, BatchNormalization is folded, nodes have
names of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.onnx_graph import edit

# Rounding and clipping give the same result before these as after: their output can take the scale of their input.
COMMUTING = frozenset(
    {"MaxPool", "GlobalMaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice"}
)
# Activations that an integer kernel absorbs into the clipping of its output.
ABSORBED = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True)
class Layer:
    """One Conv, Gemm or MatMul with constant weights.

    Attributes:
        name: the node's name.
        op: "Conv", "Gemm" or "MatMul".
        data: the activation that goes in.
        weight: the initialiser with the weights.
        bias: the initialiser with the bias, one number an output, or None.
        output: the tensor that comes out.
        channel_axis: the axis of `weight` that counts output channels.
        groups: of a Conv: how many parts its channels fall into, none of which sees another.
    """

    name: str
    op: str
    data: str
    weight: str
    bias: str | None
    output: str
    channel_axis: int
    groups: int = 1


class Wiring:
    """Who makes and who uses each tensor of a graph; valid until the graph is changed."""

    def __init__(self, model: ModelProto) -> None:
        self._makers = edit.producers(model.graph)
        self._users = edit.consumers(model.graph)
        self._outputs = {output.name for output in model.graph.output}

    def path_from_root(self, tensor: str) -> list[NodeProto]:
        """The operators that commute with rounding and lead straight to `tensor`, in order; empty where there are none."""
        path: list[NodeProto] = []
        while (node := self._makers.get(tensor)) is not None and node.op_type in COMMUTING:
            path.insert(0, node)
            tensor = node.input[0]
        return path

    def root(self, tensor: str) -> str:
        """The tensor that `tensor` is a rearrangement of: up through every operator that commutes with rounding."""
        path = self.path_from_root(tensor)
        return path[0].input[0] if path else tensor

    def activated(self, tensor: str) -> str:
        """What a layer's output becomes after the Relu or Clip that belongs to it, if nothing else sees it before."""
        users = self._users.get(tensor, [])
        if len(users) == 1 and users[0].op_type in ABSORBED and tensor not in self._outputs:
            return str(users[0].output[0])
        return tensor

    def maker(self, tensor: str) -> NodeProto | None:
        """The node that computes `tensor`; None for the graph's input and for weights."""
        return self._makers.get(tensor)

    def is_alone(self, first: str, last: str) -> bool:
        """Whether each tensor from `first` on is read by nobody but the next node on the way to `last`."""
        while first != last:
            users = self.users(first)
            if len(users) != 1 or first in self._outputs:
                return False
            first = users[0].output[0]
        return last not in self._outputs

    def is_output(self, tensor: str) -> bool:
        return tensor in self._outputs

    def users(self, tensor: str) -> list[NodeProto]:
        return self._users.get(tensor, [])

    def users_behind(self, tensor: str) -> Iterator[NodeProto]:
        """Who reads `tensor`, and who reads what operators that commute with rounding make of it."""
        for user in self.users(tensor):
            yield user
            if user.op_type in COMMUTING:
                yield from self.users_behind(user.output[0])


def find_layers(model: ModelProto) -> tuple[Layer, ...]:
    """Every Conv, Gemm and MatMul with constant float32 weights, in the graph's order.

    Raises:
        ModelError: there is none.
    """
    constant = edit.initialisers(model.graph)
    found = [layer for node in edit.nodes_of(model.graph, "Conv", "Gemm", "MatMul") if (layer := _as_layer(node, constant))]
    if not found:
        raise ModelError(
            "the graph holds no Conv, Gemm or MatMul with constant float32 weights",
            expected="a float32 classifier",
            fix="quantise the graph that alexnet-deploy export wrote, not one that is quantised or half precision already",
        )
    return tuple(found)


def choose_skipped(layers: Sequence[Layer], skip: Sequence[str]) -> frozenset[str]:
    """Names of the layers to leave alone; `skip` holds names, "first" and "last".

    Raises:
        InputError: a name that is no layer's; the error lists them.
    """
    words = {"first": layers[0].name, "last": layers[-1].name}
    chosen = frozenset(words.get(name, name) for name in skip)
    unknown = chosen - {layer.name for layer in layers}
    if unknown:
        raise InputError(
            f"the graph has no layer {', '.join(sorted(unknown))}",
            expected=f"first, last, or some of {', '.join(layer.name for layer in layers)}",
        )
    return chosen


def _as_layer(node: NodeProto, constant: dict[str, TensorProto]) -> Layer | None:
    data, weight = node.input[0], constant.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT or data in constant or edit.attribute(node, "transA", 0):
        return None
    if node.op_type != "Conv" and len(weight.dims) != 2:
        return None
    bias = node.input[2] if len(node.input) > 2 and node.input[2] in constant else None
    if bias is not None and len(constant[bias].dims) != 1:  # one number a picture of a fixed batch as well
        bias = None
    axis = 0 if node.op_type == "Conv" or edit.attribute(node, "transB", 0) else 1
    groups = edit.attribute(node, "group", 1) if node.op_type == "Conv" else 1
    return Layer(node.name, node.op_type, data, weight.name, bias, node.output[0], axis, groups)
