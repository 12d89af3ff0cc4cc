"""Preprocessing moved into the graph: it takes the pixels themselves, uint8 (N, height, width, 3) RGB.

A quarter of the bytes go to the device, and the CPU does nothing but fit the picture to its size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.classifier import describe
from alexnet_deploy.onnx_graph.normalise import BATCH_AXIS

INPUT = "pixels"
PREFIX = "preprocess"  # of the names of the nodes put in; `half.py` leaves them in float32


def accept_pixels(model: ModelProto, recipe: Preprocess) -> Preprocess:
    """Puts `recipe`'s arithmetic, channel order and layout in front of a float32 graph, in place.

    Returns:
        The recipe that is left to do outside: resize and crop.

    Raises:
        InputError: the graph takes uint8 already.
    """
    given, _, _ = describe(model)
    if given.dtype != "float32":
        raise InputError(f"the graph's input is {given}", expected="a float32 input to put preprocessing in front of")
    graph = model.graph
    nodes: list[NodeProto] = []

    def then(kind: str, step: str, *operands: str, **attributes: object) -> str:
        """Appends a node after the last one and returns the name of its output."""
        source = nodes[-1].output[0] if nodes else INPUT
        name = edit.fresh_name(graph, f"{PREFIX}.{step}")
        nodes.append(helper.make_node(kind, [source, *operands], [name], name=name, **attributes))
        return name

    def constant(step: str, values: object, dtype: type = np.float32) -> str:
        return edit.add_initialiser(graph, edit.fresh_name(graph, f"{PREFIX}.{step}"), np.asarray(values, dtype))

    # Cast comes first: TensorRT takes a uint8 tensor into nothing else.
    then("Cast", "to_float", to=TensorProto.FLOAT)
    match recipe.channel_order:
        case "bgr":
            then("Gather", "to_bgr", constant("bgr", [2, 1, 0], np.int64), axis=3)
        case "grey":
            # ITU-R 601 luma in 16-bit fixed point, as `preprocess.normalise` has it; every step is exact in float32.
            then("MatMul", "weigh", constant("luma", [[19595], [38470], [7471]]))
            then("Add", "round", constant("half", 0x8000))
            then("Mul", "shift", constant("two_to_minus_16", 2.0**-16))
            then("Floor", "to_grey")
    channels: tuple[int, ...] = (recipe.channels,)
    if recipe.layout == "nchw":
        then("Transpose", "to_nchw", perm=[0, 3, 1, 2])
        channels = (recipe.channels, 1, 1)
    std = np.asarray(recipe.std, np.float32)
    gain = np.float32(recipe.scale) / std
    offset = -np.asarray(recipe.mean, np.float32) / std
    then("Mul", "scale", constant("gain", gain.reshape(channels)))
    last = then("Add", "shift", constant("offset", offset.reshape(channels)))

    edit.rename_reads(graph, given.name, last)
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [_batch(model), recipe.height, recipe.width, 3])
    graph.input[0].CopyFrom(pixels)
    return replace(recipe, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, channel_order="rgb", layout="nhwc")


def _batch(model: ModelProto) -> int | str:
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    return int(first.dim_value) if first.HasField("dim_value") else BATCH_AXIS
