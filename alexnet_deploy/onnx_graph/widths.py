"""Floats of one width: a graph in float16 or float64 becomes one in float32."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from alexnet_deploy.onnx_graph import edit

_OTHERS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_NAMING_A_TYPE = ("to", "dtype", "output_dtype", "stash_type")  # attributes of Cast, RandomNormal, LayerNormalization and others


def to_float32(model: ModelProto) -> bool:
    """Makes every float of a graph a float32, in place: weights, constants, casts, input and output.

    Which precision a graph is run in is decided later, from float32. Casts that are left without effect go in `fold`.

    Returns:
        Whether there were others.
    """
    graph = model.graph
    found = False
    for tensor in external_data_helper._get_all_tensors(model):
        if tensor.data_type in _OTHERS:
            with np.errstate(over="ignore"):  # -1.8e308, as masks have it, becomes minus infinity
                tensor.CopyFrom(numpy_helper.from_array(edit.array(tensor).astype(np.float32), tensor.name))
            found = True
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.name in _NAMING_A_TYPE and attribute.i in _OTHERS:
            attribute.i = TensorProto.FLOAT
            found = True
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _OTHERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            found = True
    return found
