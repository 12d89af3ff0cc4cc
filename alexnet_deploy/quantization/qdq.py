"""QuantizeLinear and DequantizeLinear, placed as those who run the graph want them.

tensorrt_form   Q/DQ on the data of each layer and DQ on its weights; nothing at outputs, nothing at biases, zero point 0.
                TensorRT moves a Q up through pooling and fuses it with the convolution and Relu in front.
cpu_form        uint8 data with a zero point; outputs of convolutions quantised too, and biases int32, because
                onnxruntime's integer kernels take over only where everything around a layer is quantised.

Both are functions of a float32 graph, its layers, ranges and quantised weights, and give a new graph. Where the channels of a
tensor are balanced (see `balance`), a Mul stands in front of Q.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.quantization.balance import Factors, Float32
from alexnet_deploy.quantization.editor import SHIFTED, Editor, dequantised, scaled
from alexnet_deploy.quantization.layers import Layer, Wiring
from alexnet_deploy.quantization.ranges import Range
from alexnet_deploy.quantization.scales import Scale, asymmetric, shifted_to_middle, symmetric
from alexnet_deploy.quantization.weights import QuantisedWeight
from alexnet_deploy.types import Precision

_INT32_ROOM = 2.0**30
_NO_FACTORS: Factors = {}


def observed_tensors(model: ModelProto, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The tensors whose ranges the two forms need: the data of each layer, and outputs of convolutions that lead elsewhere."""
    wiring = Wiring(model)
    data = dict.fromkeys(layer.data for layer in layers)
    roots = {wiring.root(tensor) for tensor in data}
    outputs = dict.fromkeys(wiring.activated(layer.output) for layer in layers if layer.op == "Conv")
    return (*data, *(t for t in outputs if t not in roots and t not in data and not wiring.is_output(t)))


def tensorrt_form(
    model: ModelProto,
    layers: Sequence[Layer],
    ranges: Mapping[str, Range],
    weights: Mapping[str, QuantisedWeight],
    precision: Precision = Precision.INT8,
    factors: Factors = _NO_FACTORS,
    shifted: Collection[str] = (),
) -> ModelProto:
    """The graph with `layers` quantised to INT8 or FP8 for TensorRT; everything else stays float32.

    Args:
        ranges: of the tensors times their factors, where they have some.
        weights: with these factors taken out.
        shifted: tensors to shift, where they are `shiftable`; INT8 only.
    """
    padding = shiftable(model, layers) if precision is Precision.INT8 else {}
    editor = Editor(model)
    for tensor in dict.fromkeys(layer.data for layer in layers):
        scale, offset = symmetric(ranges[tensor], precision), 0.0
        if tensor in shifted and tensor in padding:
            scale, offset = shifted_to_middle(ranges[tensor])
        readers = [layer for layer in layers if layer.data == tensor]
        editor.add_prepared_pair(tensor, scale, factors.get(tensor), offset, padding.get(tensor, ()), readers)
        for layer in readers if offset else ():
            editor.make_up_for(layer, weights[layer.weight], offset)
    by_name = {layer.name: layer for layer in layers}
    for node in editor.nodes_of(by_name):
        layer = by_name[node.name]
        node.input[0] = dequantised(layer.data)
        node.input[1] = editor.add_weight(layer.weight, weights[layer.weight])
    return editor.finish()


def shiftable(model: ModelProto, layers: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """The tensors that TensorRT may be given shifted to the middle of int8, and how each is padded by the layers that read it.

    What is never negative uses half of a scale with zero point 0: seven bits. Less half its range it uses all of it, and the
    layers that read it make up for that in their bias. Where these pad, they would pad with the middle of the range
    instead of zero: a Pad in front does it then. () stands for no padding.
    """
    nodes = {node.name: node for node in model.graph.node}
    given = model.graph.input[0].name
    found: dict[str, set[tuple[int, ...] | None]] = {}
    for layer in layers:
        known = layer.bias is not None or len(nodes[layer.name].input) < 3
        found.setdefault(layer.data, set()).add(_padding(nodes[layer.name]) if known else None)
    return {tensor: pads for tensor, (pads, *others) in found.items() if tensor != given and pads is not None and not others}


def shifted_outputs(model: ModelProto) -> dict[str, tuple[str, float]]:
    """For each layer whose output a TensorRT form computes shifted: the name that it has there, and what was taken from it."""
    stored = edit.initialisers(model.graph)
    found = {}
    for node in edit.nodes_of(model.graph, "Clip"):
        output = node.input[0].removesuffix(SHIFTED)
        if output != node.input[0]:
            found[output] = node.input[0], -float(edit.array(stored[node.input[1]]))
    return found


def cpu_form(
    model: ModelProto,
    layers: Sequence[Layer],
    ranges: Mapping[str, Range],
    weights: Mapping[str, QuantisedWeight],
    factors: Factors = _NO_FACTORS,
) -> ModelProto:
    """The graph with `layers` quantised to U8S8 for onnxruntime's (and OpenVINO's) integer kernels on the CPU.

    A convolution whose output has factors computes that output times them, in the scales of its weights, and the
    DequantizeLinear behind it takes them out again. The other arguments are as those of `tensorrt_form`.
    """
    scales = _cpu_scales(model, layers, ranges)
    editor = Editor(model)
    data = {layer.data for layer in layers}
    balanced = {tensor for tensor in scales if tensor in factors}
    for tensor, scale in scales.items():
        if tensor in balanced - data:
            editor.add_pair_of_scaled(tensor, scale, factors[tensor])
        else:
            editor.add_prepared_pair(tensor, scale, factors.get(tensor))
    # What is quantised is quantised for everybody who reads it; but a factor is made up for in the layers alone.
    for node in editor.nodes():
        for place, name in enumerate(node.input):
            if name in scales and name not in balanced:
                node.input[place] = dequantised(name)
    by_name = {layer.name: layer for layer in layers}
    times_read = Counter(layer.weight for layer in layers)
    for node in editor.nodes_of(by_name):
        layer = by_name[node.name]
        weight, given = weights[layer.weight], scales[layer.data].scale
        bias = None if layer.bias is None else editor.values(layer.bias)
        if layer.output in balanced - data:
            factor = factors[layer.output].reshape(-1)
            weight = replace(weight, scale=weight.scale * factor)
            bias = None if bias is None else bias * factor
            node.output[0] = scaled(layer.output)
        if bias is not None:
            weight = _with_room_for_bias(weight, bias, given)
            node.input[2] = editor.add_bias(layer, bias, weight.scale * np.float32(given))
        node.input[0] = dequantised(layer.data)
        is_as_others_read_it = times_read[layer.weight] == 1 or weight is weights[layer.weight]
        name = layer.weight if is_as_others_read_it else f"{layer.weight}.{layer.name}"
        node.input[1] = editor.add_weight(name, weight)
    return editor.finish()


def _cpu_scales(model: ModelProto, layers: Sequence[Layer], ranges: Mapping[str, Range]) -> dict[str, Scale]:
    """One scale for each family of tensors that are rearrangements of each other, at every member that must be quantised."""
    wiring = Wiring(model)
    family: dict[str, Range] = {}
    members: dict[str, str] = {}
    for layer in layers:
        path = wiring.path_from_root(layer.data)
        root = path[0].input[0] if path else layer.data
        low, high = ranges[layer.data]
        known = family.get(root, (0.0, 0.0))
        family[root] = min(low, known[0]), max(high, known[1])
        members[root] = root
        members.update({node.output[0]: root for node in path})
    for layer in layers:
        result = wiring.activated(layer.output)
        if layer.op == "Conv" and result not in members and result in ranges:
            family[result] = ranges[result]
            members[result] = result
    return {tensor: asymmetric(family[root]) for tensor, root in members.items()}


def _padding(node: NodeProto) -> tuple[int, ...] | None:
    """How a layer pads its data, () where it does not; None where that cannot be told or made up for."""
    if node.op_type == "MatMul" or edit.attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    if node.op_type == "Gemm" and (edit.attribute(node, "alpha", 1.0), edit.attribute(node, "beta", 1.0)) != (1.0, 1.0):
        return None
    pads = tuple(edit.attribute(node, "pads", ()))
    return pads if any(pads) else ()


def _with_room_for_bias(weight: QuantisedWeight, bias: Float32, data_scale: float) -> QuantisedWeight:
    """Coarser scales for channels whose weights are so small that the bias would not fit into int32 beside them."""
    needed = (np.abs(bias) / (data_scale * _INT32_ROOM)).astype(np.float32)
    if (weight.scale >= needed).all():
        return weight
    scale = np.maximum(weight.scale, needed)
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.values.ndim)]
    values = np.rint(weight.dequantised() / scale.reshape(shape)).astype(np.int8)
    return QuantisedWeight(values, scale, weight.axis)
