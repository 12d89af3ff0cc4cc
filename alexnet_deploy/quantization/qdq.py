"""QuantizeLinear and DequantizeLinear, placed as those who run the graph want them.

tensorrt_form   Q/DQ on the data of each layer and DQ on its weights; nothing at outputs, nothing at biases, zero point 0.
                TensorRT moves a Q up through pooling and fuses it with the convolution and Relu in front.
cpu_form        uint8 data with a zero point; outputs of convolutions quantised too, and biases int32, because
                onnxruntime's integer kernels take over only where everything around a layer is quantised.

Both are functions of a float32 graph, its layers, ranges and quantised weights, and give a new graph. Where the channels of a
tensor are balanced (see `balance`), TensorRT gets a Mul in front of Q, and the CPU a Q with a scale a channel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.quantization.balance import Factors, Float32
from alexnet_deploy.quantization.layers import Layer, Wiring
from alexnet_deploy.quantization.ranges import Range
from alexnet_deploy.quantization.weights import FP8, FP8_LIMIT, INT8_LIMIT, QuantisedWeight, half_exact
from alexnet_deploy.types import Precision

UINT8_STEPS = 255
_INT32_ROOM = 2.0**30
_EIGHT = 8
_SHIFTED = ".shifted"
_HALF_MOST = 65504.0  # TensorRT would put float32's largest number where there is no bound, and complain of its size
_ONE = np.ones(1, np.float32)
_NO_FACTORS: Factors = {}


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
    editor = _Editor(model)
    for tensor in dict.fromkeys(layer.data for layer in layers):
        scale, offset = _symmetric(ranges[tensor], precision), 0.0
        if tensor in shifted and tensor in padding:
            scale, offset = _shifted(ranges[tensor])
        readers = [layer for layer in layers if layer.data == tensor]
        editor.add_prepared_pair(tensor, scale, factors.get(tensor), offset, padding.get(tensor, ()), readers)
        for layer in readers if offset else ():
            editor.make_up_for(layer, weights[layer.weight], offset)
    by_name = {layer.name: layer for layer in layers}
    for node in editor.nodes_of(by_name):
        layer = by_name[node.name]
        node.input[0] = _dq(layer.data)
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
        output = node.input[0].removesuffix(_SHIFTED)
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
    editor = _Editor(model)
    data = {layer.data for layer in layers}
    balanced = {tensor for tensor in scales if tensor in factors}
    for tensor, scale in scales.items():
        if tensor not in balanced:
            editor.add_pair(tensor, scale)
        elif tensor in data:
            editor.add_pair(tensor, scale, entering=factors[tensor])
        else:
            editor.add_pair(_scaled(tensor), scale, leaving=factors[tensor], result=tensor)
    # What is quantised is quantised for everybody who reads it; but a factor is made up for in the layers alone.
    for node in editor.nodes():
        for place, name in enumerate(node.input):
            if name in scales and name not in balanced:
                node.input[place] = _dq(name)
    by_name = {layer.name: layer for layer in layers}
    for node in editor.nodes_of(by_name):
        layer = by_name[node.name]
        weight, given = weights[layer.weight], scales[layer.data].scale
        bias = None if layer.bias is None else editor.values(layer.bias)
        if layer.output in balanced - data:
            factor = factors[layer.output].reshape(-1)
            weight = replace(weight, scale=weight.scale * factor)
            bias = None if bias is None else bias * factor
            node.output[0] = _scaled(layer.output)
        if bias is not None:
            weight = _with_room_for_bias(weight, bias, given)
            node.input[2] = editor.add_bias(layer, bias, weight.scale * np.float32(given))
        node.input[0] = _dq(layer.data)
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
        self._wiring = Wiring(self.model)
        self._nodes = [_copy(node) for node in self.model.graph.node]

    def nodes(self) -> list[NodeProto]:
        return self._nodes

    def nodes_of(self, names: Iterable[str]) -> list[NodeProto]:
        wanted = set(names)
        return [node for node in self._nodes if node.name in wanted]

    def values(self, initialiser: str) -> npt.NDArray[Any]:
        return edit.array(self._originals[initialiser])

    def add_pair(self, tensor: str, scale: Scale, *, entering: Float32 = _ONE, leaving: Float32 = _ONE, result: str = "") -> None:
        """Q and DQ behind `tensor`; the result is called `_dq(tensor)` unless told.

        Args:
            entering: what Q multiplies each channel by.
            leaving: what DQ divides each channel by.
        """
        into = self._add_scale(tensor, scale, entering)
        back = into if entering is leaving else self._add_scale(f"{tensor}.leaving", scale, leaving)
        stored = f"{tensor}.quantised"
        self._pairs[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, *into], [stored], f"{tensor}.q"),
            helper.make_node("DequantizeLinear", [stored, *back], [result or _dq(tensor)], f"{tensor}.dq"),
        ]

    def add_prepared_pair(
        self,
        tensor: str,
        scale: Scale,
        factor: Float32 | None,
        offset: float,
        pads: tuple[int, ...],
        readers: Sequence[Layer],
    ) -> None:
        """As `add_pair`, of tensor * factor - offset, padded with what zero has become: for those who know only zero point 0."""
        steps: list[NodeProto] = []
        last = tensor
        if factor is not None:
            self._constants[f"{tensor}.factor"] = factor
            steps.append(helper.make_node("Mul", [last, f"{tensor}.factor"], [_scaled(tensor)], f"{tensor}.balance"))
            last = _scaled(tensor)
        if offset and (factor is not None or not self._shift_in_front(tensor, offset, readers)):
            self._constants[f"{tensor}.offset"] = np.array(offset, np.float32)
            steps.append(helper.make_node("Sub", [last, f"{tensor}.offset"], [tensor + _SHIFTED], f"{tensor}.shift"))
            last = tensor + _SHIFTED
        if offset and pads:
            half = len(pads) // 2
            self._constants[f"{tensor}.pads"] = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
            self._constants[f"{tensor}.padding"] = np.array(-offset, np.float32)
            parameters = [f"{tensor}.pads", f"{tensor}.padding"]
            steps.append(helper.make_node("Pad", [last, *parameters], [f"{tensor}.padded"], f"{tensor}.pad"))
            last = f"{tensor}.padded"
        self.add_pair(last, scale, result=_dq(tensor))
        self._pairs[tensor] = [*steps, *self._pairs.pop(last)]

    def make_up_for(self, layer: Layer, weight: QuantisedWeight, offset: float) -> None:
        """Adds to a layer's bias what its data was shifted by, and takes its padding away, which stands in front now."""
        (node,) = self.nodes_of([layer.name])
        others = tuple(axis for axis in range(weight.values.ndim) if axis != weight.axis)
        self._add_to_bias(node, np.float32(offset) * weight.dequantised().sum(axis=others))
        if node.op_type == "Conv" and edit.attribute(node, "pads"):
            edit.set_attribute(node, "pads", [0] * len(edit.attribute(node, "pads")))

    def _shift_in_front(self, tensor: str, offset: float, readers: Sequence[Layer]) -> bool:
        """Shifts a tensor where it is made, if a layer's own Relu makes it and nobody else sees it: that costs no operation."""
        if {user.name for user in self._wiring.users(tensor)} != {layer.name for layer in readers}:
            return False
        root = self._wiring.root(tensor)
        relu = self._wiring.maker(root)
        if relu is None or relu.op_type != "Relu" or not self._wiring.is_alone(root, tensor):
            return False
        made = self._wiring.maker(relu.input[0])
        if made is None or made.op_type not in ("Conv", "Gemm") or not self._wiring.is_alone(relu.input[0], root):
            return False
        (layer,), (own,) = self.nodes_of([made.name]), self.nodes_of([relu.name])
        bias_is_known = len(layer.input) < 3 or layer.input[2] in self._originals or layer.input[2] in self._constants
        if not bias_is_known or edit.attribute(layer, "beta", 1.0) != 1.0 or layer.input[1] not in self._originals:
            return False
        self._add_to_bias(layer, np.full(self._outputs_of(layer), -offset, np.float32))
        bounds = [f"{relu.input[0]}.floor", f"{relu.input[0]}.ceiling"]
        self._constants |= {bounds[0]: np.array(-offset, np.float32), bounds[1]: np.array(_HALF_MOST, np.float32)}
        layer.output[0] = relu.input[0] + _SHIFTED
        own.op_type = "Clip"
        own.input[:] = [layer.output[0], *bounds]
        return True

    def _outputs_of(self, layer: NodeProto) -> int:
        dims = self._originals[layer.input[1]].dims
        return int(dims[0] if layer.op_type == "Conv" or edit.attribute(layer, "transB", 0) else dims[1])

    def _add_to_bias(self, node: NodeProto, values: Float32) -> None:
        name = f"{node.name}.bias.shifted"
        if len(node.input) > 2 and node.input[2]:
            old = node.input[2]
            values = values + (self._constants[old] if old in self._constants else self.values(old))
        self._constants[name] = values.astype(np.float32)
        node.input[2:] = [name]

    def _add_scale(self, name: str, scale: Scale, divided_by: Float32) -> list[str]:
        """Scale and zero point: one of each, or one a channel."""
        values = np.float32(scale.scale) / divided_by.reshape(-1)
        values = values.reshape(()) if divided_by is _ONE else values
        self._constants[f"{name}.scale"] = values
        self._constants[f"{name}.zero_point"] = np.full(values.shape, scale.zero_point, scale.zero_point.dtype)
        return [f"{name}.scale", f"{name}.zero_point"]

    def add_weight(self, name: str, weight: QuantisedWeight) -> str:
        """Stores 8-bit weights; returns the name of what DequantizeLinear makes of them."""
        return self._add_constant(name, weight.values, weight.scale, weight.axis)

    def add_bias(self, layer: Layer, bias: Float32, scale: Float32) -> str:
        """Stores a bias as int32; one that several layers share is stored for each, since its scale is theirs."""
        values = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
        return self._add_constant(f"{layer.name}.bias", values, scale, 0)

    def _add_constant(self, name: str, values: npt.NDArray[Any], scale: Float32, axis: int) -> str:
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


def int8_steps(limits: Range, shifted: bool) -> tuple[float, int]:
    """How TensorRT's form stores an activation in int8: (scale, what zero is stored as)."""
    if not shifted:
        return _symmetric(limits, Precision.INT8).scale, 0
    scale, offset = _shifted(limits)
    return scale.scale, -round(offset / scale.scale)


def _symmetric(limits: Range, precision: Precision) -> Scale:
    largest = max(-limits[0], limits[1])
    if precision == Precision.FP8:
        return Scale(float(half_exact(largest / FP8_LIMIT)), np.zeros((), FP8))
    return Scale(float(half_exact(largest / INT8_LIMIT)), np.zeros((), np.int8))


def _shifted(limits: Range) -> tuple[Scale, float]:
    """The scale of a tensor that is shifted, and by how much: by a whole number of steps, so that zero is met exactly.

    Both are float16 numbers: the scale keeps 7 significant bits, and steps are counted in eighths of a hundred and twenty-eight.
    """
    low, high = limits
    below = math.ceil(-low / (high - low) * UINT8_STEPS / _EIGHT) * _EIGHT  # steps under zero
    scale = max(high / (UINT8_STEPS - below), -low / below if below else 0.0)
    mantissa, exponent = math.frexp(scale)
    scale = math.ldexp(math.ceil(mantissa * 2**7), exponent - 7)
    return Scale(scale, np.zeros((), np.int8)), scale * (128 - below)


def _padding(node: NodeProto) -> tuple[int, ...] | None:
    """How a layer pads its data, () where it does not; None where that cannot be told or made up for."""
    if node.op_type == "MatMul" or edit.attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    if node.op_type == "Gemm" and (edit.attribute(node, "alpha", 1.0), edit.attribute(node, "beta", 1.0)) != (1.0, 1.0):
        return None
    pads = tuple(edit.attribute(node, "pads", ()))
    return pads if any(pads) else ()


def _asymmetric(limits: Range) -> Scale:
    low, high = limits
    scale = np.float32((high - low) / UINT8_STEPS)
    return Scale(float(scale), np.array(round(float(np.clip(-low / scale, 0, UINT8_STEPS))), np.uint8))


def _with_room_for_bias(weight: QuantisedWeight, bias: Float32, data_scale: float) -> QuantisedWeight:
    """Coarser scales for channels whose weights are so small that the bias would not fit into int32 beside them."""
    needed = (np.abs(bias) / (data_scale * _INT32_ROOM)).astype(np.float32)
    if (weight.scale >= needed).all():
        return weight
    scale = np.maximum(weight.scale, needed)
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.values.ndim)]
    values = np.rint(weight.dequantised() / scale.reshape(shape)).astype(np.int8)
    return QuantisedWeight(values, scale, weight.axis)


def _scaled(tensor: str) -> str:
    """What `tensor` times its factors is called."""
    return f"{tensor}.balanced"


def _dq(tensor: str) -> str:
    return f"{tensor}.dequantised"


def _copy(node: NodeProto) -> NodeProto:
    duplicate = NodeProto()
    duplicate.CopyFrom(node)
    return duplicate
