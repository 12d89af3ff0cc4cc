"""One output of (N, classes), of whatever a graph gives."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, TypeProto, helper

from alexnet_deploy.errors import ModelError
from alexnet_deploy.onnx_graph import edit


def choose_head(model: ModelProto, head: str | None) -> bool:
    """Leaves one output: the one called `head`; without a name the only one that has a number for each class.

    Returns:
        Whether there were others.

    Raises:
        ModelError: there is no such output, or several that may be meant.
    """
    outputs = model.graph.output
    names = [output.name for output in outputs]
    if head is not None:
        fitting = [name for name in names if name == head]
    elif len(names) == 1:
        return False
    else:
        types = edit.value_types(model)
        fitting = [output.name for output in outputs if classes_of(types.get(output.name, output.type)) is not None]
    if len(fitting) != 1:
        raise ModelError(
            f"the graph has {len(names)} outputs ({', '.join(names[:8])}{', …' if len(names) > 8 else ''})",
            expected=f"one called {head}" if head is not None else "one that is plainly (N, classes)",
            fix="--head NAME, of the one to take",
        )
    for index in reversed(range(len(names))):
        if names[index] != fitting[0]:
            del outputs[index]
    return len(names) > 1


def flatten_output(model: ModelProto) -> bool:
    """Appends a Flatten where the only output has other axes, all of length 1: (N, classes, 1, 1), (N, 1, classes), or no N.

    Returns:
        Whether it had.
    """
    graph = model.graph
    (old,) = graph.output
    kind = edit.value_types(model).get(old.name, old.type)
    shape, classes = edit.dims(kind) or (), classes_of(kind)
    if classes is None or len(shape) == 2:
        return False
    inner = edit.fresh_name(graph, f"{old.name}.unflattened")
    for node in graph.node:
        node.output[:] = [inner if name == old.name else name for name in node.output]
    edit.rename_reads(graph, old.name, inner)
    axis, batch = (0, 1) if len(shape) == 1 else (1, shape[0])
    graph.node.append(helper.make_node("Flatten", [inner], [old.name], name=edit.fresh_name(graph, "flatten"), axis=axis))
    old.CopyFrom(helper.make_tensor_value_info(old.name, old.type.tensor_type.elem_type, [batch, classes]))
    return True


def classes_of(kind: TypeProto) -> int | None:
    """How many classes an output has: the length of its only axis, but for the batch, that is longer than 1."""
    shape = edit.dims(kind)
    if not shape or kind.tensor_type.elem_type != TensorProto.FLOAT:
        return None
    longer = [length for length in shape[1 if len(shape) > 1 else 0 :] if length != 1]
    return longer[0] if len(longer) == 1 else None
