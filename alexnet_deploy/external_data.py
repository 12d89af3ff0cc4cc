"""Whether an ONNX file keeps weights in other files: found without the package onnx, which Runtime does without.

The messages that lead to tensors are read, whatever is in them is passed over: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from os import SEEK_CUR
from pathlib import Path
from typing import BinaryIO

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
_VARINT, _LENGTH = 0, 2  # how the content of a field is written
_SIZES = {1: 8, 5: 4}  # in bytes, where it is written in one of these ways
_LONGEST_VARINT = 10


def has_external_data(path: Path) -> bool:
    """Whether a tensor anywhere in the graph says that its values are elsewhere; False for what is no ONNX file."""
    with path.open("rb") as file:  # and not mapped: a file that is cut off meanwhile would end the process
        try:
            return _leads_outside(file, path.stat().st_size)
        except ValueError:  # truncated, or something else: whoever loads it says so
            return False


def _leads_outside(file: BinaryIO, size_bytes: int) -> bool:
    left = [("Model", 0, size_bytes)]
    while left:
        message, start, end = left.pop()
        file.seek(start)
        while file.tell() < end:
            number, written = divmod(_varint(file), 8)
            if written == _VARINT:
                if (message, number, _varint(file)) == ("Tensor", _DATA_LOCATION, _EXTERNAL):
                    return True
            elif written in _SIZES:
                file.seek(_SIZES[written], SEEK_CUR)
            elif written == _LENGTH:
                length, inside = _varint(file), file.tell()
                if length > end - inside:
                    raise ValueError("cut off")
                if number in _INSIDE[message]:
                    left.append((_INSIDE[message][number], inside, inside + length))
                file.seek(length, SEEK_CUR)
            else:
                raise ValueError("no protobuf")
    return False


def _varint(file: BinaryIO) -> int:
    """The next number: seven bits a byte, the least first. Raises ValueError where there is none."""
    value = 0
    for place in range(_LONGEST_VARINT):
        (byte,) = file.read(1)
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    raise ValueError("no protobuf")
