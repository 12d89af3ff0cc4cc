"""The TensorRT backend on a fake GPU (see fake_cuda.py, which says what it stands for)."""

from __future__ import annotations

import ctypes
import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from alexnet_deploy import Runtime
from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.backends.base import Options
from alexnet_deploy.backends.fake import write_fake
from alexnet_deploy.backends.trt import TensorRtBackend, TensorRtRtxBackend, kernels_path
from alexnet_deploy.errors import (
    ArtifactCorrupt,
    BackendError,
    DeviceMissing,
    FallbackWarning,
    InputError,
    ModelError,
    OutputNotFinite,
)
from alexnet_deploy.gpu import Gpu
from alexnet_deploy.manifest import Lineage, Manifest, PlanRecord, Preprocess
from alexnet_deploy.trt import cuda
from alexnet_deploy.trt import execution as room
from alexnet_deploy.trt.adapter import Context, TensorRt
from alexnet_deploy.trt.device_arrays import DeviceArray
from alexnet_deploy.trt.execution import Execution, buckets
from alexnet_deploy.types import BatchRange, Flavour, TensorSpec
from tests.conformance import Conformance
from tests.fake_cuda import H100, L40, Error, FakeCuda, FakeEngine, install

INPUT = TensorSpec("input", "float32", (None, 3, 8, 8))
OUTPUT = TensorSpec("logits", "float32", (None, 5))
BATCH = BatchRange(1, 4, 16)
SCHEDULES = ["late", "early", "random"]


def write_plan(folder: Path, **changes: Any) -> Artifact:
    """A plan with its manifest; the bytes mean nothing, for the fake engine takes any."""
    manifest = Manifest(
        kind="plan",
        input=INPUT,
        output=OUTPUT,
        preprocess=Preprocess(height=8, width=8),
        batch=BATCH,
        plan=PlanRecord(flavour=Flavour.TENSORRT_RTX, version="1.7.1.116", capabilities=("sm80", "sm86", "sm89", "sm120")),
        parents=(Lineage(kind="onnx", file="net.fp16.onnx", sha256="0" * 64),),
    )
    return write_artifact(folder / "net.plan", structs.replace(manifest, **changes), b"vtrt, or so it says")


@pytest.fixture(params=SCHEDULES)
def fake(request: pytest.FixtureRequest) -> FakeCuda:
    return FakeCuda(request.param)


@pytest.fixture
def engine(fake: FakeCuda) -> FakeEngine:
    return FakeEngine(fake, INPUT, OUTPUT, BATCH)


@pytest.fixture
def backend(tmp_path: Path, fake: FakeCuda, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[TensorRtRtxBackend]:
    install(monkeypatch, fake, engine)
    loaded = TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))
    assert isinstance(loaded, TensorRtRtxBackend)
    yield loaded
    loaded.close()


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch counts as large, and goes through the slots."""
    monkeypatch.setattr(room, "GRAPH_BYTES", 0)


def made(bindings: TensorRt, engine: FakeEngine) -> Context:
    context = bindings.context(engine)
    assert context is not None
    return context


def pictures(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


class TestTensorRtOnAFakeGpu(Conformance):
    """What every backend must do; all but what needs another process, where the fake is not."""

    backend = "tensorrt-rtx"
    device = "cuda"
    test_a_spawned_process_answers_the_same = None  # type: ignore[assignment]

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        return write_plan(path_without_suffix.parent, batch=BatchRange(1, 4, 8))

    @pytest.fixture(scope="class", autouse=True)
    def fake_gpu(self, artifact: Artifact) -> Iterator[FakeCuda]:
        fake = FakeCuda("random")
        engine = FakeEngine(fake, INPUT, OUTPUT, artifact.manifest.batch)
        with pytest.MonkeyPatch.context() as patch:
            install(patch, fake, engine, plan=artifact.path.read_bytes())
            yield fake
        assert fake.held == 0


# Right answers


@pytest.mark.parametrize("count", [1, 2, 5, 15, 16])
def test_answers_are_the_engines_for_every_batch_size(backend: TensorRtRtxBackend, engine: FakeEngine, count: int) -> None:
    for repeat in range(3):  # plainly, then by the graph, then by the graph again
        batch = pictures(count, seed=repeat)
        np.testing.assert_array_equal(backend.run(batch), engine.answer(batch))


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 16), max_size=8), seed=st.integers(0, 1000), limit=st.sampled_from([0, 3000, 1 << 20]))
def test_any_order_in_which_the_gpu_may_work_gives_the_same_answers(
    schedule: str, sizes: list[int], seed: int, limit: int
) -> None:
    fake = FakeCuda(schedule, seed)
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    with pytest.MonkeyPatch.context() as patch:
        bindings = install(patch, fake, engine)
        patch.setattr(room, "GRAPH_BYTES", limit)
        patch.setattr(room, "PIECE_BYTES", 1000)  # cuts in the middle of a picture
        execution = Execution(bindings, made(bindings, engine), INPUT, OUTPUT, BATCH)
        batches = [pictures(n, seed + i) for i, n in enumerate(sizes)]
        one_by_one = [execution.run(batch) for batch in batches]
        in_a_row = list(execution.run_each(batches))
        execution.close()
    assert fake.held == 0
    for batch, alone, after_another in zip(batches, one_by_one, in_a_row, strict=True):
        np.testing.assert_array_equal(alone, engine.answer(batch))
        np.testing.assert_array_equal(after_another, engine.answer(batch))


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=40, deadline=None)
@given(
    calls=st.lists(st.tuples(st.booleans(), st.lists(st.integers(1, 16), min_size=1, max_size=4)), max_size=5),
    seed=st.integers(0, 1000),
    limit=st.sampled_from([0, 3000, 1 << 20]),
)
def test_whatever_was_called_before_the_answers_are_right(
    schedule: str, calls: list[tuple[bool, list[int]]], seed: int, limit: int
) -> None:
    """A graph is captured once an answer is there: by then others may be under way, or the call has ended in an error."""
    fake = FakeCuda(schedule, seed)
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)

    def spoil() -> None:
        raise InputError("NaN")

    with pytest.MonkeyPatch.context() as patch:
        bindings = install(patch, fake, engine)
        patch.setattr(room, "GRAPH_BYTES", limit)
        execution = Execution(bindings, made(bindings, engine), INPUT, OUTPUT, BATCH)
        for spoilt, sizes in calls:
            batches = [pictures(n, seed + i) for i, n in enumerate(sizes)]
            if spoilt:
                with pytest.raises(InputError):
                    execution.run(batches[0], spoil)
            for batch, answer in zip(batches, execution.run_each(batches), strict=True):
                np.testing.assert_array_equal(answer, engine.answer(batch))
        for bucket in execution.buckets:
            batch = pictures(bucket, seed)
            np.testing.assert_array_equal(execution.run(batch), engine.answer(batch))
        execution.close()
    assert fake.held == 0


def test_the_caller_owns_the_answers(backend: TensorRtRtxBackend) -> None:
    first = backend.run(pictures(2, seed=1))
    kept = first.copy()
    backend.run(pictures(2, seed=2))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.owndata
    assert first.flags.writeable


@pytest.mark.usefixtures("no_graphs")
def test_a_batch_lives_for_as_long_as_the_gpu_may_read_it(backend: TensorRtRtxBackend) -> None:
    """From pinned memory it is copied where it is, and the caller has forgotten it by then."""
    alive: list[weakref.ref[Any]] = []

    def batches() -> Iterator[Any]:
        for seed in range(3):
            one = [pictures(16, seed)]
            alive.append(weakref.ref(one[0]))
            yield one.pop()

    answers = backend.run_each(batches())
    next(answers)
    assert [batch() is not None for batch in alive] == [False, True, True]
    answers.close()  # type: ignore[attr-defined]


def test_a_batch_is_let_go_with_its_answer(backend: TensorRtRtxBackend) -> None:
    batch = pictures(4)
    alive = weakref.ref(batch)
    backend.run(batch)
    del batch
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(("dtype", "output"), [("uint8", "float32"), ("float16", "float32")])
def test_inputs_of_other_types_go_in_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, output: str
) -> None:
    fake = FakeCuda()
    spec = TensorSpec("input", dtype, (None, 8, 8, 3))
    engine = FakeEngine(fake, spec, structs.replace(OUTPUT, dtype=output), BATCH)
    install(monkeypatch, fake, engine)
    backend = TensorRtRtxBackend.load(write_plan(tmp_path, input=spec), Options("cuda"))
    batch = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3)).astype(dtype)
    for _ in range(2):
        np.testing.assert_array_equal(backend.run(batch), engine.answer(batch))
    assert backend.input == spec
    backend.close()


def test_runtime_chunks_pads_and_answers_through_it(tmp_path: Path, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_range = BatchRange(2, 4, 8)
    engine = FakeEngine(fake, INPUT, OUTPUT, batch_range)
    install(monkeypatch, fake, engine)
    plan = write_plan(tmp_path, batch=batch_range)
    with Runtime(plan.path, device="cuda") as runtime:
        assert (runtime.backend, runtime.device, runtime.batch) == ("tensorrt-rtx", "cuda", batch_range)
        for count in (0, 1, 8, 9, 50):
            batch = pictures(count)
            np.testing.assert_array_equal(runtime.logits(batch), engine.answer(batch))
    assert fake.held == 0


def test_threads_share_one_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda("random")
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    wrong: list[int] = []
    with Runtime(write_plan(tmp_path).path, device="cuda") as runtime:

        def work(seed: int) -> None:
            for count in (1, 3, 20):
                batch = pictures(count, seed)
                if not np.array_equal(runtime.logits(batch), engine.answer(batch)):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# Graphs, copies and memory


def test_a_bucket_runs_plainly_once_and_then_as_one_graph(backend: TensorRtRtxBackend, fake: FakeCuda) -> None:
    backend.run(pictures(3))
    fake.calls.clear()
    backend.run(pictures(3))
    assert fake.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_sizes_between_two_buckets_share_the_larger_ones_graph(
    backend: TensorRtRtxBackend, fake: FakeCuda, engine: FakeEngine
) -> None:
    for count in (9, 10, 11, 12):
        batch = pictures(count, seed=count)
        np.testing.assert_array_equal(backend.run(batch), engine.answer(batch))
    assert fake.calls.count("cudaGraphInstantiate") == 1
    assert set(engine.enqueued) == {12}


@given(low=st.integers(1, 40), best=st.integers(0, 200), more=st.integers(0, 200))
def test_buckets_cover_every_size_and_waste_at_most_a_third(low: int, best: int, more: int) -> None:
    batch = BatchRange(low, low + best, low + best + more)
    sizes = buckets(batch)
    assert sizes == tuple(sorted(set(sizes)))
    assert {batch.min, batch.opt, batch.max} <= set(sizes)
    for rows in range(batch.min, batch.max + 1):
        bucket = next(n for n in sizes if n >= rows)
        assert bucket - rows <= bucket / 3


@pytest.mark.usefixtures("no_graphs")
def test_device_memory_is_allocated_when_it_is_loaded_and_never_while_it_runs(
    backend: TensorRtRtxBackend, fake: FakeCuda
) -> None:
    list(backend.run_each([pictures(16), pictures(16)]))
    fake.calls.clear()
    for count in (1, 7, 16):
        backend.run(pictures(count))
        list(backend.run_each([pictures(count)] * 5))
    assert not {"cudaMalloc", "cudaHostAlloc", "cudaFree", "cudaFreeHost"} & set(fake.calls)


def test_small_batches_in_a_row_share_one_place_in_memory(backend: TensorRtRtxBackend, fake: FakeCuda) -> None:
    """Each is one CUDA graph, and a graph is made for one place; large ones take turns in two."""
    fake.calls.clear()
    list(backend.run_each([pictures(4)] * 5))
    assert "cudaMalloc" not in fake.calls
    assert fake.calls.count("cudaGraphInstantiate") == 1


@pytest.mark.usefixtures("no_graphs")
def test_a_batch_in_pinned_memory_is_copied_from_where_it_is(
    backend: TensorRtRtxBackend, fake: FakeCuda, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cuda.PinnedBuffer(pictures(4).nbytes) as pinned:
        batch = pinned.array("float32", (4, 3, 8, 8))
        batch[...] = pictures(4)
        monkeypatch.setattr(room, "PIECE_BYTES", 64)
        fake.calls.clear()
        np.testing.assert_array_equal(backend.run(batch), engine.answer(pictures(4)))
        assert fake.calls.count("cudaMemcpyAsync") == 2


@pytest.mark.usefixtures("no_graphs")
def test_copying_in_overlaps_with_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda("late")
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    bindings = install(monkeypatch, fake, engine)
    execution = Execution(bindings, made(bindings, engine), INPUT, OUTPUT, BATCH)
    answers = execution.run_each(pictures(2, seed) for seed in range(4))
    next(answers)
    # When the first answer is out, the second batch is queued: nothing waited for the first before sending the second.
    assert fake.calls.count("cudaEventRecord") == 2 * 3
    assert len(list(answers)) == 3
    execution.close()


def test_two_hundred_open_close_cycles_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    monkeypatch.setattr(room, "GRAPH_BYTES", pictures(4).nbytes)
    plan = write_plan(tmp_path)
    for _ in range(200):
        backend = TensorRtRtxBackend.load(plan, Options("cuda"))
        backend.run(pictures(3))
        list(backend.run_each([pictures(16)] * 3))
        backend.close()
        assert fake.held == 0


@pytest.mark.parametrize("limit", [0, 1 << 20])
@pytest.mark.parametrize("count", [3, 40])
def test_a_batch_is_looked_at_while_the_gpu_has_it_and_an_error_leaves_nothing_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, limit: int
) -> None:
    fake = FakeCuda("late")
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    monkeypatch.setattr(room, "GRAPH_BYTES", limit)
    queued: list[bool] = []
    with Runtime(write_plan(tmp_path).path, device="cuda") as runtime:
        look = runtime._intake.check
        monkeypatch.setattr(
            runtime._intake,
            "check",
            lambda *a: (queued.append(any(s.queue for s in fake.streams.values())), look(*a)),
        )
        np.testing.assert_array_equal(runtime.logits(pictures(count)), engine.answer(pictures(count)))
        assert queued
        assert all(queued)
        poisoned = pictures(count)
        poisoned[-1, 0, 0, 0] = np.nan
        with pytest.raises(InputError, match=f"picture {count - 1} of the batch holds NaN"):
            runtime.predict(poisoned)
        assert not any(stream.queue for stream in fake.streams.values())
        np.testing.assert_array_equal(runtime.logits(pictures(count)), engine.answer(pictures(count)))
    assert fake.held == 0


# Batches that are on the GPU already


def on_gpu(array: Any, offset: int = 0) -> DeviceArray:
    """A copy in the fake GPU's memory, `offset` bytes behind where it would be aligned."""
    held = DeviceArray("uint8", (array.nbytes + 2 * room.ALIGNMENT,))
    held.address += -held.address % room.ALIGNMENT + offset
    held.dtype, held.shape = array.dtype.name, array.shape
    ctypes.memmove(held.address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
    return held


def from_gpu(array: Any) -> Any:
    memory = (ctypes.c_ubyte * (4 * int(np.prod(array.shape)))).from_address(array.address)
    return np.ndarray(array.shape, array.dtype, memory).copy()


def test_a_batch_on_the_gpu_is_read_where_it_is(backend: TensorRtRtxBackend, fake: FakeCuda, engine: FakeEngine) -> None:
    batch, out = on_gpu(pictures(16)), on_gpu(np.zeros((16, 5), np.float32))
    fake.calls.clear()
    for _ in range(4):
        assert backend.run_on_device(batch, out) is out
        np.testing.assert_array_equal(from_gpu(out), engine.answer(pictures(16)))
    assert "cudaMemcpyAsync" not in fake.calls
    assert fake.calls.count("cudaGraphLaunch") == 2  # addresses that came twice have a graph


def test_an_answer_stays_on_the_gpu(backend: TensorRtRtxBackend, engine: FakeEngine) -> None:
    answer = backend.run_on_device(on_gpu(pictures(3)))
    assert isinstance(answer, DeviceArray)
    np.testing.assert_array_equal(answer.to_host(), engine.answer(pictures(3)))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 16, 17, 40])
@pytest.mark.parametrize("offset", [0, 4])
def test_any_length_and_any_address_on_the_gpu_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, offset: int
) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BatchRange(2, 4, 16))
    install(monkeypatch, fake, engine)
    backend = TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))
    answer = backend.run_on_device(on_gpu(pictures(count), offset))
    assert isinstance(answer, DeviceArray)
    np.testing.assert_array_equal(answer.to_host(), engine.answer(pictures(count)))
    backend.close()


def test_many_addresses_keep_only_some_graphs(backend: TensorRtRtxBackend, fake: FakeCuda) -> None:
    outs = [(on_gpu(pictures(2)), on_gpu(np.zeros((2, 5), np.float32))) for _ in range(room.DEVICE_GRAPHS + 4)]
    for batch, out in outs:
        for _ in range(3):
            backend.run_on_device(batch, out)
    assert fake.graphs == room.DEVICE_GRAPHS
    assert len(backend._execution._used) == room.DEVICE_GRAPHS


def test_arrays_on_the_gpu_that_do_not_fit_are_refused(backend: TensorRtRtxBackend) -> None:
    good = on_gpu(pictures(4))
    for batch, out, says in (
        (on_gpu(pictures(4).astype(np.float64)), None, "batch is float64"),
        (on_gpu(pictures(4)[:, :2]), None, r"batch is float32 \(4, 2, 8, 8\)"),
        (on_gpu(np.float32(1).reshape(())), None, r"batch is float32 \(\)"),
        (good, on_gpu(np.zeros((4, 6), np.float32)), r"out is float32 \(4, 6\)"),
        (good, on_gpu(np.zeros((3, 5), np.float32)), "out has 3 rows"),
        (pictures(4), None, "on device 0 of DLPack's type 1"),
    ):
        with pytest.raises(InputError, match=says):
            backend.run_on_device(batch, out)


def test_runtime_takes_batches_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda("random")
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    with Runtime(write_plan(tmp_path).path, device="cuda") as runtime:
        for count in (0, 1, 40):
            batch = on_gpu(pictures(count))
            np.testing.assert_array_equal(runtime.logits(batch), engine.answer(pictures(count)))  # type: ignore[arg-type]
            stays = runtime.on_device(batch)
            assert isinstance(stays, DeviceArray)
            np.testing.assert_array_equal(stays.to_host(), engine.answer(pictures(count)))
            del batch, stays
        poisoned = pictures(3)
        poisoned[1, 0, 0, 0] = np.nan
        with pytest.raises(OutputNotFinite):
            runtime.predict(on_gpu(poisoned))  # type: ignore[arg-type]
    gc.collect()
    assert fake.held == 0


def test_an_engine_on_the_cpu_takes_no_gpu_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_api", lambda: fake)
    with Runtime(write_fake(tmp_path / "f.onnx", height=8, width=8).path, backend="fake") as runtime:
        with pytest.raises(InputError, match="fake on cpu takes no arrays on the GPU"):
            runtime.predict(on_gpu(pictures(1)))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="fake on cpu takes no arrays on the GPU"):
            runtime.on_device(on_gpu(pictures(1)))


def test_batches_on_the_gpu_are_answered_on_the_host_without_any_allocation(
    backend: TensorRtRtxBackend, fake: FakeCuda, engine: FakeEngine
) -> None:
    batches = [on_gpu(pictures(count), offset) for count, offset in ((0, 0), (1, 0), (5, 0), (16, 4), (40, 0))]
    fake.calls.clear()
    for batch in batches * 3:
        expected = engine.answer(from_gpu(batch))
        found = backend.run_from_device(batch)
        np.testing.assert_array_equal(found, expected)
        assert found.flags.owndata
    assert not {"cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags"} & set(fake.calls)


def test_batches_on_the_gpu_are_computed_in_the_same_few_sizes_as_others(backend: TensorRtRtxBackend, engine: FakeEngine) -> None:
    """TensorRT for RTX compiles for every size that it meets."""
    for count in range(1, 17):
        backend.run_on_device(on_gpu(pictures(count)))
    assert set(engine.compiled) == set(buckets(BATCH))


# Other GPUs, other threads, and what is forgotten


def test_a_thread_that_is_on_another_gpu_stays_there_and_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda("random", devices=2)
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    fake.cudaSetDevice(1)  # as torch.cuda.set_device does
    with Runtime(write_plan(tmp_path).path, device="cuda") as runtime:
        batch = on_gpu(pictures(3))
        np.testing.assert_array_equal(runtime.logits(pictures(40)), engine.answer(pictures(40)))
        answer = runtime.on_device(pictures_on(0, fake, 3))
        assert isinstance(answer, DeviceArray)
        np.testing.assert_array_equal(answer.to_host(), engine.answer(pictures(3)))
        assert {device for *_, device in fake.memory.values()} == {0, 1}  # the one on 1 is `batch`
        assert fake.current == 1
        del batch, answer
    assert fake.current == 1
    gc.collect()
    assert fake.held == 0


def pictures_on(device: int, fake: FakeCuda, count: int) -> DeviceArray:
    before = fake.current
    fake.cudaSetDevice(device)
    array = on_gpu(pictures(count))
    fake.cudaSetDevice(before)
    return array


def test_a_thread_that_has_never_called_cuda_is_answered(backend: TensorRtRtxBackend, engine: FakeEngine) -> None:
    batch, out = on_gpu(pictures(4)), on_gpu(np.zeros((4, 5), np.float32))
    thread = threading.Thread(target=backend.run_on_device, args=(batch, out))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(from_gpu(out), engine.answer(pictures(4)))


def test_a_runtime_that_nobody_closes_gives_its_memory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    runtime = Runtime(write_plan(tmp_path).path, device="cuda")
    for _ in range(2):
        runtime.logits(pictures(40))
    assert fake.held > 0
    del runtime
    gc.collect()
    assert fake.held == 0


def test_a_context_keeps_what_it_stands_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    context = made(install(monkeypatch, fake, engine), engine)
    gc.collect()
    assert context.raw.set_input_shape("input", (1, 3, 8, 8))
    assert fake.held == 0
    raw = context.raw
    context.close()
    raw.set_input_shape("input", (1, 3, 8, 8))  # what nobody may do
    with pytest.raises(AssertionError, match="its cache of kernels is gone"):
        assert fake.held == 0


def test_closing_waits_for_the_gpu_before_it_destroys_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda("late")
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    bindings = install(monkeypatch, fake, engine)
    execution = Execution(bindings, made(bindings, engine), INPUT, OUTPUT, BATCH)
    slot = execution._slots[0]
    execution._enqueue(slot.input.address, slot.output.address, 4)
    execution.close()
    assert engine.enqueued == [4]
    assert fake.held == 0


@pytest.mark.parametrize("call", ["cudaStreamSynchronize", "cudaGraphExecDestroy", "cudaFree", "cudaStreamDestroy"])
def test_closing_goes_on_behind_an_error_and_tells_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    runtime = Runtime(write_plan(tmp_path).path, device="cuda")
    runtime.logits(pictures(3))
    fake.faults[call] = Error.cudaErrorIllegalAddress
    before = fake.held
    with pytest.raises(BackendError, match=call):
        runtime.close()
    kinds = {"cudaStreamSynchronize": 0, "cudaGraphExecDestroy": 1, "cudaFree": 2, "cudaStreamDestroy": 3}
    assert fake.held == kinds[call] < before  # what that very call would have freed
    runtime.close()


# Trouble on the way


@pytest.mark.usefixtures("no_graphs")
def test_a_caller_that_stops_listening_leaves_the_engine_usable(
    backend: TensorRtRtxBackend, fake: FakeCuda, engine: FakeEngine
) -> None:
    answers = backend.run_each(pictures(16, seed) for seed in range(6))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert not any(stream.queue for stream in fake.streams.values())  # nothing reads the batches that are gone by now
    batches = [pictures(16, seed) for seed in range(10, 14)]
    for batch, answer in zip(batches, backend.run_each(batches), strict=True):
        np.testing.assert_array_equal(answer, engine.answer(batch))


@pytest.mark.usefixtures("no_graphs")
def test_an_error_in_preparing_a_batch_leaves_the_engine_usable(backend: TensorRtRtxBackend, engine: FakeEngine) -> None:
    def batches() -> Iterator[Any]:
        yield pictures(16)
        yield pictures(16)
        raise ValueError("NaN in row 3")

    with pytest.raises(ValueError, match="row 3"):
        list(backend.run_each(batches()))
    np.testing.assert_array_equal(backend.run(pictures(16)), engine.answer(pictures(16)))


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_ctrl_c_at_the_gpus_answer_leaves_nothing_under_way(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """What the GPU still did would be copied over the answer to the next call."""
    fake = FakeCuda("late")
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    bindings = install(monkeypatch, fake, engine)
    monkeypatch.setattr(room, "GRAPH_BYTES", limit)
    execution = Execution(bindings, made(bindings, engine), INPUT, OUTPUT, BATCH)

    def interrupted(slot: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution, "_collect", interrupted)
        for call in (lambda: execution.run(pictures(3)), lambda: list(execution.run_each([pictures(3)]))):
            with pytest.raises(KeyboardInterrupt):
                call()
            assert not any(stream.queue for stream in fake.streams.values())
    np.testing.assert_array_equal(execution.run(pictures(3)), engine.answer(pictures(3)))
    execution.close()


@pytest.mark.parametrize("call", ["run_on_device", "run_from_device"])
def test_a_batch_on_the_gpu_of_which_a_part_is_refused_is_read_no_more(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda("late")
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    bindings = install(monkeypatch, fake, engine)
    execution = Execution(bindings, made(bindings, engine), INPUT, OUTPUT, BATCH)
    batch, enqueue, last = on_gpu(pictures(40), offset=4), execution._enqueue, []

    def refused(source: int, target: int, rows: int) -> None:
        last.append(rows)
        if rows < 16:
            raise BackendError("out of memory")
        enqueue(source, target, rows)

    monkeypatch.setattr(execution, "_enqueue", refused)
    with pytest.raises(BackendError, match="out of memory"):
        getattr(execution, call)(batch)
    assert last == [16, 16, 8]
    assert not any(stream.queue for stream in fake.streams.values())
    execution.close()


@pytest.mark.parametrize(
    ("input", "output", "says"),
    [
        (structs.replace(INPUT, dtype="bf16"), OUTPUT, r"the input of net\.plan is input bf16 \(N, 3, 8, 8\)"),
        (structs.replace(INPUT, dtype="int32"), OUTPUT, r"the input of net\.plan is input int32"),
        (structs.replace(INPUT, shape=(None, 3, None, None)), OUTPUT, r"is input float32 \(N, 3, N, N\)"),
        (structs.replace(INPUT, shape=()), OUTPUT, r"is input float32 \(\)"),
        (INPUT, structs.replace(OUTPUT, dtype="int64"), r"the output of net\.plan is logits int64"),
        (INPUT, structs.replace(OUTPUT, shape=(None, None)), r"is logits float32 \(N, N\)"),
    ],
)
def test_a_plan_from_elsewhere_whose_memory_nobody_could_lay_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, input: TensorSpec, output: TensorSpec, says: str
) -> None:
    """trtexec builds such plans; their types are not numpy's, or their pictures of any size."""
    fake = FakeCuda()
    install(monkeypatch, fake, FakeEngine(fake, input, output, BATCH))
    path = tmp_path / "net.plan"
    path.write_bytes(b"from trtexec")
    with pytest.raises(ModelError, match=says):
        Runtime(path, device="cuda", backend="tensorrt-rtx")
    assert fake.held == 0


def test_a_refusal_of_tensorrt_is_an_error(backend: TensorRtRtxBackend, engine: FakeEngine) -> None:
    engine.refuse = "run"
    with pytest.raises(BackendError, match="did not run a batch of 2"):
        backend.run(pictures(2))
    with pytest.raises(BackendError, match="did not run a batch of 12"):
        list(backend.run_each([pictures(12)] * 3))
    engine.refuse = ""
    np.testing.assert_array_equal(backend.run(pictures(2)), engine.answer(pictures(2)))


def test_an_error_of_cuda_names_the_call_and_the_code(backend: TensorRtRtxBackend, fake: FakeCuda) -> None:
    fake.faults["cudaStreamSynchronize"] = Error.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match=r"cudaStreamSynchronize: IllegalAddress \(cudaErrorIllegalAddress\)"):
        backend.run(pictures(1))
    fake.faults.clear()


def test_an_engine_that_cannot_be_captured_runs_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH, capturable=False)
    install(monkeypatch, fake, engine)
    backend = TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))
    batch, out = on_gpu(pictures(4)), on_gpu(np.zeros((4, 5), np.float32))
    for _ in range(3):
        np.testing.assert_array_equal(backend.run(pictures(3)), engine.answer(pictures(3)))
        backend.run_on_device(batch, out)
        np.testing.assert_array_equal(from_gpu(out), engine.answer(pictures(4)))
    assert "cudaGraphLaunch" not in fake.calls
    backend.close()


def test_an_engine_that_refuses_within_a_capture_goes_on_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    engine.refuse = "capture"
    install(monkeypatch, fake, engine)
    with Runtime(write_plan(tmp_path).path, device="cuda") as runtime:
        with pytest.warns(FallbackWarning, match="CUDA graphs are off: .* did not run while it was captured"):
            found = runtime.logits(pictures(3))
        np.testing.assert_array_equal(found, engine.answer(pictures(3)))
        np.testing.assert_array_equal(runtime.logits(pictures(5)), engine.answer(pictures(5)))
    assert fake.calls.count("cudaStreamBeginCapture") == 1
    assert fake.held == 0


def test_a_capture_that_fails_is_said_and_answers_stay_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    backend = TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))
    fake.faults["cudaStreamEndCapture"] = Error.cudaErrorStreamCaptureInvalidated
    with pytest.warns(FallbackWarning, match="CUDA graphs are off: cudaStreamEndCapture"):
        backend.run(pictures(3))
    fake.faults.clear()
    np.testing.assert_array_equal(backend.run(pictures(3)), engine.answer(pictures(3)))
    backend.close()


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"])
def test_a_load_that_fails_half_way_frees_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    fake = FakeCuda()
    install(monkeypatch, fake, FakeEngine(fake, INPUT, OUTPUT, BATCH))
    fake.faults[call] = Error.cudaErrorMemoryAllocation
    with pytest.raises(BackendError, match="smaller --max-batch"):
        TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))
    assert fake.held == 0


def test_a_second_close_of_memory_frees_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_api", lambda: fake)
    for owner in (cuda.DeviceBuffer(8), cuda.PinnedBuffer(8), cuda.Stream(), cuda.Event()):
        owner.close()
        owner.close()
    assert fake.held == 0


# What is compared before TensorRT is given a plan

TENSORRT = PlanRecord(flavour=Flavour.TENSORRT, version="11.4.0.12", capabilities=("sm90",))


@pytest.mark.parametrize(
    ("record", "here", "gpu", "says"),
    [
        (TENSORRT, (Flavour.TENSORRT, "11.5.0.3"), H100, r"built by tensorrt 11\.4\.0\.12, here is tensorrt 11\.5\.0\.3"),
        (TENSORRT, (Flavour.TENSORRT_RTX, "1.7.1.116"), H100, r"built by tensorrt 11\.4\.0\.12, here is tensorrt-rtx"),
        (TENSORRT, (Flavour.TENSORRT, "11.4.0.12"), L40, r"built for sm90, here is NVIDIA L40 \(sm89\)"),
        (
            structs.replace(TENSORRT, flavour=Flavour.TENSORRT_RTX, capabilities=("sm89", "sm120")),
            (Flavour.TENSORRT_RTX, "11.4.0.12"),
            Gpu("NVIDIA A10", (8, 6), 24 << 30),
            r"built for sm89, sm120, here is NVIDIA A10 \(sm86\)",
        ),
    ],
)
def test_a_plan_for_something_else_is_refused_with_the_rebuild_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: PlanRecord, here: tuple[Flavour, str], gpu: Gpu, says: str
) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine, flavour=here[0], version=here[1], gpu=gpu)
    kind = TensorRtBackend if here[0] is Flavour.TENSORRT else TensorRtRtxBackend
    with pytest.raises(ArtifactCorrupt, match=says) as caught:
        kind.load(write_plan(tmp_path, plan=record), Options("cuda"))
    assert f"alexnet-deploy build-engine {tmp_path}/net.fp16.onnx -o {tmp_path}/net.plan" in caught.value.fix


@pytest.mark.parametrize("kind", [TensorRtBackend, TensorRtRtxBackend])
def test_a_plan_for_this_tensorrt_and_gpu_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[TensorRtBackend]
) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine, flavour=kind.flavour, version="1.2.3", gpu=L40)
    record = PlanRecord(flavour=kind.flavour, version="1.2.3", capabilities=("sm89",))
    backend = kind.load(write_plan(tmp_path, plan=record), Options("cuda"))
    np.testing.assert_array_equal(backend.run(pictures(2)), engine.answer(pictures(2)))
    backend.close()


def test_a_plan_from_elsewhere_says_nothing_and_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine)
    path = tmp_path / "foreign.plan"
    path.write_bytes(b"from trtexec")
    with Runtime(path, device="cuda", backend="tensorrt-rtx") as runtime:
        np.testing.assert_array_equal(runtime.logits(pictures(2)), engine.answer(pictures(2)))


@pytest.mark.parametrize("kind", [TensorRtBackend, TensorRtRtxBackend])
def test_a_plan_without_its_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[TensorRtBackend]
) -> None:
    """As BuilderFlag.STRIP_PLAN and trtexec --stripWeights leave one, to be filled later: it would answer all the same."""
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    engine.stripped_bytes = 61_000_000
    install(monkeypatch, fake, engine, flavour=kind.flavour)
    with pytest.raises(ArtifactCorrupt, match=r"foreign\.plan was built without 61,000,000 bytes of its weights") as caught:
        (tmp_path / "foreign.plan").write_bytes(b"from trtexec")
        Runtime(tmp_path / "foreign.plan", device="cuda", backend=kind.name)
    assert "alexnet-deploy build-engine" in caught.value.fix


def test_none_from_tensorrt_becomes_an_error_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(), None)
    with pytest.raises(ArtifactCorrupt, match=r"cannot load net.plan on NVIDIA L40.*the magic number is wrong"):
        TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))


@pytest.mark.parametrize(
    ("invalid", "kind", "says"),
    [
        (1, ArtifactCorrupt, "version mismatch"),
        (2, ArtifactCorrupt, "unsupported cc"),
        (32 | 4, ArtifactCorrupt, "old cuda driver, malformed engine"),
        (4, DeviceMissing, "old cuda driver"),
        (16, DeviceMissing, "insufficient gpu memory"),
    ],
)
def test_what_the_validity_check_finds_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invalid: int, kind: type[Exception], says: str
) -> None:
    """Building the plan again helps against what is wrong with the plan, not against the machine."""
    fake = FakeCuda()
    install(monkeypatch, fake, FakeEngine(fake, INPUT, OUTPUT, BATCH), invalid=invalid)
    with pytest.raises(kind, match=says) as caught:
        TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))
    assert ("build-engine" in caught.value.fix) == (kind is ArtifactCorrupt)  # type: ignore[attr-defined]


@pytest.mark.parametrize("refusal", ["its header", "deserialising", "a context"])
def test_a_gpu_that_tensorrt_for_rtx_does_not_name_is_what_the_error_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """An H100: the same plan built again would not run there either."""
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    engine.refuse = "context" if refusal == "a context" else ""
    install(
        monkeypatch, fake, None if refusal == "deserialising" else engine, gpu=H100, invalid=2 if refusal == "its header" else 0
    )
    with pytest.raises(DeviceMissing, match="does not name sm90") as caught:
        TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))
    assert caught.value.expected == "sm80, sm86, sm89, sm120"
    assert "--target tensorrt" in caught.value.fix


def test_a_gpu_that_is_not_named_is_used_where_tensorrt_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    install(monkeypatch, fake, engine, gpu=H100)
    with Runtime(write_plan(tmp_path).path, device="cuda") as runtime:
        np.testing.assert_array_equal(runtime.logits(pictures(2)), engine.answer(pictures(2)))


def test_a_plan_of_one_fixed_size_needs_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    fixed = structs.replace(INPUT, shape=(4, 3, 8, 8))
    engine = FakeEngine(fake, fixed, structs.replace(OUTPUT, shape=(4, 5)), BatchRange(4, 4, 4))
    monkeypatch.setattr(engine, "get_tensor_profile_shape", lambda name, profile: [(), (), ()])
    install(monkeypatch, fake, engine)
    backend = TensorRtRtxBackend.load(write_plan(tmp_path, input=fixed), Options("cuda"))
    assert backend.batch == BatchRange(4, 4, 4)
    np.testing.assert_array_equal(backend.run(pictures(4)), engine.answer(pictures(4)))
    backend.close()


def test_no_context_means_no_memory_and_says_how_much_it_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    engine.refuse = "context"
    install(monkeypatch, fake, engine)
    with pytest.raises(BackendError, match=r"made no execution context.*1 MiB of free GPU memory"):
        TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))


def test_an_engine_with_two_outputs_is_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    names = ["input", "logits", "features"]
    engine.num_io_tensors = 3
    engine.get_tensor_name = names.__getitem__  # type: ignore[method-assign]
    install(monkeypatch, fake, engine)
    with pytest.raises(ModelError, match="2 outputs: logits, features"):
        TensorRtRtxBackend.load(write_plan(tmp_path), Options("cuda"))


def test_it_does_not_run_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(DeviceMissing, match="does not run on cpu"):
        TensorRtRtxBackend.load(write_plan(tmp_path), Options("cpu"))


# The kernels that TensorRT for RTX compiles


def test_compiled_kernels_are_kept_beside_the_plan_and_used_again(
    tmp_path: Path, fake: FakeCuda, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = install(monkeypatch, fake, engine)
    plan = write_plan(tmp_path)
    given: list[bytes] = []
    monkeypatch.setattr(
        bindings, "context", lambda e, kernels, original=bindings.context: (given.append(kernels), original(e, kernels))[1]
    )
    for _ in range(2):
        backend = TensorRtRtxBackend.load(plan, Options("cuda"))
        backend.run(pictures(1))
        backend.close()
    kept = kernels_path(plan.path, bindings, L40)
    assert kept.name == "net.plan.nvidia-l40-1.7.1.116.kernels"
    assert given == [b"", kept.read_bytes()]


def test_a_folder_that_cannot_be_written_to_keeps_no_kernels_and_harms_nothing(
    backend: TensorRtRtxBackend, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("alexnet_deploy.backends.trt.replacing", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(backend.run(pictures(1)), engine.answer(pictures(1)))


def test_kernels_compiled_for_batches_on_the_gpu_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    engine = FakeEngine(fake, INPUT, OUTPUT, BATCH)
    bindings = install(monkeypatch, fake, engine)
    plan = write_plan(tmp_path)
    with Runtime(plan.path, device="cuda") as runtime:
        for count in (3, 40):
            runtime.on_device(on_gpu(pictures(count)))
    assert set(kernels_path(plan.path, bindings, L40).read_bytes()[-3:]) == {3, 8, 16}


def test_a_cache_that_cannot_be_written_out_is_no_reason_to_fail(
    backend: TensorRtRtxBackend, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.refuse = "cache"
    np.testing.assert_array_equal(backend.run(pictures(1)), engine.answer(pictures(1)))
    assert not list(tmp_path.glob("*.kernels"))


def test_tensorrt_itself_keeps_no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    install(monkeypatch, fake, FakeEngine(fake, INPUT, OUTPUT, BATCH), flavour=Flavour.TENSORRT, version="11.4.0.12", gpu=H100)
    plan = write_plan(tmp_path, plan=TENSORRT)
    backend = TensorRtBackend.load(plan, Options("cuda"))
    backend.run(pictures(1))
    backend.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.plan", "net.plan.json"]
