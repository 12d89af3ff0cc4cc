"""The first convolution over groups of neighbouring pixels: a part of the width becomes channels.

onnxruntime's fast integer convolution takes channels by fours, and leaves a picture's three to a slower one. Where the stride is
s pixels, s neighbours of a row can be one place with 3 s channels: behind one another in memory they are already.

    (N, 3, 224, 224), kernel 11x11, stride 4  ->  (N, 12, 224, 57), kernel 11x3, stride 4x1

The kernel is filled up with zeros to whole groups, the picture with its zero point: integers are summed, so that answers stay the
same to the bit. AlexNet on onnxruntime gains 2 to 5 % of its time (docs/decisions/0510-*.md).
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from alexnet_deploy.onnx_graph import edit

_CHANNELS_AT_ONCE = 4


def width_to_channels(model: ModelProto) -> bool:
    """Rewrites the quantised convolutions for which it pays, in place. Returns whether there was one."""
    types = edit.value_types(model)
    changed = False
    for node in list(edit.nodes_of(model.graph, "Conv")):
        shape = edit.dims(types[node.input[0]]) if node.input[0] in types else None
        changed |= shape is not None and len(shape) == 4 and _rewrite(model.graph, node, shape)
    while changed and edit.drop_unused(model.graph):
        pass
    return changed


def _rewrite(graph: GraphProto, conv: NodeProto, shape: tuple[int | None, ...]) -> bool:
    _, channels, height, width = shape
    stored, made_by = edit.initialisers(graph), edit.producers(graph)
    data, weight = made_by.get(conv.input[0]), made_by.get(conv.input[1])
    if channels is None or height is None or width is None or data is None or weight is None:
        return False
    if not _is_dequantise(data, stored) or not _is_dequantise(weight, stored) or weight.input[0] not in stored:
        return False
    if edit.array(stored[weight.input[2]]).any() or any(len(edit.consumers(graph)[name]) > 1 for name in conv.input[:2]):
        return False
    group = edit.attribute(conv, "strides", [1, 1])[1]
    if channels % _CHANNELS_AT_ONCE == 0 or channels * group % _CHANNELS_AT_ONCE or not _is_plain(conv):
        return False
    kernel = edit.array(stored[weight.input[0]])  # int8 (outputs, channels, kh, kw)
    outputs, _, kernel_height, kernel_width = kernel.shape
    top, left, bottom, right = edit.attribute(conv, "pads", [0, 0, 0, 0])
    steps = (width + left + right - kernel_width) // group + 1
    filled = -(-kernel_width // group) * group
    right = group * (steps - 1) + filled - width - left
    if right < 0 or 2 * filled > 3 * kernel_width:  # columns that the stride never reaches; more zeros than it is worth
        return False
    wide = np.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, filled - kernel_width)))
    wide = wide.reshape(outputs, channels, kernel_height, filled // group, group).transpose(0, 4, 1, 2, 3)
    wide = wide.reshape(outputs, group * channels, kernel_height, filled // group)
    name = conv.name or conv.output[0]
    constants = {
        "pads": np.array([0, 0, left, 0, 0, 0, right, 0], np.int64),
        "shape": np.array([0, height, (left + width + right) // group, group * channels], np.int64),
        "weight": wide,
    }
    names = {key: edit.add_initialiser(graph, edit.fresh_name(graph, f"{name}.wide.{key}"), v) for key, v in constants.items()}
    chain = edit.Chain(graph, data.input[0], name)
    chain.then("Transpose", "rows", perm=[0, 2, 3, 1])
    if left or right:
        chain.then("Pad", "padded", names["pads"], data.input[2])
    chain.then("Reshape", "grouped", names["shape"])
    chain.then("Transpose", "channels", perm=[0, 3, 1, 2])
    chain.insert(next(index for index, other in enumerate(graph.node) if other is data))
    data.input[0] = chain.last
    weight.input[0] = names["weight"]
    edit.set_attribute(conv, "kernel_shape", [kernel_height, filled // group])
    edit.set_attribute(conv, "strides", [edit.attribute(conv, "strides")[0], 1])
    edit.set_attribute(conv, "pads", [top, 0, bottom, 0])
    return True


def _is_dequantise(node: NodeProto, stored: dict[str, TensorProto]) -> bool:
    return node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[2] in stored


def _is_plain(conv: NodeProto) -> bool:
    """One group, no holes in the kernel, padding in numbers."""
    spaced = any(step != 1 for step in edit.attribute(conv, "dilations", [1, 1]))
    return edit.attribute(conv, "group", 1) == 1 and not spaced and edit.attribute(conv, "auto_pad", b"NOTSET") == b"NOTSET"
