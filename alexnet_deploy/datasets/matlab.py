"""As much of MATLAB's level 5 files as ImageNet's meta.mat needs: one array of structs of texts and numbers.

An element is a type, a length in bytes and its bytes, padded to eight; short ones are packed into eight bytes in all.
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from alexnet_deploy.errors import DataError

_MOST_BYTES = 64 << 20
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT_CLASS, _CHAR_CLASS, _NUMBER_CLASSES = 2, 4, range(6, 16)

Value = str | float | None


def structs(content: bytes, name: str) -> list[dict[str, Value]]:
    """The elements of the first array of structs in a file.

    Args:
        content: of the file.
        name: of the file, for errors.

    Returns:
        For each struct its fields: text, the first number of an array, or None for anything else.

    Raises:
        DataError: it is damaged, of another version, or has no array of structs.
    """
    try:
        if content[126:128] != b"IM" or content[124:126] != b"\x00\x01":
            raise ValueError("it is no little-endian file of level 5")
        for kind, data in _elements(content[128:]):
            if kind == _COMPRESSED:
                packed = zlib.decompressobj()
                ((kind, data),) = _elements(packed.decompress(data, _MOST_BYTES))
            if kind == _MATRIX and (found := _structs(data)) is not None:
                return found
    except (ValueError, struct.error, zlib.error, IndexError) as error:
        raise DataError(f"{name} cannot be read ({error})", expected="a MATLAB file of level 5") from error
    raise DataError(f"{name} holds no array of structs", expected="the synsets of ImageNet's development kit")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # a short one: type and length in two bytes each, and up to four bytes of data
            kind, size, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        else:
            start, step = at + 8, 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError("it is cut off")
        yield kind, data[start : start + size]
        at += step


def _structs(data: bytes) -> list[dict[str, Value]] | None:
    """The elements of a matrix that is an array of structs; None for other matrices."""
    parts = list(_elements(data))
    if parts[0][1][0] != _STRUCT_CLASS:
        return None
    _, _, _, (_, width), (_, packed_names), *cells = parts
    length = struct.unpack("<I", width)[0]
    if not length:
        raise ValueError("its fields have no names")
    names = [packed_names[i : i + length].partition(b"\0")[0].decode("ascii") for i in range(0, len(packed_names), length)]
    values = [_value(cell) for kind, cell in cells if kind == _MATRIX]
    return [dict(zip(names, values[i : i + len(names)], strict=True)) for i in range(0, len(values), len(names))]


def _value(data: bytes) -> Value:
    parts = list(_elements(data))
    if not parts or len(parts) < 4:
        return None
    class_of_matrix = parts[0][1][0]
    kind, content = parts[3]
    if class_of_matrix == _CHAR_CLASS and kind in _TEXTS:
        return content.decode(_TEXTS[kind])
    if class_of_matrix in _NUMBER_CLASSES and kind in _NUMBERS and content:
        return float(np.frombuffer(content, _NUMBERS[kind])[0])
    return None
