"""QuantizeLinear and DequantizeLinear, placed as those who run the graph want them.

tensorrt_form   Q/DQ on the data of each layer and DQ on its weights; nothing at outputs, nothing at biases, zero point 0.
                TensorRT moves a Q up through pooling and fuses it with the convolution and Relu in front.
cpu_form        uint8 data with a zero point; outputs of convolutions quantised too, and biases int32, because
                onnxruntime's integer kernels take over only where everything around a layer is quantised.

Both are functions of a float32 graph, its layers, ranges and quantised weights, and give a new graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.quantization.layers import Layer, Wiring
from alexnet_deploy.quantization.ranges import Range
from alexnet_deploy.quantization.weights import FP8, FP8_LIMIT, INT8_LIMIT, QuantisedWeight, half_exact
from alexnet_deploy.types import Precision

UINT8_STEPS = 255
_INT32_ROOM = 2.0**30


@dataclass(frozen=True, slots=True)
class Scale:
    """How one activation is quantised: real = (stored - zero_point) * scale."""

    scale: float
    zero_point: npt.NDArray[Any]  # 0-d; its dtype is the stored one


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
) -> ModelProto:
    """The graph with `layers` quantised to INT8 or FP8 for TensorRT; everything else stays float32."""
    scales = {layer.data: _symmetric(ranges[layer.data], precision) for layer in layers}
    editor = _Editor(model)
    for tensor, scale in scales.items():
        editor.add_pair(tensor, scale)
    by_name = {layer.name: layer for layer in layers}
    for node in editor.nodes_of(by_name):
        layer = by_name[node.name]
        node.input[0] = _dq(layer.data)
        node.input[1] = editor.add_weight(layer.weight, weights[layer.weight])
    return editor.finish()


def cpu_form(
    model: ModelProto, layers: Sequence[Layer], ranges: Mapping[str, Range], weights: Mapping[str, QuantisedWeight]
) -> ModelProto:
    """The graph with `layers` quantised to U8S8 for onnxruntime's (and OpenVINO's) integer kernels on the CPU."""
    scales = _cpu_scales(model, layers, ranges)
    editor = _Editor(model)
    for tensor, scale in scales.items():
        editor.add_pair(tensor, scale)
    # What is quantised is quantised for everybody who reads it.
    for node in editor.nodes():
        for place, name in enumerate(node.input):
            if name in scales:
                node.input[place] = _dq(name)
    by_name = {layer.name: layer for layer in layers}
    for node in editor.nodes_of(by_name):
        layer = by_name[node.name]
        weight, given = weights[layer.weight], scales[layer.data].scale
        if layer.bias is not None:
            weight = _with_room_for_bias(weight, editor.values(layer.bias), given)
            node.input[2] = editor.add_bias(layer, weight.scale * np.float32(given))
        node.input[1] = editor.add_weight(layer.weight, weight)
    return editor.finish()


@dataclass
class _Editor:
    """A graph under change: pairs are noted, weights replaced, and `finish` puts it together in order."""

    model: ModelProto
    _pairs: dict[str, list[NodeProto]] = field(default_factory=dict)
    _constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    _weight_nodes: dict[str, NodeProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._originals = edit.initialisers(self.model.graph)
        self._nodes = [_copy(node) for node in self.model.graph.node]

    def nodes(self) -> list[NodeProto]:
        return self._nodes

    def nodes_of(self, names: Iterable[str]) -> list[NodeProto]:
        wanted = set(names)
        return [node for node in self._nodes if node.name in wanted]

    def values(self, initialiser: str) -> npt.NDArray[Any]:
        return edit.array(self._originals[initialiser])

    def add_pair(self, tensor: str, scale: Scale) -> None:
        """Q and DQ behind `tensor`; the result is called `_dq(tensor)`."""
        self._constants[f"{tensor}.scale"] = np.array(scale.scale, np.float32)
        self._constants[f"{tensor}.zero_point"] = scale.zero_point
        parameters = [f"{tensor}.scale", f"{tensor}.zero_point"]
        stored = f"{tensor}.quantised"
        self._pairs[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [stored], f"{tensor}.q"),
            helper.make_node("DequantizeLinear", [stored, *parameters], [_dq(tensor)], f"{tensor}.dq"),
        ]

    def add_weight(self, name: str, weight: QuantisedWeight) -> str:
        """Stores 8-bit weights; returns the name of what DequantizeLinear makes of them."""
        return self._add_constant(name, weight.values, weight.scale, weight.axis)

    def add_bias(self, layer: Layer, scale: npt.NDArray[np.float32]) -> str:
        """Stores a bias as int32; one that several layers share is stored for each, since its scale is theirs."""
        values = np.rint(self.values(layer.bias or "").astype(np.float64) / scale).astype(np.int32)
        return self._add_constant(f"{layer.name}.bias", values, scale, 0)

    def _add_constant(self, name: str, values: npt.NDArray[Any], scale: npt.NDArray[np.float32], axis: int) -> str:
        parts = [f"{name}.quantised", f"{name}.scale", f"{name}.zero_point"]
        zero = np.zeros(scale.shape, values.dtype)
        self._constants.update(zip(parts, (values, scale, zero), strict=True))
        self._weight_nodes[name] = helper.make_node("DequantizeLinear", parts, [_dq(name)], f"{name}.dq", axis=axis)
        return _dq(name)

    def finish(self) -> ModelProto:
        result = ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        graph = result.graph
        graph.name = self.model.graph.name
        graph.input.extend(self.model.graph.input)
        graph.output.extend(self.model.graph.output)
        graph.node.extend(self._weight_nodes.values())
        made_by_node = {name for node in self._nodes for name in node.output}
        for tensor, pair in self._pairs.items():
            if tensor not in made_by_node:
                graph.node.extend(pair)
        for node in self._nodes:
            graph.node.append(node)
            for name in node.output:
                graph.node.extend(self._pairs.get(name, []))
        read = {name for node in graph.node for name in node.input}
        graph.initializer.extend(tensor for name, tensor in self._originals.items() if name in read)
        graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in self._constants.items())
        return result


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
    return {tensor: _asymmetric(family[root]) for tensor, root in members.items()}


def _symmetric(limits: Range, precision: Precision) -> Scale:
    largest = max(-limits[0], limits[1])
    if precision == Precision.FP8:
        return Scale(float(half_exact(largest / FP8_LIMIT)), np.zeros((), FP8))
    return Scale(float(half_exact(largest / INT8_LIMIT)), np.zeros((), np.int8))


def _asymmetric(limits: Range) -> Scale:
    low, high = limits
    scale = np.float32((high - low) / UINT8_STEPS)
    return Scale(float(scale), np.array(round(float(np.clip(-low / scale, 0, UINT8_STEPS))), np.uint8))


def _with_room_for_bias(weight: QuantisedWeight, bias: npt.NDArray[np.float32], data_scale: float) -> QuantisedWeight:
    """Coarser scales for channels whose weights are so small that the bias would not fit into int32 beside them."""
    needed = (np.abs(bias) / (data_scale * _INT32_ROOM)).astype(np.float32)
    if (weight.scale >= needed).all():
        return weight
    scale = np.maximum(weight.scale, needed)
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.values.ndim)]
    values = np.rint(weight.dequantised() / scale.reshape(shape)).astype(np.int8)
    return QuantisedWeight(values, scale, weight.axis)


def _dq(tensor: str) -> str:
    return f"{tensor}.dequantised"


def _copy(node: NodeProto) -> NodeProto:
    duplicate = NodeProto()
    duplicate.CopyFrom(node)
    return duplicate
