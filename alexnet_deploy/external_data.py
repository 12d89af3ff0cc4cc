"""Whether an ONNX file keeps weights in other files: found without the package onnx, which Runtime does without.

The messages that lead to tensors are read, whatever is in them is passed over: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import mmap
from pathlib import Path

# Message -> number of a field -> the message in it, as onnx/onnx.proto has them.
_INSIDE = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_DATA_LOCATION, _EXTERNAL = 14, 1  # of a Tensor
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # how the content of a field is written
_LONGEST_VARINT = 10


def has_external_data(path: Path) -> bool:
    """Whether a tensor anywhere in the graph says that its values are elsewhere; False for what is no ONNX file."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _leads_outside(content)
        except (IndexError, ValueError):  # truncated, or something else: whoever loads it says so
            return False


def _leads_outside(content: mmap.mmap) -> bool:
    left = [("Model", 0, len(content))]
    while left:
        message, position, end = left.pop()
        while position < end:
            key, position = _varint(content, position)
            number, written = key >> 3, key & 7
            if written == _VARINT:
                value, position = _varint(content, position)
                if (message, number, value) == ("Tensor", _DATA_LOCATION, _EXTERNAL):
                    return True
            elif written == _LENGTH:
                length, position = _varint(content, position)
                if number in _INSIDE[message]:
                    left.append((_INSIDE[message][number], position, position + length))
                position += length
            elif written in (_FIXED32, _FIXED64):
                position += 4 if written == _FIXED32 else 8
            else:
                raise ValueError("no protobuf")
    return False


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the least first, and the position behind it. Raises IndexError, ValueError."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = content[position + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    raise ValueError("no protobuf")
