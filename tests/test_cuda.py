"""The CUDA layer against the real `cuda.bindings.runtime`, which can be called without a GPU: every call then says so."""

from __future__ import annotations

import gc
import inspect
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import BackendError, BackendMissing, DeviceMissing
from alexnet_deploy.gpu import gpus
from alexnet_deploy.trt import cuda
from tests.fake_cuda import Error, FakeCuda

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
without_gpu = pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")

NAMES = sorted(set(re.findall(r'"(cuda[A-Z]\w+)"', inspect.getsource(cuda))))
CALLS = [name for name in NAMES if not name.startswith("cudaError")]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_api", lambda: fake)
    return fake


@pytest.mark.parametrize("name", CALLS)
def test_every_call_exists_in_the_real_runtime_and_in_the_fake(name: str) -> None:
    assert callable(getattr(runtime, name))
    assert callable(getattr(FakeCuda, name))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(CALLS)))
def test_every_error_that_is_told_apart_exists(name: str) -> None:
    assert hasattr(runtime.cudaError_t, name)


def test_the_numbers_of_the_enumerations_are_cudas_own() -> None:
    assert runtime.cudaStreamNonBlocking == cuda._STREAM_NON_BLOCKING
    assert runtime.cudaEventDisableTiming == cuda._EVENT_DISABLE_TIMING
    assert runtime.cudaHostAllocDefault == cuda._HOST_ALLOC_DEFAULT
    assert runtime.cudaMemoryType.cudaMemoryTypeHost == cuda._MEMORY_TYPE_HOST
    assert runtime.cudaMemoryType.cudaMemoryTypeDevice == cuda._MEMORY_TYPE_DEVICE
    assert runtime.cudaMemoryType.cudaMemoryTypeManaged == cuda._MEMORY_TYPE_MANAGED
    assert runtime.cudaError_t.cudaSuccess == 0
    for error in Error:
        assert getattr(runtime.cudaError_t, error.name) == error.value


@without_gpu
def test_the_real_runtime_takes_the_arguments_that_are_given() -> None:
    """Arguments are converted before CUDA finds that there is no driver: an error code means that they were understood."""
    script = """
        from cuda.bindings import runtime as r
        stream, event, kind = r.cudaStream_t(0), r.cudaEvent_t(0), r.cudaMemcpyKind.cudaMemcpyDefault
        for name, arguments in {
            "cudaStreamCreateWithFlags": (1,),
            "cudaStreamSynchronize": (stream,),
            "cudaStreamWaitEvent": (stream, event, 0),
            "cudaEventCreateWithFlags": (2,),
            "cudaEventRecord": (event, 7),
            "cudaEventSynchronize": (event,),
            "cudaMalloc": (16,),
            "cudaFree": (4096,),
            "cudaHostAlloc": (16, 0),
            "cudaFreeHost": (4096,),
            "cudaMemcpyAsync": (4096, 8192, 8, kind, stream),
            "cudaStreamBeginCapture": (stream, r.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
            "cudaStreamEndCapture": (stream,),
            "cudaGraphInstantiate": (r.cudaGraph_t(0), 0),
            "cudaGraphLaunch": (r.cudaGraphExec_t(0), stream),
            "cudaMemGetInfo": (),
            "cudaPointerGetAttributes": (4096,),
            "cudaDeviceSynchronize": (),
            "cudaSetDevice": (0,),
            "cudaGetDevice": (),
        }.items():
            answer = getattr(r, name)(*arguments)
            assert isinstance(answer, tuple) and int(answer[0]) != 0, (name, answer)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


@without_gpu
def test_without_a_gpu_every_allocation_says_so() -> None:
    for make in (cuda.Stream, cuda.Event, lambda: cuda.DeviceBuffer(8), lambda: cuda.PinnedBuffer(8), cuda.free_memory_bytes):
        with pytest.raises(DeviceMissing, match=r"cuda\w+: .*\(cudaError\w+\)"):
            make()


@without_gpu
def test_without_a_gpu_there_is_a_reason() -> None:
    with pytest.raises(DeviceMissing, match=r"there is no usable GPU: ."):
        cuda.usable_gpu()


def test_without_cuda_bindings_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendMissing, match="cuda-bindings is not installed") as caught:
        cuda._api.__wrapped__()
    assert caught.value.fix == "pip install 'alexnet-deploy[rtx]'"


@pytest.mark.parametrize(
    ("error", "kind", "fix"),
    [
        (Error.cudaErrorNoDevice, DeviceMissing, "nvidia-smi"),
        (Error.cudaErrorInsufficientDriver, DeviceMissing, "nvidia-smi"),
        (Error.cudaErrorMemoryAllocation, BackendError, "smaller --max-batch"),
        (Error.cudaErrorInitializationError, BackendError, "spawn"),
        (Error.cudaErrorIllegalAddress, BackendError, ""),
    ],
)
def test_errors_say_what_helps(fake: FakeCuda, error: Error, kind: type[BackendError], fix: str) -> None:
    fake.faults["cudaMalloc"] = error
    with pytest.raises(kind, match=f"cudaMalloc: .*{error.name}") as caught:
        cuda.DeviceBuffer(8)
    assert type(caught.value) is kind
    assert fix in caught.value.fix


@given(dtype=st.sampled_from(["uint8", "float16", "float32"]), shape=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_pinned_memory_is_zeroed_and_an_array_of_it_writes_through(dtype: str, shape: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeCuda()
        patch.setattr(cuda, "_api", lambda: fake)
        with cuda.PinnedBuffer(4 * 5**4) as pinned:
            array = pinned.array(dtype, tuple(shape))
            assert not array.any()
            array[...] = 7
            np.testing.assert_array_equal(pinned.array(dtype, tuple(shape)), array)
            assert cuda.address_of(array) == pinned.address
            assert cuda.is_pinned(pinned.address)
        assert fake.held == 0


def test_an_array_larger_than_its_memory_is_refused(fake: FakeCuda) -> None:
    with cuda.PinnedBuffer(15) as pinned, pytest.raises(ValueError, match="needs 16 bytes of 15"):
        pinned.array("float32", (2, 2))


def test_memory_is_told_apart(fake: FakeCuda) -> None:
    with cuda.PinnedBuffer(8) as pinned, cuda.DeviceBuffer(8) as device:
        assert [cuda.is_pinned(a) for a in (pinned.address, device.address, 64)] == [True, False, False]
        assert [cuda.is_on_gpu(a) for a in (pinned.address, device.address, 64)] == [False, True, False]


def test_a_capture_that_raises_is_ended(fake: FakeCuda) -> None:
    with cuda.Stream() as stream:

        def work() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            cuda.Graph(stream, work)
        stream.synchronize()  # would fail in the middle of a capture
    assert fake.calls[-4:] == ["cudaStreamEndCapture", "cudaGraphDestroy", "cudaStreamSynchronize", "cudaStreamDestroy"]
    assert fake.held == 0


def test_a_block_on_our_gpu_ends_on_the_one_before(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.devices = 3
    fake.cudaSetDevice(2)
    for count, inside in ((3, 0), (1, 2)):  # with a single GPU nobody asks
        monkeypatch.setattr(cuda, "gpus", lambda count=count: (None,) * count)
        with pytest.raises(ZeroDivisionError), cuda.current():
            assert fake.current == inside
            raise ZeroDivisionError
        assert fake.current == 2


def test_what_is_forgotten_is_freed_and_its_errors_are_nobodys(fake: FakeCuda, capsys: pytest.CaptureFixture[str]) -> None:
    array = cuda.PinnedBuffer(64).array("float32", (16,))
    assert fake.held == 1  # the array holds it
    del array
    assert fake.held == 0
    buffer = cuda.DeviceBuffer(64)
    fake.faults["cudaFree"] = Error.cudaErrorInitializationError  # in the child of a fork
    del buffer
    gc.collect()
    assert "cudaFree" in fake.calls
    assert capsys.readouterr().err == ""
