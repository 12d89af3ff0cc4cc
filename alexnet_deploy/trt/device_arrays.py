"""Arrays that live on the GPU, passed between libraries without a copy.

In:  anything with `__dlpack__` (PyTorch, CuPy, JAX) or `__cuda_array_interface__` (Numba), C-contiguous.
Out: a DeviceArray, which has both: torch.from_dlpack(array), cupy.asarray(array).

DLPack's structures: https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import InputError
from alexnet_deploy.trt import cuda

_DL_CUDA = 2
_DL_CODES = {"i": 0, "u": 1, "f": 2}
_DL_KINDS = {code: kind for kind, code in _DL_CODES.items()}
_NAME = b"dltensor"


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

    @property
    def size_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


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
        self._memory = cuda.DeviceBuffer(max(self._size_bytes, 1))
        self.address = self._memory.address

    def to_host(self) -> npt.NDArray[Any]:
        """A copy as a numpy array."""
        result = np.empty(self.shape, self.dtype)
        with cuda.PinnedBuffer(max(self._size_bytes, 1)) as pinned, cuda.Stream() as stream:
            cuda.copy_async(pinned.address, self.address, self._size_bytes, stream)
            stream.synchronize()
            result[...] = pinned.array(self.dtype, self.shape)
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

    def __dlpack__(self, *, stream: object = None, **newer: object) -> object:
        return capsule(self.address, self.dtype, self.shape, self.__dlpack_device__(), owner=self)

    def __del__(self) -> None:
        memory = getattr(self, "_memory", None)
        if memory is not None:
            memory.close()  # cudaFree waits for whatever still reads it


def is_on_device(array: object) -> bool:
    """Whether `array` says of itself that it lives on the GPU."""
    device = getattr(array, "__dlpack_device__", None)
    if device is not None:
        return bool(device()[0] == _DL_CUDA)
    return hasattr(array, "__cuda_array_interface__")


def view(array: object, stream: cuda.Stream) -> DeviceView:
    """Where an array's data is. What its library has queued for it is done before what `stream` is given next.

    Raises:
        InputError: it is not on this GPU, not contiguous, or of a type that numpy does not have.
    """
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        kind, index = array.__dlpack_device__()
        if kind != _DL_CUDA or index != 0:
            raise InputError(
                f"the array is on device {index} of DLPack's type {kind}",
                expected="the first GPU (DLPack's type 2, device 0)",
                fix=".to('cuda:0'), or a numpy array",
            )
        return peek(array.__dlpack__(stream=stream.handle))
    if hasattr(array, "__cuda_array_interface__"):
        return _view_of_interface(array, array.__cuda_array_interface__, stream)
    raise InputError(f"a {type(array).__name__} is no GPU array", expected="__dlpack__ or __cuda_array_interface__")


def _view_of_interface(array: object, interface: dict[str, Any], stream: cuda.Stream) -> DeviceView:
    """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    _refuse_strides(shape, tuple(n // dtype.itemsize for n in interface.get("strides") or ()))
    if interface["version"] < 3:
        cuda.synchronize_device()  # older versions do not say on which stream the data is being made
    elif interface.get("stream") is not None:
        cuda.wait_for_stream(stream, int(interface["stream"]))
    address, _read_only = interface["data"]
    return DeviceView(int(address), dtype.name, shape, array)


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    @classmethod
    def of(cls, pointer: int) -> Self:
        return cls.from_address(pointer)


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DLManagedTensor._fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_python = ctypes.PyDLL(None)
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_python.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def peek(given: object) -> DeviceView:
    """What a DLPack capsule describes. The capsule is not consumed: it frees itself when the view is gone.

    Raises:
        InputError: a type that numpy does not have, or rows that are not contiguous.
    """
    if not _python.PyCapsule_IsValid(given, _NAME):
        raise InputError("the DLPack capsule is used already, or no capsule", expected="a fresh one")
    tensor = _DLManagedTensor.of(_python.PyCapsule_GetPointer(given, _NAME)).tensor
    kind = _DL_KINDS.get(tensor.dtype.code)
    if kind is None or tensor.dtype.lanes != 1 or tensor.dtype.bits % 8:
        raise InputError(
            f"the array is of DLPack's type code {tensor.dtype.code}, {tensor.dtype.bits} bits", expected="float32 or uint8"
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    _refuse_strides(shape, tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else ())
    dtype = np.dtype(f"{kind}{tensor.dtype.bits // 8}").name
    return DeviceView((tensor.data or 0) + tensor.byte_offset, dtype, shape, given)


def capsule(address: int, dtype: str, shape: tuple[int, ...], device: tuple[int, int], owner: object) -> object:
    """A DLPack capsule for memory that `owner` keeps alive until the capsule's consumer has no more use for it."""
    kind = np.dtype(dtype)
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed = _DLManagedTensor()
    managed.tensor.data = address
    managed.tensor.device = _DLDevice(*device)
    managed.tensor.ndim = len(shape)
    managed.tensor.dtype = _DLDataType(_DL_CODES[kind.kind], 8 * kind.itemsize, 1)
    managed.tensor.shape = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = _DELETER
    pointer = ctypes.addressof(managed)
    _lent[pointer] = (managed, sizes, owner)
    return _python.PyCapsule_New(pointer, _NAME, ctypes.cast(_DESTRUCTOR, ctypes.c_void_p))


# What consumers hold: pointer of the managed tensor -> all that has to outlive it.
_lent: dict[int, tuple[object, ...]] = {}


def _release(pointer: int) -> None:
    _lent.pop(pointer, None)


def _release_unused(given: int) -> None:
    """The destructor of a capsule: a consumer renames the one that it takes, and releases the tensor itself."""
    unused = ctypes.cast(given, ctypes.py_object)
    if _python.PyCapsule_IsValid(unused, _NAME):
        _release(_python.PyCapsule_GetPointer(unused, _NAME))


# Called from C for as long as the process lives.
_DELETER = _Deleter(_release)
_DESTRUCTOR = _Deleter(_release_unused)


def _refuse_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Raises InputError unless strides (in elements; () for none) are those of a C-contiguous array."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=False):
        if length > 1 and stride != expected:
            raise InputError(f"the array has strides {strides} for shape {shape}", expected="contiguous", fix=".contiguous()")
        expected *= length
