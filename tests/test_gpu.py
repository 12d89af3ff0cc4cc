"""Plans on a real GPU; skipped, and said so, where there is none.

    pytest -m gpu tests/test_gpu.py

A TensorRT that builds a plan but refuses to load it on this GPU skips with its own words: that is a finding, not a fault here.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.base import Options
from alexnet_deploy.backends.trt import TensorRtBackend, TensorRtRtxBackend, kernels_path
from alexnet_deploy.engine import PRECISIONS, build_engine
from alexnet_deploy.errors import AlexnetDeployError, BackendError, InputError
from alexnet_deploy.gpu import gpus, problem
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt import adapter, cuda
from alexnet_deploy.trt.execution import Execution
from alexnet_deploy.types import BatchRange, Flavour, Precision
from tests.conformance import Conformance
from tests.tiny import float_batch, tiny_artifact

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason=f"no GPU: {problem()}")]

PICTURES = PictureSet.open("demo:train").sample(64)
BACKENDS: dict[Flavour, type[TensorRtBackend]] = {
    Flavour.TENSORRT: TensorRtBackend,
    Flavour.TENSORRT_RTX: TensorRtRtxBackend,
}


def plan_that_runs(
    folder: Path, flavour: Flavour, precision: Precision = Precision.FP32, batch: BatchRange | None = None
) -> Artifact:
    """A plan for the default targets, or for the GPU that is here where those do not load."""
    if not adapter.installed(flavour):
        pytest.skip(f"{flavour} is not installed")
    onnx = tiny_artifact(folder / "tiny.onnx", batch=batch or BatchRange(1, 4, 8))
    refusals = []
    for capabilities in ((), ("current",)):
        try:
            plan = build_engine(
                onnx,
                folder / f"tiny.{precision}.plan",
                precision,
                pictures=PICTURES,
                method="minmax",
                count=48,
                flavour=flavour,
                capabilities=capabilities,
            ).plan
            BACKENDS[flavour].load(plan, Options("cuda")).close()
        except AlexnetDeployError as error:
            refusals.append(str(error))
        else:
            return plan
    pytest.skip(" / ".join(refusals))


@pytest.fixture(scope="module", params=list(Flavour))
def flavour(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def plan(flavour: Flavour, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return plan_that_runs(tmp_path_factory.mktemp(flavour), flavour)


class TestTensorRtRtxOnAGpu(Conformance):
    backend = "tensorrt-rtx"
    device = "cuda"
    tolerance = 1e-4

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        return plan_that_runs(path_without_suffix.parent, Flavour.TENSORRT_RTX)


class TestTensorRtOnAGpu(Conformance):
    backend = "tensorrt"
    device = "cuda"
    tolerance = 1e-4

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        return plan_that_runs(path_without_suffix.parent, Flavour.TENSORRT)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_answers_like_its_twin_on_the_cpu(flavour: Flavour, precision: Precision, tmp_path: Path) -> None:
    plan = plan_that_runs(tmp_path, flavour, precision)
    batch = float_batch(20)
    with Runtime(plan.path, device="cuda") as engine, Runtime(tmp_path / "tiny.onnx", device="cpu") as reference:
        found, wanted = engine.logits(batch), reference.logits(batch)
    allowed = {Precision.FP32: 1e-4, Precision.FP16: 0.01, Precision.BF16: 0.05, Precision.INT8: 0.1, Precision.FP8: 0.2}
    assert np.abs(found - wanted).max() <= allowed[precision] * np.abs(wanted).max()


def test_a_graph_answers_as_the_plain_run_did(plan: Artifact) -> None:
    with Runtime(plan.path, device="cuda") as runtime:
        for count in (1, 2, 5, 8):
            batch = float_batch(count)
            first = runtime.logits(batch)
            for _ in range(3):
                np.testing.assert_array_equal(runtime.logits(batch), first)


def test_large_batches_through_the_slots_answer_as_small_ones(plan: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = float_batch(100)
    with Runtime(plan.path, device="cuda") as runtime:
        by_graphs = runtime.logits(batch)
        monkeypatch.setattr("alexnet_deploy.trt.execution.GRAPH_BYTES", 0)
        for _ in range(5):
            np.testing.assert_allclose(runtime.logits(batch), by_graphs, rtol=1e-4, atol=1e-5)


def test_graphs_are_really_captured(plan: Artifact, flavour: Flavour) -> None:
    bindings = adapter.load(flavour)
    cuda.make_current()
    context = bindings.context(bindings.engine(plan.path.read_bytes()))
    assert context is not None
    manifest = plan.manifest
    execution = Execution(bindings, context, manifest.input, manifest.output, manifest.batch)
    execution.run(float_batch(3))
    assert execution._graphs
    assert set(execution._slots[0].graphs) == {3}
    execution.close()


def test_pytorch_tensors_go_in_and_come_out_without_a_copy(plan: Artifact) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    for count in (1, 8, 20):
        batch = torch.from_numpy(float_batch(count)).cuda()
        with Runtime(plan.path, device="cuda") as runtime:
            wanted = runtime.logits(batch.cpu().numpy())
            np.testing.assert_allclose(runtime.logits(batch), wanted, rtol=1e-4, atol=1e-5)
            stays = torch.from_dlpack(runtime.on_device(batch))
            out = torch.empty(count, 7, device="cuda")
            for _ in range(4):
                assert runtime.on_device(batch, out) is out
        assert stays.is_cuda
        np.testing.assert_allclose(stays.cpu().numpy(), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.cpu().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_what_pytorch_has_queued_is_waited_for(plan: Artifact) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    wanted = float_batch(8)
    with Runtime(plan.path, device="cuda") as runtime, torch.cuda.stream(torch.cuda.Stream()):
        expected = runtime.logits(wanted)
        batch = torch.zeros(wanted.shape, device="cuda")
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy / 4096
        batch.copy_(torch.from_numpy(wanted))  # behind some 10 ms of other work
        np.testing.assert_allclose(runtime.logits(batch), expected, rtol=1e-4, atol=1e-5)


def test_cupy_arrays_go_in_and_come_out_without_a_copy(plan: Artifact) -> None:
    cupy = pytest.importorskip("cupy")
    with Runtime(plan.path, device="cuda") as runtime:
        wanted = runtime.logits(float_batch(8))
        batch, out = cupy.asarray(float_batch(8)), cupy.empty((8, 7), cupy.float32)
        for _ in range(4):
            assert runtime.on_device(batch, out) is out
        stays = cupy.from_dlpack(runtime.on_device(batch))
        again = cupy.asarray(runtime.on_device(batch))  # by __cuda_array_interface__
        np.testing.assert_allclose(runtime.logits(batch), wanted, rtol=1e-4, atol=1e-5)
    for found in (out, stays, again):
        np.testing.assert_allclose(cupy.asnumpy(found), wanted, rtol=1e-4, atol=1e-5)


def test_graphs_stay_right_when_kernels_for_other_sizes_have_come_after_them(plan: Artifact) -> None:
    """Would show if TensorRT for RTX exchanged or unloaded a kernel that a graph was captured with."""
    batch = float_batch(8)
    with Runtime(plan.path, device="cuda") as runtime:
        first = {count: runtime.logits(batch[:count]) for count in range(1, 9)}
        for count in (*range(8, 0, -1), *range(1, 9)):
            np.testing.assert_array_equal(runtime.logits(batch[:count]), first[count])
        assert set(runtime._engine._execution._slots[0].graphs) == {1, 2, 3, 4, 6, 8}  # type: ignore[union-attr]


def test_kernels_are_compiled_once_and_taken_from_disk_by_the_next(flavour: Flavour, tmp_path: Path) -> None:
    if flavour is not Flavour.TENSORRT_RTX:
        pytest.skip("TensorRT compiles nothing when it loads a plan")
    plan = plan_that_runs(tmp_path, flavour)
    kept = kernels_path(plan.path, adapter.load(flavour), gpus()[0])
    contents = []
    for _ in range(2):
        with Runtime(plan.path, device="cuda") as runtime:
            for count in (1, 5, 8):
                runtime.logits(float_batch(count))
        contents.append(kept.read_bytes())
    context = adapter.load(flavour).context(adapter.load(flavour).engine(plan.path.read_bytes()))
    assert context is not None
    assert context._cache.deserialize(contents[0])
    assert len(contents[1]) == len(contents[0])  # nothing was compiled anew


def test_several_runtimes_and_threads_share_a_gpu(plan: Artifact) -> None:
    batches = {count: float_batch(count) for count in (1, 3, 8, 30)}
    with Runtime(plan.path, device="cuda") as one, Runtime(plan.path, device="cuda") as other:
        wanted = {count: one.logits(batch) for count, batch in batches.items()}
        wrong: list[int] = []

        def work(runtime: Runtime) -> None:
            for _ in range(50):
                wrong.extend(n for n, batch in batches.items() if not np.array_equal(runtime.logits(batch), wanted[n]))

        threads = [threading.Thread(target=work, args=(runtime,)) for runtime in (one, other) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_batch_in_pinned_memory_is_answered_like_others(plan: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = float_batch(8)
    with Runtime(plan.path, device="cuda") as runtime, cuda.PinnedBuffer(batch.nbytes) as memory:
        wanted = runtime.logits(batch)
        pinned = memory.array("float32", batch.shape)
        pinned[...] = batch
        assert cuda.is_pinned(memory.address)
        assert not cuda.is_pinned(cuda.address_of(batch))  # and no error for ordinary memory
        monkeypatch.setattr("alexnet_deploy.trt.execution.GRAPH_BYTES", 0)
        np.testing.assert_allclose(runtime.logits(pinned), wanted, rtol=1e-4, atol=1e-5)


def test_nan_is_found_while_the_gpu_computes_and_nothing_is_broken_by_it(plan: Artifact) -> None:
    with Runtime(plan.path, device="cuda") as runtime:
        for count in (5, 30):
            wanted = runtime.logits(float_batch(count))
            poisoned = float_batch(count)
            poisoned[-1, 0, 0, 0] = np.nan
            with pytest.raises(InputError, match=f"picture {count - 1} of the batch"):
                runtime.logits(poisoned)
            np.testing.assert_array_equal(runtime.logits(float_batch(count)), wanted)


def test_a_process_ends_well_while_pytorch_holds_an_answer(plan: Artifact) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    script = f"""
        import sys, torch
        from alexnet_deploy import Runtime
        from tests.tiny import float_batch
        runtime = Runtime({str(plan.path)!r}, device="cuda")  # and it is not closed
        sys.held = torch.from_dlpack(runtime.on_device(torch.from_numpy(float_batch(3)).cuda()))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=300, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()


def test_a_fork_is_told_of(plan: Artifact) -> None:
    with Runtime(plan.path, device="cuda") as runtime:
        runtime.logits(float_batch(1))
        child = os.fork()
        if child == 0:
            try:
                runtime.logits(float_batch(1))
            except BackendError as error:
                os._exit(17 if "does not survive a fork" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        runtime.logits(float_batch(1))


@pytest.mark.skipif(len(gpus()) < 2, reason="one GPU")
def test_a_thread_that_pytorch_has_put_on_another_gpu_is_answered_and_stays_there(plan: Artifact) -> None:
    torch = pytest.importorskip("torch")
    torch.cuda.set_device(1)
    try:
        with Runtime(plan.path, device="cuda") as runtime:
            assert runtime.logits(float_batch(30)).shape == (30, 7)
            assert torch.cuda.current_device() == 1
            with pytest.raises(InputError, match="the first GPU"):
                runtime.on_device(torch.from_numpy(float_batch(2)).cuda())
    finally:
        torch.cuda.set_device(0)


def test_two_hundred_open_close_cycles_give_the_memory_back(plan: Artifact) -> None:
    def cycle() -> None:
        with Runtime(plan.path, device="cuda") as runtime:
            runtime.logits(float_batch(30))

    assert grown_by(cycle, 200) < 32 << 20


def test_what_nobody_closes_gives_its_memory_back_too(plan: Artifact) -> None:
    def cycle() -> None:
        Runtime(plan.path, device="cuda").logits(float_batch(30))
        gc.collect()

    assert grown_by(cycle, 4) < 1 << 20


def grown_by(cycle: Callable[[], object], times: int) -> int:
    """Bytes of GPU memory that are gone for good, behind the first time."""
    cycle()
    gc.collect()
    before = cuda.free_memory_bytes()
    for _ in range(times):
        cycle()
    gc.collect()
    return before - cuda.free_memory_bytes()
