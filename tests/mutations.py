"""Damaged and hostile files, made from sound ones: bytes that flipped, and graphs that mean something else than they should."""

from __future__ import annotations

import json
import random as randomness
from collections.abc import Callable
from typing import Any

from onnx import AttributeProto, ModelProto, TensorProto

_INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
_OPERATORS = """
    Conv ConvTranspose Gemm MatMul Relu Add Mul Reshape Flatten Transpose Concat Softmax MaxPool AveragePool Pad
    Resize Expand Tile ConstantOfShape Range Gather Slice Split Unsqueeze Cast QuantizeLinear DequantizeLinear
    BatchNormalization LRN Identity GlobalAveragePool ReduceMean If Loop Scan NonZero OneHot TopK CumSum Einsum
    SequenceConstruct StringNormalizer
    """.split()  # noqa: SIM905  (a list of strings is four times as long)

_VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    2**53,
    2**63,
    "",
    "..",
    "../x",
    "a/b",
    "0" * 64,
    "x" * 5000,
    "\x00",
    [],
    {},
    [[]],
    [None],
)


def damaged(content: bytes, random: randomness.Random) -> bytes:
    """The bytes with a few of them changed, doubled, lost, or cut off."""
    data = bytearray(content)
    for _ in range(random.randint(1, 8)):
        if not data:
            break
        at = random.randrange(len(data))
        length = random.randint(1, min(64, len(data) - at))
        match random.randrange(5):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at : at + length] = random.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[at:]
    return bytes(data)


def twisted(model: ModelProto, random: randomness.Random) -> ModelProto:
    """A copy of a graph that is still protobuf, with one to four things in it that should not be."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for _ in range(random.randint(1, 4)):
        random.choice(_TWISTS)(copy, random)
    return copy


def _shape(model: ModelProto, random: randomness.Random) -> None:
    tensor = random.choice(model.graph.initializer) if model.graph.initializer else None
    if tensor is not None and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(_INTEGERS)


def _rank(model: ModelProto, random: randomness.Random) -> None:
    if model.graph.initializer:
        dims = random.choice(model.graph.initializer).dims
        dims.append(random.choice(_INTEGERS)) if random.random() < 0.5 or not dims else dims.pop()


def _weights(model: ModelProto, random: randomness.Random) -> None:
    """Whole numbers in small tensors become absurd ones: shapes of Reshape, sizes of ConstantOfShape."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64 and tensor.raw_data:
            values = [random.choice(_INTEGERS) for _ in range(len(tensor.raw_data) // 8)]
            tensor.raw_data = b"".join(v.to_bytes(8, "little", signed=True) for v in values)


def _kind(model: ModelProto, random: randomness.Random) -> None:
    if model.graph.initializer:
        random.choice(model.graph.initializer).data_type = random.randrange(25)


def _operator(model: ModelProto, random: randomness.Random) -> None:
    random.choice(model.graph.node).op_type = random.choice(_OPERATORS)


def _domain(model: ModelProto, random: randomness.Random) -> None:
    random.choice(model.graph.node).domain = random.choice(["", "ai.onnx", "com.microsoft", "ai.onnx.ml", "\x00"])


def _attribute(model: ModelProto, random: randomness.Random) -> None:
    found = [a for node in model.graph.node for a in node.attribute]
    if not found:
        return
    chosen = random.choice(found)
    if chosen.type == AttributeProto.INTS and chosen.ints:
        chosen.ints[random.randrange(len(chosen.ints))] = random.choice(_INTEGERS)
    elif chosen.type == AttributeProto.INT:
        chosen.i = random.choice(_INTEGERS)
    elif chosen.type == AttributeProto.FLOAT:
        chosen.f = random.choice([0.0, -1.0, float("nan"), float("inf"), 1e38])
    else:
        chosen.type = random.randrange(15)


def _wire(model: ModelProto, random: randomness.Random) -> None:
    node = random.choice(model.graph.node)
    names = [name for other in model.graph.node for name in other.output] + [t.name for t in model.graph.initializer]
    if node.input and names:
        node.input[random.randrange(len(node.input))] = random.choice([*names, "", "nowhere"])


def _operands(model: ModelProto, random: randomness.Random) -> None:
    node = random.choice(model.graph.node)
    del (node.input if random.random() < 0.7 else node.output)[random.randrange(3) :]


def _nodes(model: ModelProto, random: randomness.Random) -> None:
    at = random.randrange(len(model.graph.node))
    if random.random() < 0.5 and len(model.graph.node) > 1:
        del model.graph.node[at]
    else:
        model.graph.node.append(model.graph.node[at])


def _interface(model: ModelProto, random: randomness.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    if not values:
        return
    kind = random.choice(values).type.tensor_type
    if random.random() < 0.3:
        kind.elem_type = random.randrange(25)
    elif kind.shape.dim:
        random.choice(kind.shape.dim).dim_value = random.choice(_INTEGERS)
    else:
        kind.ClearField("shape")


def _names(model: ModelProto, random: randomness.Random) -> None:
    strange = random.choice(["", "\x00", "a" * 10_000, "../x", "data", "préprocess.\n"])
    part: Any = random.choice([*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output])
    part.name = strange


def _versions(model: ModelProto, random: randomness.Random) -> None:
    if random.random() < 0.5:
        model.ir_version = random.choice([0, 1, 3, 8, 99, 2**40])
    elif model.opset_import:
        random.choice(model.opset_import).version = random.choice([-1, 0, 1, 6, 7, 9, 13, 20, 26, 99, 2**40])


def _external(model: ModelProto, random: randomness.Random) -> None:
    if model.graph.initializer:
        tensor = random.choice(model.graph.initializer)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=random.choice(["", "../../etc/passwd", "/etc/passwd", "model.onnx", "x"]))
        tensor.external_data.add(key="length", value=str(random.choice(_INTEGERS)))


_TWISTS: tuple[Callable[[ModelProto, randomness.Random], None], ...] = (
    _shape,
    _rank,
    _weights,
    _kind,
    _operator,
    _domain,
    _attribute,
    _attribute,
    _wire,
    _operands,
    _nodes,
    _interface,
    _names,
    _versions,
    _external,
)


def twisted_json(value: Any, random: randomness.Random) -> Any:
    """A copy of plain JSON data with one to three of its values exchanged for others."""
    copy = json.loads(json.dumps(value))
    for _ in range(random.randint(1, 3)):
        place = copy
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = random.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and random.random() < 0.8:
                place = place[key]
                continue
            if isinstance(place, dict) and random.random() < 0.2:
                del place[key]
            else:
                place[key] = json.loads(json.dumps(random.choice(_VALUES)))  # a copy: later twists may go into it
            break
    return copy
