"""Large fully connected layers with one weight scale; what the channels' scales differ by is multiplied in behind them.

onnxruntime's integer product of matrices takes 6 to 10 % longer where each column has a scale, and therefore a zero point, of its
own: at batch 1 that is more than a multiplication of the result takes, if the layer is large (docs/decisions/0510-*.md).

    Gemm(x, q * scale[channels])  ->  Mul(Gemm(x, q * unit), scale[channels] / unit)

The integers stay as they are. The unit is a power of two, so that only one rounding of float32 lies between the two.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from alexnet_deploy.onnx_graph import edit

SMALLEST = 2**23  # weights; in smaller layers the multiplication costs what it gains


def one_scale(model: ModelProto, smallest: int = SMALLEST) -> bool:
    """Rewrites the quantised Gemm of at least `smallest` weights, in place. Returns whether there was one."""
    rewritten = [_rewrite(model.graph, node, smallest) for node in list(edit.nodes_of(model.graph, "Gemm"))]
    return any(rewritten)


def _rewrite(graph: GraphProto, gemm: NodeProto, smallest: int) -> bool:
    stored, made_by, read_by = edit.initialisers(graph), edit.producers(graph), edit.consumers(graph)
    operands = [made_by.get(name) for name in gemm.input[1:] if name]
    if not operands or not all(_has_own_scales(node, stored, read_by) for node in operands):
        return False
    weight, *bias = (node for node in operands if node is not None)
    scale = edit.array(stored[weight.input[1]])
    is_channel_axis = edit.attribute(weight, "axis", 1) == (0 if edit.attribute(gemm, "transB", 0) else 1)
    if math.prod(stored[weight.input[0]].dims) < smallest or not is_channel_axis or any(_differ(scale, b, stored) for b in bias):
        return False
    unit = np.exp2(np.rint(np.log2(scale.mean()))).astype(np.float32)
    factor = edit.add_initialiser(graph, edit.fresh_name(graph, f"{gemm.name}.scales"), scale / unit)
    for node in (weight, *bias):
        zero = edit.array(stored[node.input[2]])
        of_one = edit.array(stored[node.input[1]]).reshape(-1)[0] / scale[0] * unit  # of a bias: the data's scale times the unit
        node.input[1] = edit.add_initialiser(graph, edit.fresh_name(graph, f"{node.input[1]}.unit"), np.array(of_one, np.float32))
        node.input[2] = edit.add_initialiser(graph, edit.fresh_name(graph, f"{node.input[2]}.unit"), np.zeros((), zero.dtype))
        del node.attribute[:]  # the axis
    result = gemm.output[0]
    gemm.output[0] = edit.fresh_name(graph, f"{result}.unscaled")
    at = next(index for index, other in enumerate(graph.node) if other is gemm)
    graph.node.insert(at + 1, helper.make_node("Mul", [gemm.output[0], factor], [result], f"{gemm.name}.scale"))
    edit.drop_all_unused(graph)
    return True


def _has_own_scales(node: NodeProto | None, stored: dict[str, TensorProto], read_by: dict[str, list[NodeProto]]) -> bool:
    """Whether an operand is made from stored integers with a scale a channel and zero points of 0, for its layer alone."""
    if node is None or node.op_type != "DequantizeLinear" or any(name not in stored for name in node.input):
        return False
    if len(node.input) < 3 or len(stored[node.input[1]].dims) != 1 or len(read_by[node.output[0]]) != 1:
        return False
    return not edit.array(stored[node.input[2]]).any()


def _differ(scale: np.ndarray, bias: NodeProto, stored: dict[str, TensorProto]) -> bool:
    """Whether a bias has scales that are not the weights' times one number, which is the data's scale."""
    ratios = edit.array(stored[bias.input[1]]) / scale
    return ratios.shape != scale.shape or not np.allclose(ratios, ratios[0], rtol=1e-5)
