"""Arrays that live on the GPU, passed between libraries without a copy.

In:  anything with `__dlpack__` (PyTorch, CuPy, JAX) or `__cuda_array_interface__` (Numba), C-contiguous.
Out: a DeviceArray, which has both: torch.from_dlpack(array), cupy.asarray(array).

DLPack's structures: https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import atexit
import ctypes
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import InputError
from alexnet_deploy.trt import cuda

_DL_CUDA = 2
_DL_CUDA_MANAGED = 13
# numpy's types -> DLPack's code and bits
_DL_TYPES = {
    f"{kind}{bits}": (code, bits)
    for kind, code, widths in (("int", 0, (8, 16, 32, 64)), ("uint", 1, (8, 16, 32, 64)), ("float", 2, (16, 32, 64)))
    for bits in widths
}
_DTYPES = {dl_type: name for name, dl_type in _DL_TYPES.items()}
_NAME = b"dltensor"
# DLManagedTensor: data; device type and index; ndim; dtype's code, bits and lanes; shape, strides, byte_offset; context, deleter.
_MANAGED = struct.Struct("PiiiBBHPPQPP")
_DELETER_OFFSET = _MANAGED.size - struct.calcsize("P")


@dataclass(frozen=True, slots=True)
class DeviceView:
    """Somebody else's memory on the GPU.

    Attributes:
        owner: keeps the memory alive for as long as the view is.
    """

    address: int
    dtype: str
    shape: tuple[int, ...]
    owner: object


class DeviceArray:
    """An array on the GPU that is ours: freed with the last reference to it, also those of other libraries.

    Attributes:
        dtype: a numpy dtype name.
        shape: C-contiguous.
        address: on the GPU.
    """

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape
        self._size_bytes = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
        self._memory = cuda.DeviceBuffer(max(self._size_bytes, 1))  # freeing it waits for whatever still reads it
        self.address = self._memory.address

    def to_host(self) -> npt.NDArray[Any]:
        """A copy as a numpy array."""
        result = np.empty(self.shape, self.dtype)
        with cuda.current(), cuda.Stream() as stream:
            cuda.copy_async(cuda.address_of(result), self.address, self._size_bytes, stream)
            stream.synchronize()
        return result

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "version": 3,
            "stream": None,  # it was waited for before anyone got to see it
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DL_CUDA, 0

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule of the first kind, which consumers of every version take; `stream` has nothing to wait for.

        Raises:
            BufferError: a copy is asked for, or another device: what DLPack wants of those who cannot.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("it stays where it is; to_host() gives a copy in numpy")
        return capsule(self.address, self.dtype, self.shape, self.__dlpack_device__(), owner=self)


def is_on_device(array: object) -> bool:
    """Whether `array` says of itself that it lives on the GPU."""
    device = getattr(array, "__dlpack_device__", None)
    if device is not None:
        return device()[0] in (_DL_CUDA, _DL_CUDA_MANAGED)
    return hasattr(array, "__cuda_array_interface__")


def view(array: Any, stream: cuda.Stream, *, to_write: bool = False) -> DeviceView:
    """Where an array's data is. What its library has queued for it is done before what `stream` is given next.

    Raises:
        InputError: it is not on this GPU, not contiguous, of a type that numpy does not have, or not to be written to.
    """
    if isinstance(array, DeviceArray):
        return DeviceView(array.address, array.dtype, array.shape, array)
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        kind, index = array.__dlpack_device__()
        if kind not in (_DL_CUDA, _DL_CUDA_MANAGED) or index != 0:
            raise InputError(
                f"the array is on device {index} of DLPack's type {int(kind)}",
                expected="the first GPU (DLPack's type 2, device 0)",
                fix=".to('cuda:0'), or a numpy array",
            )
        try:
            given = array.__dlpack__(stream=stream.handle)
        except Exception as error:  # each library has its own: of a tensor that needs gradients, of a sparse one
            raise InputError(
                f"the {type(array).__name__} does not lend its memory: {error}", expected="a plain, dense array", fix=".detach()"
            ) from error
        return peek(given)
    if hasattr(array, "__cuda_array_interface__"):
        return _view_of_interface(array, array.__cuda_array_interface__, stream, to_write)
    raise InputError(f"a {type(array).__name__} is no GPU array", expected="__dlpack__ or __cuda_array_interface__")


def _view_of_interface(array: object, interface: dict[str, Any], stream: cuda.Stream, to_write: bool) -> DeviceView:
    """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    _refuse_strides(shape, tuple(interface.get("strides") or ()), dtype.itemsize)
    address, read_only = interface["data"]
    if interface.get("mask") is not None:
        raise InputError("the array is masked", expected="one of which every element counts")
    if read_only and to_write:
        raise InputError("out is read-only", expected="an array that may be written to")
    if address and not cuda.is_on_gpu(address):
        raise InputError("the array is not on the first GPU", expected="the GPU that engines run on: CUDA's device 0")
    if interface["version"] < 3:
        cuda.synchronize_device()  # older versions do not say on which stream the data is being made
    elif interface.get("stream") is not None:
        cuda.wait_for_stream(stream, int(interface["stream"]))
    return DeviceView(int(address or 0), dtype.name, shape, array)


_python = ctypes.PyDLL(None)
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_python.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.Py_IncRef.argtypes = (ctypes.py_object,)


def peek(given: object) -> DeviceView:
    """What a DLPack capsule describes. The capsule is not consumed: it frees itself when the view is gone.

    Raises:
        InputError: a type that numpy does not have, or rows that are not contiguous.
    """
    if not _python.PyCapsule_IsValid(given, _NAME):
        raise InputError("the DLPack capsule is used already, or no capsule", expected="a fresh one")
    head = ctypes.string_at(_python.PyCapsule_GetPointer(given, _NAME), _MANAGED.size)
    data, _, _, axes, code, bits, lanes, shape_at, strides_at, offset, _, _ = _MANAGED.unpack(head)
    dtype = _DTYPES.get((code, bits))
    if dtype is None or lanes != 1:
        raise InputError(f"the array is of DLPack's type code {code}, {bits} bits", expected="float32 or uint8")
    shape = _numbers(shape_at, axes)
    _refuse_strides(shape, _numbers(strides_at, axes) if strides_at else ())
    return DeviceView(data + offset, dtype, shape, given)


def _numbers(address: int, count: int) -> tuple[int, ...]:
    """`count` int64 at an address."""
    return struct.unpack(f"{count}q", ctypes.string_at(address, 8 * count))


def capsule(address: int, dtype: str, shape: tuple[int, ...], device: tuple[int, int], owner: object) -> object:
    """A DLPack capsule for memory that `owner` keeps alive until the capsule's consumer has no more use for it."""
    managed = ctypes.create_string_buffer(_MANAGED.size + 8 * len(shape))
    pointer = ctypes.addressof(managed)
    shape_at = pointer + _MANAGED.size
    _MANAGED.pack_into(managed, 0, address, *device, len(shape), *_DL_TYPES[dtype], 1, shape_at, 0, 0, 0, _address(_DELETER))
    struct.pack_into(f"{len(shape)}q", managed, _MANAGED.size, *shape)
    _lent[pointer] = (managed, owner)
    return _python.PyCapsule_New(pointer, _NAME, _address(_DESTRUCTOR))


# What consumers hold: address of the managed tensor -> the tensor, and what keeps its memory alive.
_lent: dict[int, tuple[Any, object]] = {}


def _release(pointer: int, lent: dict[int, Any] = _lent) -> None:
    lent.pop(pointer, None)


def _release_unused(given: int, python: Any = _python, api: Any = ctypes, name: bytes = _NAME, release: Any = _release) -> None:
    """The destructor of a capsule: a consumer renames the one that it takes, and releases the tensor itself.

    Whatever it needs comes as a default: it may be called when this module's own names are gone.
    """
    unused = api.cast(given, api.py_object)
    if python.PyCapsule_IsValid(unused, name):
        release(python.PyCapsule_GetPointer(unused, name))


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DELETER, _DESTRUCTOR = _Callback(_release), _Callback(_release_unused)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@atexit.register
def _leave() -> None:
    """At exit, what consumers still hold stays theirs: a deleter that they call later would find no Python to run in."""
    for managed, _ in _lent.values():
        struct.pack_into("P", managed, _DELETER_OFFSET, 0)  # DLPack's way to say that there is nothing to do
    for immortal in (_lent, _DESTRUCTOR):
        _python.Py_IncRef(immortal)


def _refuse_strides(shape: tuple[int, ...], strides: tuple[int, ...], expected: int = 1) -> None:
    """Raises InputError unless strides (() for none) are those of a C-contiguous array, from `expected` on the last axis up."""
    for length, stride in zip(reversed(shape), reversed(strides), strict=False):
        if length > 1 and stride != expected:
            raise InputError(f"the array has strides {strides} for shape {shape}", expected="contiguous", fix=".contiguous()")
        expected *= length
