"""The small words that graph changes are made of. All of them work on the model in place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from alexnet_deploy.errors import ModelError

_SHAPE_TENSOR_ELEMENTS = 64  # what is longer holds weights; what is shorter may be the shape of a Reshape

# Operators with results like their first input, of which onnx's inference knows nothing.
_NOT_INFERRED = ("GroupNormalization", "MeanVarianceNormalization")


def initialisers(graph: GraphProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Tensor name -> the node that computes it."""
    return {name: node for node in graph.node for name in node.output if name}


def consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Tensor name -> the nodes that read it, each once, in the graph's order."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                found.setdefault(name, []).append(node)
    return found


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute as Python has it, or `default`."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def array(tensor: TensorProto) -> npt.NDArray[Any]:
    """An initialiser's values.

    Raises:
        ModelError: its data does not fit its shape.
    """
    try:
        return cast("npt.NDArray[Any]", numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the weights {tensor.name!r} cannot be read ({error})", expected="data of the declared shape"
        ) from error


def add_initialiser(graph: GraphProto, name: str, values: npt.NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
    return name


def remove_nodes(graph: GraphProto, dead: Sequence[NodeProto]) -> None:
    """Takes these very nodes out; all others stay the objects that they are."""
    gone = {id(node) for node in dead}
    for index in reversed(range(len(graph.node))):
        if id(graph.node[index]) in gone:
            del graph.node[index]


def rename_reads(graph: GraphProto, old: str, new: str) -> None:
    """Every node that read `old` reads `new`."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def bypass(graph: GraphProto, node: NodeProto) -> bool:
    """Makes the readers of `node`'s output read its first input instead; the node itself stays until it is removed.

    Returns:
        False, with nothing changed, where the node lies straight between a graph input (or weight) and a graph output.
    """
    source, result = node.input[0], node.output[0]
    if any(output.name == result for output in graph.output):
        made_by = producers(graph).get(source)
        if made_by is None or any(output.name == source for output in graph.output):
            return False
        # The graph's output keeps its name: the producer takes it over.
        for index, name in enumerate(made_by.output):
            if name == source:
                made_by.output[index] = result
        rename_reads(graph, source, result)
        node.input[0] = source
    else:
        rename_reads(graph, result, source)
    return True


def drop_unused(graph: GraphProto) -> bool:
    """Removes nodes and initialisers that no output depends on. Returns whether there were any."""
    needed = {output.name for output in graph.output}
    dead: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(name for name in node.input if name)
        else:
            dead.append(node)
    unused = [index for index, tensor in enumerate(graph.initializer) if tensor.name not in needed]
    for index in reversed(unused):
        del graph.initializer[index]
    remove_nodes(graph, dead)
    return bool(unused or dead)


def drop_all_unused(graph: GraphProto) -> None:
    """`drop_unused` until nothing is left that only dropped parts had used."""
    while drop_unused(graph):
        pass


def name_nodes(graph: GraphProto) -> None:
    """Every node gets a name of its own: the one it has, or its output's."""
    taken: set[str] = set()
    for node in graph.node:
        wish = node.name or next(filter(None, node.output), node.op_type)
        name, count = wish, 0
        while name in taken:
            count += 1
            name = f"{wish}_{count}"
        node.name = name
        taken.add(name)


def fresh_name(graph: GraphProto, wish: str) -> str:
    """`wish`, or `wish_1`, `wish_2` and so on: a tensor name that the graph does not have yet."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken.update(tensor.name for tensor in graph.initializer)
    taken.update(value.name for value in (*graph.input, *graph.output))
    name, count = wish, 0
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    return name


def dims(kind: TypeProto) -> tuple[int | None, ...] | None:
    """A tensor type's shape, None where a length is open; None for an unknown rank."""
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.tensor_type.shape.dim)


def value_types(model: ModelProto) -> dict[str, TypeProto]:
    """Tensor name -> its type, for everything that shape inference can tell, weights included.

    Raises:
        ModelError: types or shapes in the graph contradict each other.
    """
    graph = infer_shapes(without_weights(model)).graph
    found = {value.name: value.type for value in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in model.graph.initializer:
        found[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return found


def without_weights(model: ModelProto) -> ModelProto:
    """The same graph with large initialisers as inputs of their type: shape inference copies the model, weights and all."""
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.output.extend(model.graph.output)
    heavy = {t.name: t for t in model.graph.initializer if math.prod(t.dims) > _SHAPE_TENSOR_ELEMENTS}
    light.graph.input.extend(value for value in model.graph.input if value.name not in heavy)
    light.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in heavy.values())
    light.graph.initializer.extend(t for t in model.graph.initializer if t.name not in heavy)
    return light


def infer_shapes(model: ModelProto, *, strict: bool = False) -> ModelProto:
    """The model with the type of every tensor that can be told in `graph.value_info`; nodes may be others.

    Raises:
        ModelError: types or shapes in it contradict each other.
    """
    known = ModelProto()
    known.CopyFrom(model)
    for node in nodes_of(known.graph, *_NOT_INFERRED):
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
    try:
        return onnx.shape_inference.infer_shapes(known, check_type=strict, strict_mode=strict, data_prop=True)
    except Exception as error:  # the C++ side raises InferenceError, RuntimeError, ValueError and more
        raise ModelError(f"the graph's shapes do not fit together: {first_line(error)}", expected="a sound ONNX graph") from error


def opset(model: ModelProto) -> int:
    """Version of the default operator set; 0 where the model imports none."""
    return max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def nodes_of(graph: GraphProto, *kinds: str) -> Iterator[NodeProto]:
    return (node for node in graph.node if node.op_type in kinds and node.domain in ("", "ai.onnx"))


def first_line(error: Exception, limit: int = 200) -> str:
    """The first telling line of another library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Chain:
    """Nodes that follow one another, collected until `insert` puts them into the graph.

    Attributes:
        first, last: the tensor they begin with, and the result of the last of them so far.
    """

    def __init__(self, graph: GraphProto, first: str, prefix: str) -> None:
        self.first = self.last = first
        self._graph, self._prefix = graph, prefix
        self._nodes: list[NodeProto] = []

    def then(self, kind: str, step: str, *operands: str, **attributes: object) -> None:
        """A node of `last` and `operands`; it and its result are called "prefix.step"."""
        name = fresh_name(self._graph, f"{self._prefix}.{step}")
        self._nodes.append(helper.make_node(kind, [self.last, *operands], [name], name=name, **attributes))
        self.last = name

    def constant(self, step: str, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        return add_initialiser(self._graph, fresh_name(self._graph, f"{self._prefix}.{step}"), np.asarray(values, dtype))

    def end_in(self, name: str) -> None:
        """Calls the result `name`, which nothing else will make."""
        self._nodes[-1].output[0] = self.last = name

    def insert(self, at: int) -> None:
        for index, node in enumerate(self._nodes, at):
            self._graph.node.insert(index, node)
