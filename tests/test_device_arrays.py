"""DLPack against those who speak it: numpy and PyTorch, on the CPU, where the structures are the same."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import textwrap
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alexnet_deploy.errors import InputError
from alexnet_deploy.trt import cuda
from alexnet_deploy.trt.device_arrays import DeviceArray, capsule, is_on_device, peek, view
from tests.fake_cuda import FakeCuda

torch = pytest.importorskip("torch", reason="DLPack is tried against PyTorch")

CPU = (1, 0)
DTYPES = ["float32", "float16", "float64", "uint8", "int8", "int32", "int64"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_api", lambda: fake)
    return fake


class OnGpu:
    """Says of host memory that it is on the GPU, which the fake takes it for."""

    def __init__(self, array: Any, device: tuple[int, int] = (2, 0)) -> None:
        self.array, self.device = array, device
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()


def content(address: int, dtype: str, shape: tuple[int, ...]) -> Any:
    size = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(shape) if size else np.empty(shape, dtype)


class Lent:
    """A capsule's giver, in the form that from_dlpack wants."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU

    def __dlpack__(self, **_: Any) -> Any:
        array = self.array
        return capsule(array.ctypes.data, array.dtype.name, array.shape, CPU, owner=self)


ARRAYS = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=5)))


@given(ARRAYS)
def test_numpy_and_pytorch_read_what_is_lent(array: Any) -> None:
    np.testing.assert_array_equal(np.from_dlpack(Lent(array)), array)
    np.testing.assert_array_equal(torch.from_dlpack(Lent(array)).numpy(), array)


@given(ARRAYS)
def test_what_numpy_and_pytorch_lend_is_read(array: Any) -> None:
    for giver in (array, torch.from_numpy(array.copy())):
        seen = peek(giver.__dlpack__())
        assert (seen.dtype, seen.shape) == (array.dtype.name, array.shape)
        np.testing.assert_array_equal(content(seen.address, seen.dtype, seen.shape), array)


def test_a_slice_is_read_from_where_it_begins() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)[2:]
    seen = peek(tensor.__dlpack__())
    np.testing.assert_array_equal(content(seen.address, seen.dtype, seen.shape), tensor.numpy())


@pytest.mark.parametrize("lend", [lambda t: t.T, lambda t: t[:, ::2], lambda t: t[:, :3]])
def test_what_is_not_contiguous_is_refused(lend: Any) -> None:
    with pytest.raises(InputError, match="has strides"):
        peek(lend(torch.zeros(4, 6)).__dlpack__())


def test_an_axis_of_one_may_have_any_stride() -> None:
    assert peek(torch.zeros(4, 6)[:1].__dlpack__()).shape == (1, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_types_that_numpy_lacks_or_no_engine_takes_are_refused(dtype: Any) -> None:
    with pytest.raises(InputError, match="type code"):
        peek(torch.zeros(3, dtype=dtype).__dlpack__())


def test_what_is_no_capsule_is_refused() -> None:
    used = torch.zeros(3).__dlpack__()
    torch.utils.dlpack.from_dlpack(used)
    for wrong in (used, 3, "dltensor", None):
        with pytest.raises(InputError, match="used already, or no capsule"):
            peek(wrong)


def test_the_giver_lives_as_long_as_the_taker() -> None:
    array = np.arange(6, dtype=np.float32)
    lent = Lent(array)
    gone = weakref.ref(lent)
    taken = torch.from_dlpack(lent)
    del lent
    gc.collect()
    assert gone() is not None
    del taken
    gc.collect()
    assert gone() is None


def test_a_capsule_that_nobody_takes_frees_itself() -> None:
    lent = Lent(np.zeros(3, np.float32))
    gone = weakref.ref(lent)
    untaken = lent.__dlpack__()
    del lent
    gc.collect()
    assert gone() is not None
    del untaken
    gc.collect()
    assert gone() is None


# On the GPU that is not there


def test_a_device_array_is_freed_with_its_last_holder(fake: FakeCuda) -> None:
    array = DeviceArray("float32", (2, 5))
    held = array.__dlpack__(stream=1)
    del array
    gc.collect()
    assert fake.held == 1
    del held
    gc.collect()
    assert fake.held == 0


def test_a_device_array_comes_back_to_the_host(fake: FakeCuda) -> None:
    array = DeviceArray("float32", (2, 5))
    content(array.address, "float32", (2, 5))[...] = np.arange(10).reshape(2, 5)
    np.testing.assert_array_equal(array.to_host(), np.arange(10, dtype=np.float32).reshape(2, 5))


def test_a_device_array_describes_itself_in_both_protocols(fake: FakeCuda) -> None:
    array = DeviceArray("float32", (2, 5))
    with cuda.Stream() as stream:
        by_dlpack = view(array, stream)
    interface = array.__cuda_array_interface__
    assert is_on_device(array)
    assert (by_dlpack.address, by_dlpack.dtype, by_dlpack.shape) == (array.address, "float32", (2, 5))
    assert (interface["data"], interface["typestr"], interface["shape"]) == ((array.address, False), "<f4", (2, 5))


def test_the_giver_is_told_on_which_stream_the_work_will_be(fake: FakeCuda) -> None:
    giver = OnGpu(torch.zeros(3))
    with cuda.Stream() as stream:
        view(giver, stream)
        assert giver.streams == [stream.handle]


@pytest.mark.parametrize("device", [(1, 0), (2, 1), (10, 0)])
def test_arrays_of_other_devices_are_refused(fake: FakeCuda, device: tuple[int, int]) -> None:
    with cuda.Stream() as stream, pytest.raises(InputError, match=f"device {device[1]} of DLPack's type {device[0]}"):
        view(OnGpu(torch.zeros(3), device), stream)


def interface(array: DeviceArray, **changes: Any) -> Any:
    return type("Numba", (), {"__cuda_array_interface__": {**array.__cuda_array_interface__, **changes}})()


def test_a_cuda_array_interface_is_read_and_its_stream_waited_for(fake: FakeCuda) -> None:
    array = DeviceArray("float32", (2, 3))
    with cuda.Stream() as stream, cuda.Stream() as theirs:
        for said, call in (
            ({"stream": None}, None),
            ({"stream": theirs.handle}, "cudaStreamWaitEvent"),
            ({"stream": 1}, "cudaStreamWaitEvent"),  # the default stream
            ({"version": 2}, "cudaDeviceSynchronize"),
        ):
            fake.calls.clear()
            seen = view(interface(array, **said), stream)
            assert (seen.address, seen.dtype, seen.shape) == (array.address, "float32", (2, 3))
            assert not call or call in fake.calls


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strides": (4, 8)}, "has strides"),
        ({"strides": (15, 5)}, "has strides"),  # of packed records of float32 and uint8
        ({"mask": object()}, "masked"),
        ({"data": (64, False)}, "not on the first GPU"),
    ],
)
def test_a_cuda_array_interface_of_what_no_engine_reads_is_refused(fake: FakeCuda, changes: Any, says: str) -> None:
    array = DeviceArray("float32", (2, 3))
    with cuda.Stream() as stream, pytest.raises(InputError, match=says):
        view(interface(array, **changes), stream)


def test_what_is_on_another_gpu_is_refused(fake: FakeCuda) -> None:
    fake.devices = 2
    fake.cudaSetDevice(1)
    array = DeviceArray("float32", (2, 3))
    with cuda.Stream() as stream, pytest.raises(InputError, match="not on the first GPU"):
        view(interface(array), stream)


def test_what_is_read_only_is_read_and_not_written(fake: FakeCuda) -> None:
    array = DeviceArray("float32", (2, 3))
    read_only = interface(array, data=(array.address, True))
    with cuda.Stream() as stream:
        assert view(read_only, stream).address == array.address
        with pytest.raises(InputError, match="read-only"):
            view(read_only, stream, to_write=True)


def test_an_array_that_its_library_does_not_lend_is_an_error_in_its_words(fake: FakeCuda) -> None:
    tensor = torch.zeros(3, requires_grad=True)
    giver = type("Cuda", (), {"__dlpack_device__": lambda self: (2, 0), "__dlpack__": lambda self, stream: tensor.__dlpack__()})
    with cuda.Stream() as stream, pytest.raises(InputError, match="gradient") as caught:
        view(giver(), stream)
    assert caught.value.fix == ".detach()"


def test_memory_that_is_everywhere_counts_as_the_gpus(fake: FakeCuda) -> None:
    managed = OnGpu(torch.zeros(3), (13, 0))
    assert is_on_device(managed)
    with cuda.Stream() as stream:
        assert view(managed, stream).shape == (3,)


@pytest.mark.parametrize("wish", [{"copy": True}, {"dl_device": (1, 0)}])
def test_what_a_device_array_cannot_do_is_a_buffer_error(fake: FakeCuda, wish: Any) -> None:
    array = DeviceArray("float32", (2, 3))
    assert array.__dlpack__(stream=1, max_version=(1, 1), dl_device=(2, 0), copy=False) is not None
    with pytest.raises(BufferError, match="to_host"):
        array.__dlpack__(**wish)


def test_a_process_ends_well_while_others_hold_what_was_lent() -> None:
    """Their deleters are called when there is no Python left to run them in."""
    script = """
        import sys
        import numpy as np, torch
        from tests.test_device_arrays import Lent
        held = torch.from_dlpack(Lent(np.zeros(1000, np.float32)))
        sys.held = torch.from_dlpack(Lent(np.zeros(1000, np.float32)))  # outlives every module
        sys.unused = Lent(np.zeros(3, np.float32)).__dlpack__()
        class Holder: pass
        knot = Holder(); knot.self, knot.held = knot, np.from_dlpack(Lent(np.zeros(1000, np.float32)))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=120, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_is_no_gpu_array_is_said(fake: FakeCuda) -> None:
    assert not is_on_device(np.zeros(3))
    assert not is_on_device([1, 2, 3])
    with cuda.Stream() as stream, pytest.raises(InputError, match="a list is no GPU array"):
        view([1, 2, 3], stream)
