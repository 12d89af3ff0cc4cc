"""Preprocessing moved into the graph: it takes the pixels themselves, uint8 (N, height, width, 3) RGB.

A quarter of the bytes go to the device, and the CPU does nothing but fit the picture to its size. Every graph of this
toolkit that takes uint8 at all takes it in this form, so that nobody outside has to ask.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.classifier import describe
from alexnet_deploy.onnx_graph.normalise import BATCH_AXIS
from alexnet_deploy.preprocess import framing

INPUT = "pixels"
PREFIX = "preprocess"  # of the names of the nodes put in; `quantization/half.py` leaves them in float32


def accept_pixels(model: ModelProto, recipe: Preprocess) -> Preprocess:
    """Puts `recipe`'s arithmetic, channel order and layout in front of a graph, in place.

    Args:
        model: takes float32, or uint8 in any layout and order of channels.
        recipe: how pictures become its input; for uint8 only layout and channel order count.

    Returns:
        The recipe that is left to do outside: resize and crop.

    Raises:
        ModelError: the graph is no image classifier.
    """
    given, _, _ = describe(model)
    graph = model.graph
    chain = edit.Chain(graph, edit.fresh_name(graph, INPUT), PREFIX)
    # Cast comes first: TensorRT takes a uint8 tensor into nothing else.
    chain.then("Cast", "to_float", to=TensorProto.FLOAT)
    if recipe.channel_order == "bgr":
        chain.then("Gather", "to_bgr", chain.constant("bgr", [2, 1, 0], np.int64), axis=3)
    elif recipe.channel_order == "grey":
        # ITU-R 601 luma in 16-bit fixed point, as `preprocess.normalise` has it; every step is exact in float32.
        chain.then("Mul", "weigh", chain.constant("luma", [19595, 38470, 7471]))
        chain.then("ReduceSum", "luma_sum", chain.constant("channels", [3], np.int64), keepdims=1)
        chain.then("Add", "round", chain.constant("half", 0x8000))
        chain.then("Mul", "shift_right", chain.constant("two_to_minus_16", 2.0**-16))
        chain.then("Floor", "to_grey")
    if recipe.layout == "nchw":
        chain.then("Transpose", "to_nchw", perm=[0, 3, 1, 2])
    if given.dtype == "uint8":
        _read_as_float(graph, given.name, chain)
    else:
        std = np.asarray(recipe.std, np.float32)
        chain.then("Mul", "scale", chain.constant("gain", _rows(np.float32(recipe.scale) / std, recipe)))
        chain.then("Add", "offset", chain.constant("bias", _rows(-np.asarray(recipe.mean, np.float32) / std, recipe)))
        chain.end_in(given.name)  # what is known of the float graph's tensors, such as ranges it was trained with, stays true
    chain.insert(0)
    pixels = helper.make_tensor_value_info(chain.first, TensorProto.UINT8, [_batch(graph), recipe.height, recipe.width, 3])
    graph.input[0].CopyFrom(pixels)
    edit.drop_unused(graph)
    return framing(recipe)


def _rows(channels: npt.NDArray[np.float32], recipe: Preprocess) -> npt.NDArray[np.float32]:
    """One value a channel, for a whole row of pixels: onnxruntime adds three values in turn ten times slower than a row."""
    if recipe.layout == "nchw":
        return np.broadcast_to(channels[:, None, None], (recipe.channels, 1, recipe.width))
    return np.broadcast_to(channels, (recipe.width, recipe.channels))


def _read_as_float(graph: GraphProto, old: str, chain: edit.Chain) -> None:
    """The readers of the old uint8 input read the chain's float32 instead; their own Casts to float32 go."""
    readers = edit.consumers(graph)
    casts: list[NodeProto] = []
    for node in readers.get(old, []):
        following = readers.get(node.output[0], [])
        if _is_cast_to_float(node):
            edit.rename_reads(graph, node.output[0], chain.last)
            casts.append(node)
        elif node.op_type == "Transpose" and following and all(_is_cast_to_float(after) for after in following):
            node.input[0] = chain.last
            for after in following:
                edit.rename_reads(graph, after.output[0], node.output[0])
            casts += following
        else:
            # It wants integers. TensorRT may refuse that; the CPU does not.
            chain.then("Cast", "to_uint8", to=TensorProto.UINT8)
            edit.rename_reads(graph, old, chain.last)
            break
    edit.remove_nodes(graph, casts)


def _is_cast_to_float(node: NodeProto) -> bool:
    return node.op_type == "Cast" and bool(edit.attribute(node, "to") == TensorProto.FLOAT)


def _batch(graph: GraphProto) -> int | str:
    first = graph.input[0].type.tensor_type.shape.dim[0]
    return int(first.dim_value) if first.HasField("dim_value") else BATCH_AXIS
