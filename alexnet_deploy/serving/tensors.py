"""Tensors and requests as the Open Inference Protocol has them, whatever the wire.

Sizes are checked before anything is made of them: a tensor's shape and its bytes must agree, so that a small request
cannot ask for a large array.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import InputError

Array = npt.NDArray[Any]

# The protocol's names. BYTES and BF16 have no numpy dtype: BYTES is kept as an object array, BF16 is not taken.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"{kind}{bits}": np.dtype(f"<{kind[0].lower()}{bits // 8}") for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
DATATYPES = {dtype.name: name for name, dtype in DTYPES.items()}
MAX_RANK = 8
MAX_VALUES = 1 << 40  # more than any request holds; also of the axes beside one of length 0, which numpy multiplies too
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named array.

    Attributes:
        datatype: as the protocol writes it, such as "FP32", "UINT8" or "BYTES".
        array: of that dtype; dtype object, holding `bytes`, where the datatype is BYTES.
    """

    name: str
    datatype: str
    array: Array

    @property
    def rows(self) -> int:
        return self.array.shape[0] if self.array.ndim else 1


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that a request asks for.

    Attributes:
        classes: 0 for the tensor itself; k for the k highest as "value:index:label" strings (the classification extension).
    """

    name: str
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What to compute. No wanted outputs means all."""

    inputs: tuple[Tensor, ...]
    wanted: tuple[WantedOutput, ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What was computed."""

    model: str
    version: str
    outputs: tuple[Tensor, ...]
    id: str = ""


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """A tensor from the bytes of its values, little-endian and row-major; not copied.

    Raises:
        InputError: datatype, shape and bytes do not fit each other.
    """
    count = _count(name, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, _strings(name, _unpack(name, raw, count), shape))
    dtype = _dtype(name, datatype)
    if len(raw) != count * dtype.itemsize:
        raise InputError(
            f"input {name!r} has {len(raw):,} bytes", expected=f"{count * dtype.itemsize:,} for {datatype} {list(shape)}"
        )
    return Tensor(name, datatype, np.frombuffer(raw, dtype).reshape(tuple(shape)))


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """A tensor from a list of its values, flat or nested as its shape is.

    Raises:
        InputError: a value does not fit the datatype, or their number not the shape.
    """
    count = _count(name, shape)
    if datatype == "BYTES":
        strings = [v.encode(errors="replace") if isinstance(v, str) else v for v in values]
        if len(strings) != count or not all(isinstance(v, bytes) for v in strings):
            raise InputError(f"input {name!r} is not {count} strings", expected=f"a flat list for BYTES {list(shape)}")
        return Tensor(name, datatype, _strings(name, strings, shape))
    dtype = _dtype(name, datatype)
    try:
        # Integers are read as Python has them: numpy would make floats of large ones, and let small ones wrap around.
        wide = np.asarray(values, None if dtype.kind == "f" else object)
        numbers = wide.dtype.kind in "biuf" if dtype.kind == "f" else all(isinstance(value, int) for value in wide.flat)
        if wide.size and not numbers:
            raise TypeError("they are no numbers" if dtype.kind == "f" else "they are no whole numbers")
        with np.errstate(over="ignore"):
            array = wide.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"the data of input {name!r} is no array of {datatype}: {error}", expected="numbers") from error
    if dtype.kind != "f" and not np.array_equal(array, wide):
        raise InputError(f"input {name!r} holds values outside {datatype}", expected=f"what {datatype} can hold")
    if array.size != count:
        raise InputError(f"input {name!r} has {array.size:,} values", expected=f"{count:,} for {list(shape)}")
    return Tensor(name, datatype, array.reshape(tuple(shape)))


def to_raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, as `from_raw` takes them."""
    if tensor.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.array.ravel())
    return np.ascontiguousarray(tensor.array, DTYPES[tensor.datatype]).tobytes()


def to_values(tensor: Tensor) -> list[Any]:
    """A tensor's values as a flat list that JSON can hold."""
    if tensor.datatype == "BYTES":
        return [value.decode(errors="replace") for value in tensor.array.ravel()]
    values: list[Any] = tensor.array.ravel().tolist()
    return values


def strings(name: str, rows: Sequence[Sequence[str]]) -> Tensor:
    """A BYTES tensor of one row a sequence, all of the same length."""
    array = np.empty((len(rows), len(rows[0]) if rows else 0), object)
    for index, row in enumerate(rows):
        array[index] = [text.encode() for text in row]
    return Tensor(name, "BYTES", array)


def _count(name: str, shape: Sequence[int]) -> int:
    sizes = 1 <= len(shape) <= MAX_RANK and all(n >= 0 for n in shape)
    if not sizes or math.prod(n or 1 for n in shape) > MAX_VALUES:
        raise InputError(
            f"input {name!r} has the shape {list(shape)[:16]}", expected=f"1 to {MAX_RANK} axes, none negative or endless"
        )
    return math.prod(shape)


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in DTYPES:
        raise InputError(f"input {name!r} has the datatype {datatype[:32]!r}", expected=f"one of {', '.join(DTYPES)}, BYTES")
    return DTYPES[datatype]


def _unpack(name: str, raw: bytes | memoryview, count: int) -> list[bytes]:
    """The strings of a BYTES tensor: each behind its length in four bytes."""
    found: list[bytes] = []
    position = 0
    while position < len(raw) and len(found) < count:
        if position + _LENGTH.size > len(raw):
            break
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        found.append(bytes(raw[position : position + length]))
        position += length
    if position != len(raw) or len(found) != count:
        raise InputError(f"the bytes of input {name!r} are not {count:,} strings", expected="each behind its length, uint32")
    return found


def _strings(name: str, values: Sequence[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(tuple(shape))
