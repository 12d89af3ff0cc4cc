"""A float32 graph on its way to a quantised one: pairs of Q and DQ noted, weights and biases replaced, then put in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.quantization.layers import Layer, Wiring
from alexnet_deploy.quantization.scales import Scale
from alexnet_deploy.quantization.weights import Float32, QuantisedWeight

SHIFTED = ".shifted"
_HALF_MOST = 65504.0  # TensorRT would put float32's largest number where there is no bound, and complain of its size


@dataclass
class Editor:
    """Changes are noted, and `finish` puts the new graph together."""

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

    def add_pair(self, tensor: str, scale: Scale, *, result: str = "") -> None:
        """Q and DQ behind `tensor`; the result is called `dequantised(tensor)` unless told."""
        self._constants[f"{tensor}.scale"] = np.array(scale.scale, np.float32)
        self._constants[f"{tensor}.zero_point"] = np.array(scale.zero_point)
        parameters, stored = [f"{tensor}.scale", f"{tensor}.zero_point"], f"{tensor}.quantised"
        self._pairs[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [stored], f"{tensor}.q"),
            helper.make_node("DequantizeLinear", [stored, *parameters], [result or dequantised(tensor)], f"{tensor}.dq"),
        ]

    def add_pair_of_scaled(self, tensor: str, scale: Scale, factor: Float32) -> None:
        """As `add_pair`, behind `scaled(tensor)`, which a layer gives in its stead; what follows takes the factor out again."""
        product = scaled(tensor)
        self.add_pair(product, scale)
        self._constants[f"{tensor}.divisor"] = 1 / factor
        self._pairs[product].append(
            helper.make_node("Mul", [dequantised(product), f"{tensor}.divisor"], [tensor], f"{tensor}.unbalance")
        )

    def add_prepared_pair(
        self,
        tensor: str,
        scale: Scale,
        factor: Float32 | None,
        offset: float = 0.0,
        pads: tuple[int, ...] = (),
        readers: Sequence[Layer] = (),
    ) -> None:
        """As `add_pair`, of tensor * factor - offset, padded with what zero has become: for those who know only zero point 0."""
        steps: list[NodeProto] = []
        last = tensor
        if factor is not None:
            self._constants[f"{tensor}.factor"] = factor
            steps.append(helper.make_node("Mul", [last, f"{tensor}.factor"], [scaled(tensor)], f"{tensor}.balance"))
            last = scaled(tensor)
        if offset and (factor is not None or not self._shift_in_front(tensor, offset, readers)):
            self._constants[f"{tensor}.offset"] = np.array(offset, np.float32)
            steps.append(helper.make_node("Sub", [last, f"{tensor}.offset"], [tensor + SHIFTED], f"{tensor}.shift"))
            last = tensor + SHIFTED
        if offset and pads:
            half = len(pads) // 2
            self._constants[f"{tensor}.pads"] = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
            self._constants[f"{tensor}.padding"] = np.array(-offset, np.float32)
            parameters = [f"{tensor}.pads", f"{tensor}.padding"]
            steps.append(helper.make_node("Pad", [last, *parameters], [f"{tensor}.padded"], f"{tensor}.pad"))
            last = f"{tensor}.padded"
        self.add_pair(last, scale, result=dequantised(tensor))
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
        layer.output[0] = relu.input[0] + SHIFTED
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
        self._weight_nodes[name] = helper.make_node("DequantizeLinear", parts, [dequantised(name)], f"{name}.dq", axis=axis)
        return dequantised(name)

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


def scaled(tensor: str) -> str:
    """What `tensor` times its factors is called."""
    return f"{tensor}.balanced"


def dequantised(tensor: str) -> str:
    """What `tensor` is called behind its DequantizeLinear."""
    return f"{tensor}.dequantised"


def _copy(node: NodeProto) -> NodeProto:
    duplicate = NodeProto()
    duplicate.CopyFrom(node)
    return duplicate
