"""Protocol buffers as bytes: field numbers and values, without a schema (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10

Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message, in its order: a number for a varint, bytes for everything else.

    Raises:
        ValueError: it is cut off, or no protocol buffer.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError("a field has the number 0")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} has the wire type {kind}")
        if at + size > len(message):
            raise ValueError("it is cut off")
        yield number, message[at : at + size]
        at += size


def numbers(value: Value) -> list[int]:
    """A repeated integer: packed, or one of those that are not."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for place in range(_MOST_VARINT_BYTES):
        if at + place >= len(message):
            raise ValueError("it is cut off")
        byte = message[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise ValueError("a number has more than ten bytes")
