"""The GPUs that this process can use, asked of NVIDIA's driver itself, without making a CUDA context.

Asking starts the driver (cuInit): a process that is forked afterwards cannot use CUDA.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

from msgspec import Struct

_NO_DEVICE = 100  # CUresult in cuda.h
_COMPUTE_CAPABILITY_MAJOR = 75  # CUdevice_attribute in cuda.h
_COMPUTE_CAPABILITY_MINOR = 76


class Gpu(Struct, frozen=True):
    """One CUDA device.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, (9, 0) for Hopper.
        memory_bytes: in all, used or not.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int

    @property
    def sm(self) -> str:
        """ "sm90" for capability (9, 0)."""
        return f"sm{self.capability[0]}{self.capability[1]}"


@cache
def gpus() -> tuple[Gpu, ...]:
    """Every usable GPU, in CUDA's order; () where `problem` says why."""
    return () if problem() else tuple(_describe(index) for index in range(_count()))


@cache
def problem() -> str:
    """Why there is no usable GPU, or "" where there is one."""
    if isinstance(driver := _driver(), str):
        return driver
    return "" if _count() else _hidden_or_none()


@cache
def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver speaks, such as (13, 0); None without a usable driver."""
    driver, version = _driver(), ctypes.c_int()
    if isinstance(driver, str) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10


@cache
def _driver() -> ctypes.CDLL | str:
    """The driver's library, or why there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no NVIDIA driver is installed ({name} is not here)"
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return _hidden_or_none()
    return f"the NVIDIA driver does not start (cuInit gives {status})" if status else driver


def _count() -> int:
    driver, count = _driver(), ctypes.c_int()
    if isinstance(driver, str) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _hidden_or_none() -> str:
    return "CUDA_VISIBLE_DEVICES hides every GPU" if "CUDA_VISIBLE_DEVICES" in os.environ else "the driver finds no GPU"


def _describe(index: int) -> Gpu:
    driver, device = _driver(), ctypes.c_int()
    assert not isinstance(driver, str)  # or there were nothing to describe
    driver.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), memory.value)
