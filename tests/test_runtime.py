"""Runtime: which backend runs, what is refused, how pictures and batches become answers."""

from __future__ import annotations

import _thread
import asyncio
import copy
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec import structs
from onnx import ModelProto, helper
from PIL import Image

from alexnet_deploy import loading
from alexnet_deploy.artifact import Artifact, manifest_path, update_manifest
from alexnet_deploy.backends.fake import FakeBackend, write_fake
from alexnet_deploy.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    BackendError,
    BackendMissing,
    DeviceMissing,
    FallbackWarning,
    InputError,
    ManifestError,
    ModelError,
    OutputNotFinite,
    PictureError,
    RuntimeClosed,
)
from alexnet_deploy.gpu import gpus
from alexnet_deploy.intake import all_finite, parts
from alexnet_deploy.machine import cpu_name, usable_cores
from alexnet_deploy.manifest import FileReference, Preprocess, TunedRecord
from alexnet_deploy.preprocess import prepare
from alexnet_deploy.runtime import Runtime, softmax
from alexnet_deploy.types import BatchRange, OutputKind, Precision, TensorSpec
from tests.conformance import in_process
from tests.patience import until
from tests.tiny import LABELS, SIZE, float_batch, picture_batch, tiny_artifact, tiny_graph

no_gpu = pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("tiny") / "model.onnx")


def plan_with_twin(folder: Path) -> Artifact:
    twin = tiny_artifact(folder / "model.int8.cpu.onnx")
    return write_fake(
        folder / "model.plan",
        labels=LABELS,
        height=SIZE,
        width=SIZE,
        twin=FileReference(file=twin.path.name, sha256=twin.manifest.sha256),
    )


def graph_taking(dtype: str, shape: list[int | None]) -> ModelProto:
    """The tiny graph with another input, which it turns into its own; uint8 is (N, H, W, 3)."""
    graph = tiny_graph()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", kind, shape))
    graph.graph.node[0].input[0] = "cast"
    graph.graph.node.insert(0, helper.make_node("Cast", ["turned" if dtype == "uint8" else "input"], ["cast"], to=1))
    if dtype == "uint8":
        graph.graph.node.insert(0, helper.make_node("Transpose", ["input"], ["turned"], perm=[0, 3, 1, 2]))
    return graph


def saved(graph: ModelProto, folder: Path) -> Path:
    """A graph in a file without a manifest."""
    path = folder / "foreign.onnx"
    path.write_bytes(graph.SerializeToString())
    return path


class TestChoosing:
    def test_a_graph_runs_on_onnxruntime(self, tiny: Artifact) -> None:
        with Runtime(str(tiny.path)) as runtime:
            assert runtime.backend == "onnxruntime"
            assert runtime.manifest == tiny.manifest
            assert "onnxruntime on" in repr(runtime)
        assert "closed" in repr(runtime)

    @no_gpu
    def test_a_plan_without_a_gpu_runs_its_twin_and_says_so(self, tmp_path: Path) -> None:
        plan = plan_with_twin(tmp_path)
        with pytest.warns(FallbackWarning, match=r"model\.plan needs a GPU.*its twin model\.int8\.cpu\.onnx runs") as caught:
            runtime = Runtime(plan.path)
        assert caught[0].filename == __file__
        with runtime, Runtime(tmp_path / "model.int8.cpu.onnx") as twin:
            assert (runtime.backend, runtime.device, runtime.twin_of) == ("onnxruntime", "cpu", plan.path)
            assert (runtime.artifact.path, runtime.running.path) == (plan.path, twin.artifact.path)
            assert runtime.manifest.kind == "plan"
            np.testing.assert_array_equal(runtime.logits(float_batch(3)), twin.logits(float_batch(3)))

    def test_a_plan_asked_for_on_the_cpu_runs_its_twin_without_a_warning(self, tmp_path: Path) -> None:
        plan = plan_with_twin(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runtime = Runtime(plan.path, "cpu")
        assert runtime.twin_of == plan.path

    def test_a_plans_twin_runs_as_it_was_tuned_for_this_machine(self, tmp_path: Path) -> None:
        plan = plan_with_twin(tmp_path)
        twin = plan.twin()
        assert twin is not None
        here = TunedRecord(
            backend="onnxruntime", device="cpu", threads=1, batch=1, latency_ms=1.0, cpu=cpu_name(), cores=usable_cores()
        )
        for tuned, asked, threads in (
            (here, None, 1),
            (here, 2, 2),
            (structs.replace(here, cpu="another"), None, None),
            (structs.replace(here, cores=here.cores + 1), None, None),
            (structs.replace(here, backend="fake"), None, None),
            (structs.replace(here, backend="one of a later version"), None, None),
            (structs.replace(here, device="cuda"), None, None),
        ):
            update_manifest(twin, tuned=tuned)
            with Runtime(plan.path, "cpu", threads=asked) as runtime:
                assert (runtime.backend, runtime.threads) == ("onnxruntime", threads)

    @no_gpu
    def test_a_plan_asked_for_on_cuda_is_strict(self, tmp_path: Path) -> None:
        with pytest.raises(DeviceMissing, match="needs a GPU"):
            Runtime(plan_with_twin(tmp_path).path, "cuda")

    @no_gpu
    def test_a_plan_without_a_twin_says_how_to_get_one(self, tmp_path: Path) -> None:
        plan = write_fake(tmp_path / "model.plan")
        with pytest.raises(DeviceMissing, match="build-engine"):
            Runtime(plan.path)

    @no_gpu
    @pytest.mark.parametrize("victim", ["model.plan", "model.int8.cpu.onnx"])
    def test_neither_plan_nor_twin_may_be_changed(self, tmp_path: Path, victim: str) -> None:
        plan = plan_with_twin(tmp_path)
        content = bytearray((tmp_path / victim).read_bytes())
        content[-2] ^= 1
        (tmp_path / victim).write_bytes(content)
        with pytest.raises(ArtifactCorrupt, match="SHA-256"):
            Runtime(plan.path, "cpu")

    def test_a_twin_made_anew_is_not_the_plans_twin(self, tmp_path: Path) -> None:
        plan = plan_with_twin(tmp_path)
        tiny_artifact(tmp_path / "model.int8.cpu.onnx", graph=tiny_graph(bias=1))
        with pytest.raises(ArtifactCorrupt, match="is not the twin"):
            Runtime(plan.path, "cpu")

    def test_a_backend_that_does_not_read_the_file_is_refused(self, tiny: Artifact, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"tensorrt does not read model\.onnx"):
            Runtime(tiny.path, backend="tensorrt")
        with pytest.raises(InputError, match="there is no backend 'caffe'"):
            Runtime(tiny.path, backend="caffe")
        with pytest.raises(InputError, match="there is no backend 5"):
            Runtime(tiny.path, backend=5)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"the twin 'model\.int8\.cpu\.onnx'"):
            Runtime(plan_with_twin(tmp_path).path, backend="onnxruntime")

    @pytest.mark.parametrize(
        ("device", "threads"),
        [("gpu", None), ("cuda:0", None), ("auto", 0), ("auto", True), ("cpu", 1.5), ("cpu", "2"), ("cpu", 10**6)],
    )
    def test_unknown_devices_and_impossible_threads_are_refused(self, tiny: Artifact, device: str, threads: Any) -> None:
        with pytest.raises(InputError):
            Runtime(tiny.path, device, threads=threads)
        assert Runtime(tiny.path, threads=np.int64(1)).threads == 1  # type: ignore[arg-type]

    def test_a_missing_package_is_named_with_its_extra(self, tiny: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails, as where it is not installed
        with pytest.raises(BackendMissing, match=r"pip install 'alexnet-deploy\[cpu\]'"):
            Runtime(tiny.path, backend="onnxruntime")

    def test_with_a_gpu_that_the_backend_cannot_use_auto_takes_the_cpu_and_says_so(
        self, tiny: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from alexnet_deploy.gpu import Gpu

        monkeypatch.setattr(loading, "gpus", lambda: (Gpu("a GPU that is not here", (9, 0), 1),))
        with pytest.warns(FallbackWarning, match="runs on the CPU although there is a GPU"):
            runtime = Runtime(tiny.path)
        assert runtime.device == "cpu"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Runtime(tiny.path, "cpu").close()

    def test_full_int8_weights_on_a_cpu_without_vnni_are_warned_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        artifact = tiny_artifact(tmp_path / "m.onnx", precision=Precision.INT8, reduce_range=False)
        monkeypatch.setattr(loading, "has_vnni", lambda: True)
        Runtime(artifact.path).close()
        monkeypatch.setattr(loading, "has_vnni", lambda: False)
        with pytest.warns(FallbackWarning, match="VNNI"):
            Runtime(artifact.path).close()


class TestFiles:
    def test_what_is_not_there_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactMissing, match="does not exist"):
            Runtime(tmp_path / "none.onnx")
        for folder in (tmp_path, "", ".", "/"):
            with pytest.raises(ArtifactMissing, match="is a folder"):
                Runtime(folder)
        with pytest.raises(ArtifactMissing, match="cannot be looked at: File name too long"):
            Runtime("x" * 5000 + ".onnx")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="who is root may read everything")
    def test_what_may_not_be_read_is_said(self, tmp_path: Path) -> None:
        artifact = tiny_artifact(tmp_path / "m.onnx")
        manifest_path(artifact.path).chmod(0)
        with pytest.raises(ManifestError, match="cannot be read: Permission denied"):
            Runtime(artifact.path)
        artifact.path.chmod(0)
        with pytest.raises(ArtifactMissing, match="may not be read"):
            Runtime(artifact.path)

    def test_a_file_without_manifest_needs_a_named_backend(self, tiny: Artifact, tmp_path: Path) -> None:
        path = tmp_path / "foreign.onnx"
        path.write_bytes(tiny.path.read_bytes())
        with pytest.raises(ManifestError, match="has no manifest"):
            Runtime(path)
        with Runtime(path, backend="onnxruntime") as runtime:
            np.testing.assert_array_equal(runtime.logits(float_batch(3)), Runtime(tiny.path).logits(float_batch(3)))
            assert runtime.manifest.input.shape == (None, 3, SIZE, SIZE)
            assert runtime.manifest.file == "foreign.onnx"
            with pytest.raises(InputError, match="logits or probabilities is not known"):
                runtime.predict(float_batch(1))
            with pytest.raises(InputError, match="wants its pictures is not known"):
                runtime.logits(picture_batch(1))
            with pytest.raises(InputError, match="wants its pictures is not known"):
                runtime.classify(picture_batch(1))

    def test_what_the_caller_says_of_a_file_without_manifest_is_used(self, tiny: Artifact, tmp_path: Path) -> None:
        path = tmp_path / "foreign.onnx"
        path.write_bytes(tiny.path.read_bytes())
        recipe = Preprocess(height=SIZE, width=SIZE)
        with Runtime(path, backend="onnxruntime", preprocess=recipe, labels=LABELS, output_kind=OutputKind.LOGITS) as runtime:
            assert runtime.classify(picture_batch(2)) == Runtime(tiny.path).classify(picture_batch(2))
        with pytest.raises(ModelError, match="2 labels for 7 classes"):
            Runtime(path, backend="onnxruntime", labels=("a", "b"))

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    def test_engines_of_other_floats_take_and_give_float32(self, tiny: Artifact, tmp_path: Path, dtype: str) -> None:
        graph = graph_taking(dtype, [None, 3, SIZE, SIZE])
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph.graph.node[-1].output[0] = "exact"
        graph.graph.node.append(helper.make_node("Cast", ["exact"], ["output"], to=kind))
        graph.graph.output[0].type.tensor_type.elem_type = kind
        with Runtime(saved(graph, tmp_path), backend="onnxruntime") as runtime, Runtime(tiny.path) as plain:
            assert (runtime.manifest.input.dtype, runtime.manifest.output.dtype) == (dtype, dtype)
            answer = runtime.logits(float_batch(3))
            assert answer.dtype == np.float32
            np.testing.assert_allclose(answer, plain.logits(float_batch(3)), rtol=0.01, atol=0.01)
            with pytest.raises(InputError, match=rf"the batch is {dtype}; expected float32"):
                runtime.logits(float_batch(3).astype(dtype))

    @pytest.mark.parametrize(("backend", "said"), [("onnxruntime", r"is a tensor\(int32\)"), ("openvino", "is i32")])
    def test_a_graph_of_whole_numbers_is_no_picture_classifier(self, tmp_path: Path, backend: str, said: str) -> None:
        pytest.importorskip(backend)
        with pytest.raises(ModelError, match=said):
            Runtime(saved(graph_taking("int32", [None, 3, SIZE, SIZE]), tmp_path), backend=backend)

    def test_a_graph_of_any_height_and_width_takes_all_of_them(self, tmp_path: Path) -> None:
        with Runtime(saved(graph_taking("float32", [None, 3, None, None]), tmp_path), backend="onnxruntime") as runtime:
            for height, width in ((SIZE, SIZE), (20, 33)):
                assert runtime.logits(float_batch(2, (3, height, width))).shape == (2, len(LABELS))
            for wrong in ((4, SIZE, SIZE), (3, SIZE), (1, 3, SIZE, SIZE)):
                with pytest.raises(InputError, match=r"expected \(N, 3, any, any\)"):
                    runtime.logits(float_batch(2, wrong))

    def test_a_graph_of_pixels_takes_pictures_as_somebody_says_they_are_meant(self, tmp_path: Path) -> None:
        path = saved(graph_taking("uint8", [None, SIZE, SIZE, 3]), tmp_path)
        recipe = Preprocess(height=SIZE, width=SIZE)
        with Runtime(path, backend="onnxruntime") as unsaid, Runtime(path, backend="onnxruntime", preprocess=recipe) as runtime:
            with pytest.raises(InputError, match="wants its pictures is not known"):
                unsaid.logits(picture_batch(2, SIZE, SIZE))
            np.testing.assert_array_equal(runtime.logits(picture_batch(2)), runtime.logits(prepare(picture_batch(2), recipe)))
            with pytest.raises(InputError, match=r"the batch is float32; expected uint8 \(N, H, W, 3\)"):
                runtime.logits(float_batch(2))

    def test_a_copy_of_a_runtime_is_opened_with_all_that_was_said(self, tiny: Artifact, tmp_path: Path) -> None:
        """Copied as it is pickled: for worker processes."""
        path = tmp_path / "foreign.onnx"
        path.write_bytes(tiny.path.read_bytes())
        said: Any = {"preprocess": Preprocess(height=SIZE, width=SIZE), "labels": LABELS, "output_kind": OutputKind.LOGITS}
        with Runtime(path, "cpu", "onnxruntime", threads=1, **said) as runtime, copy.copy(runtime) as other:
            assert other is not runtime
            assert (other.threads, other.manifest) == (1, runtime.manifest)
            assert other.classify(picture_batch(2)) == runtime.classify(picture_batch(2))

    @pytest.mark.parametrize(
        "said", [{"labels": ("a",)}, {"preprocess": Preprocess(height=8, width=8)}, {"output_kind": OutputKind.LOGITS}]
    )
    def test_a_manifest_is_not_overruled_by_arguments(self, tiny: Artifact, said: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="has a manifest"):
            Runtime(tiny.path, **said)

    def test_files_of_other_kinds_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        path.write_bytes(b"\x80\x02")
        with pytest.raises(ArtifactCorrupt, match=r"ends in '\.pt'"):
            Runtime(path, backend="onnxruntime")

    def test_a_graph_that_is_no_picture_classifier_is_refused(self, tmp_path: Path) -> None:
        graph = tiny_graph()
        del graph.graph.node[-2:]
        graph.graph.output[0].name = "pooled"
        for axis, size in zip(graph.graph.output[0].type.tensor_type.shape.dim, (None, 8), strict=True):
            if size:
                axis.dim_value = size
        for _ in range(2):
            graph.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1
        path = tmp_path / "features.onnx"
        path.write_bytes(graph.SerializeToString())
        with pytest.raises(ModelError, match="the output of"):
            Runtime(path, backend="onnxruntime")

    def test_a_graph_of_flat_numbers_is_refused_and_its_engine_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[bool] = []
        monkeypatch.setattr(FakeBackend, "close", lambda self: closed.append(True))
        path = write_fake(
            tmp_path / "m.onnx", input=TensorSpec("input", "float32", (None, 12)), preprocess=Preprocess(height=2, width=2)
        ).path
        with pytest.raises(ModelError, match=r"the input of m\.onnx is input float32 \(N, 12\); expected a batch of pictures"):
            Runtime(path, backend="fake")
        assert closed == [True]

    def test_a_wrong_hash_is_named_even_where_loading_fails_too(self, tmp_path: Path) -> None:
        artifact = tiny_artifact(tmp_path / "m.onnx")
        artifact.path.write_bytes(b"\0" * artifact.manifest.size_bytes)
        with pytest.raises(ArtifactCorrupt, match="SHA-256"):
            Runtime(artifact.path)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_a_forked_process_does_not_wait_for_calls_of_its_parent(self, tmp_path: Path) -> None:
        within, go_on = threading.Event(), threading.Event()
        with Runtime(write_fake(tmp_path / "m.onnx", height=8, width=8).path, backend="fake") as runtime:
            engine = runtime._engine
            assert engine is not None
            engine.run = lambda batch: (within.set(), go_on.wait(), np.zeros((len(batch), 10), np.float32))[2]  # type: ignore[method-assign]
            caller = threading.Thread(target=runtime.logits, args=(float_batch(1, (3, 8, 8)),))
            caller.start()
            within.wait()
            child = os.fork()
            if not child:
                runtime.close()
                os._exit(0)
            end = time.monotonic() + 30
            while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
                time.sleep(0.01)
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            go_on.set()
            caller.join()
        assert ended, "the child waits for ever"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_process_does_not_take_another_file_for_the_one_that_was_checked(self, tmp_path: Path) -> None:
        artifact = tiny_artifact(tmp_path / "m.onnx")
        with Runtime(artifact.path) as runtime:
            tiny_artifact(tmp_path / "m.onnx", graph=tiny_graph(bias=1))
            answer = in_process("fork", runtime, float_batch(1))
        assert isinstance(answer, ArtifactCorrupt)
        assert "SHA-256" in str(answer)

    @pytest.mark.parametrize("suffix", [".onnx", ".plan"])
    @pytest.mark.parametrize("goes", [False, True])
    def test_what_was_hashed_is_what_was_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, goes: bool
    ) -> None:
        """Somebody exchanges the model between the two, for one of the same size and time: the manifest is the old one's."""
        path = write_fake(tmp_path / f"m{suffix}", height=8, width=8).path
        load, old = FakeBackend.load, path.stat()

        def exchanging(artifact: Artifact, options: Any) -> FakeBackend:
            path.unlink()
            if not goes:
                (tmp_path / "new").write_bytes(b"x" * old.st_size)
                os.utime(tmp_path / "new", ns=(old.st_atime_ns, old.st_mtime_ns))
                (tmp_path / "new").rename(path)
            return load(artifact, options)

        monkeypatch.setattr(FakeBackend, "load", exchanging)
        with pytest.raises(ArtifactCorrupt, match="was exchanged while it was loaded"):
            Runtime(path, backend="fake")

    def test_a_manifest_that_says_otherwise_than_the_engine_is_refused_in_one_line(self, tmp_path: Path) -> None:
        artifact = tiny_artifact(tmp_path / "m.onnx")
        update_manifest(artifact, output=structs.replace(artifact.manifest.output, dtype="x\n" * 9000))
        with pytest.raises(ManifestError, match="its manifest says output x x x") as caught:
            Runtime(artifact.path)
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)

    def test_labels_fit_the_engine_also_where_the_manifest_leaves_the_classes_open(self, tmp_path: Path) -> None:
        artifact = tiny_artifact(tmp_path / "m.onnx")
        open_end = structs.replace(artifact.manifest.output, shape=(None, None))
        update_manifest(artifact, output=open_end)
        assert len(Runtime(artifact.path).classify(picture_batch(1), top=100)[0]) == len(LABELS)
        update_manifest(artifact, output=open_end, labels=LABELS[:-1])
        with pytest.raises(ManifestError, match="gives 7 classes, its manifest names 6"):
            Runtime(artifact.path)

    def test_a_manifest_from_elsewhere_is_refused(self, tiny: Artifact, tmp_path: Path) -> None:
        path = tmp_path / "renamed.onnx"
        path.write_bytes(tiny.path.read_bytes())
        manifest_path(path).write_bytes(manifest_path(tiny.path).read_bytes())
        with pytest.raises(ManifestError, match="describes 'model"):
            Runtime(path)

    def test_a_smallest_batch_that_no_machine_holds_is_refused(self, tmp_path: Path) -> None:
        artifact = tiny_artifact(tmp_path / "m.onnx", batch=BatchRange(10**9, 10**9, 10**9))
        with pytest.raises(ModelError, match=r"takes no fewer than 1,000,000,000 pictures at once, 3,072 GB"):
            Runtime(artifact.path)

    def test_a_favourite_batch_without_measure_does_not_fill_the_memory(self, tmp_path: Path) -> None:
        taken = 0

        def endless() -> Iterator[npt.NDArray[np.uint8]]:
            nonlocal taken
            while True:
                taken += 1
                yield picture_batch(1)[0]

        with Runtime(tiny_artifact(tmp_path / "m.onnx", batch=BatchRange(1, 10**9, 10**9)).path) as runtime:
            answers = runtime.classify_each(endless())
            next(answers)
            answers.close()  # type: ignore[attr-defined]
        assert taken < 4096


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=9), elements=st.floats(width=32)), st.booleans())
def test_finite_is_what_numpy_calls_finite_also_where_the_sum_overflows(numbers: npt.NDArray[np.float32], strided: bool) -> None:
    numbers = numbers[..., ::2] if strided else numbers
    assert all_finite(numbers) == np.isfinite(numbers).all()
    huge = np.full_like(numbers, np.finfo(np.float32).max)
    assert all_finite(huge)


@given(st.integers(0, 5000), st.integers(1, 300))
def test_a_batch_is_cut_into_as_few_parts_as_can_be_of_nearly_one_size(count: int, largest: int) -> None:
    cut = parts(count, largest)
    assert [row for part in cut for row in range(part.start, part.stop)] == list(range(count))
    sizes = [part.stop - part.start for part in cut]
    assert len(sizes) == -(-count // largest)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert max(sizes, default=0) <= largest


class TestAnswers:
    def test_a_graph_that_ends_in_probabilities_gives_them_as_they_are(self, tiny: Artifact, tmp_path: Path) -> None:
        with Runtime(tiny_artifact(tmp_path / "m.onnx", softmax=True).path) as runtime, Runtime(tiny.path) as raw:
            batch = float_batch(5)
            np.testing.assert_allclose(runtime.predict(batch), raw.predict(batch), atol=1e-6)
            np.testing.assert_allclose(np.exp(runtime.logits(batch)), raw.predict(batch), atol=1e-6)

    def test_an_engine_that_gives_nan_is_an_error(self, tmp_path: Path) -> None:
        with Runtime(tiny_artifact(tmp_path / "m.onnx", graph=tiny_graph(bias=np.nan)).path) as runtime:
            with pytest.raises(OutputNotFinite):
                runtime.predict(float_batch(1))
            assert runtime.predict(float_batch(0)).shape == (0, len(LABELS))

    @pytest.mark.parametrize("count", [2, 100])
    def test_an_engine_that_gives_fewer_answers_than_pictures_is_an_error(self, tmp_path: Path, count: int) -> None:
        """A graph that says it takes any batch, and gives the mean over it."""
        graph = tiny_graph()
        graph.graph.node.insert(4, helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0], keepdims=1))
        graph.graph.node[5].input[0] = "mean"
        graph.opset_import[0].version = 17
        with Runtime(tiny_artifact(tmp_path / "m.onnx", graph=graph).path) as runtime:
            assert runtime.logits(float_batch(1)).shape == (1, len(LABELS))
            with pytest.raises(BackendError, match=r"onnxruntime gave \(.*, 7\); expected"):
                runtime.logits(float_batch(count))

    def test_the_event_loop_goes_on_while_a_batch_is_computed(self, tiny: Artifact) -> None:
        async def ask(runtime: Runtime) -> list[Any]:
            return await asyncio.gather(*(runtime.apredict(float_batch(2)) for _ in range(4)))

        with Runtime(tiny.path) as runtime:
            for answer in asyncio.run(ask(runtime)):
                np.testing.assert_array_equal(answer, runtime.predict(float_batch(2)))

    @pytest.mark.parametrize(
        ("smallest", "largest", "count"), [(4, 8, 1), (4, 8, 9), (7, 8, 9), (8, 8, 17), (1, 1, 3), (3, 5, 0)]
    )
    def test_batches_are_cut_and_filled_up_to_what_the_engine_takes(
        self, tmp_path: Path, smallest: int, largest: int, count: int
    ) -> None:
        path = write_fake(tmp_path / "m.onnx", height=8, width=8, batch=BatchRange(smallest, smallest, largest)).path
        free = write_fake(tmp_path / "free.onnx", height=8, width=8).path
        batch = float_batch(count, (3, 8, 8))
        with Runtime(path, backend="fake") as runtime, Runtime(free, backend="fake") as reference:
            np.testing.assert_array_equal(runtime.logits(batch), reference.logits(batch))
            engine = runtime._engine
            assert isinstance(engine, FakeBackend)
            assert all(smallest <= rows <= largest for rows in engine.calls)
            assert len(engine.calls) == -(-count // largest)

    def test_a_graph_of_one_fixed_batch_takes_any(self, tiny: Artifact, tmp_path: Path) -> None:
        fixed = tiny_artifact(tmp_path / "m.onnx", graph=tiny_graph(batch=4))
        with Runtime(fixed.path) as runtime, Runtime(tiny.path) as free:
            assert runtime.batch == BatchRange(4, 4, 4)
            for count in (0, 1, 4, 7):
                np.testing.assert_allclose(
                    runtime.logits(float_batch(count)), free.logits(float_batch(count)), rtol=1e-5, atol=1e-5
                )

    @settings(max_examples=50, deadline=None)
    @given(
        hnp.arrays(
            np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-(2.0**127), 2.0**127, width=32)
        )
    )
    def test_softmax_of_any_finite_logits_is_a_distribution_in_their_order(self, logits: npt.NDArray[np.float32]) -> None:
        with np.errstate(all="raise"):  # as an application may set it: one class that is out of the question is no error
            found = softmax(logits)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        assert (found >= 0).all()
        for row, answer in zip(logits, found, strict=True):
            assert answer[row.argmax()] == answer.max()

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_array_gives_an_answer_or_an_input_error(self, tiny: Artifact, data: st.DataObject) -> None:
        dtype = data.draw(st.one_of(hnp.scalar_dtypes(), st.sampled_from([np.dtype(np.float32), np.dtype(np.uint8)])))
        shape = data.draw(st.one_of(hnp.array_shapes(min_dims=0, max_dims=5, max_side=20), st.just((2, 3, SIZE, SIZE))))
        batch = data.draw(hnp.arrays(dtype, shape))
        with Runtime(tiny.path) as runtime:
            try:
                found = runtime.predict(batch)
            except InputError:
                return
            except OutputNotFinite:
                assert np.abs(batch).max() > 1e30  # sums of such numbers overflow on the way
                return
        assert found.shape == (len(batch), len(LABELS))
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)

    def test_after_ctrl_c_between_two_chunks_the_engine_is_done_before_anybody_else_comes(self, tmp_path: Path) -> None:
        class Interrupting(np.ndarray):  # type: ignore[type-arg]
            def __getitem__(self, key: Any) -> Any:
                raise KeyboardInterrupt

        inside: list[bool] = []
        with Runtime(write_fake(tmp_path / "m.onnx", height=8, width=8).path, backend="fake") as runtime:

            def run_each(batches: Iterator[npt.NDArray[Any]]) -> Iterator[npt.NDArray[np.float32]]:
                try:
                    for batch in batches:
                        yield np.zeros((len(batch), 10), np.float32).view(Interrupting)
                finally:
                    inside.append(threading.get_ident() in runtime._door._inside)

            assert runtime._engine is not None
            runtime._engine.run_each = run_each  # type: ignore[method-assign, assignment]
            with pytest.raises(KeyboardInterrupt) as caught:
                runtime.logits(float_batch(100, (3, 8, 8)))
            assert inside == [True]
            del caught

    def test_ctrl_c_while_closing_waits_leaves_the_rest_to_the_next_close(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[bool] = []
        monkeypatch.setattr(FakeBackend, "close", lambda self: closed.append(True))
        runtime = Runtime(write_fake(tmp_path / "m.onnx", height=8, width=8).path, backend="fake")

        def interrupted() -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(runtime._door._empty, "wait", interrupted)
            runtime.close()
        assert runtime.closed
        assert closed == []
        for _ in range(2):
            runtime.close()
        assert closed == [True]


class TestClassify:
    def test_files_and_arrays_of_any_size_get_their_best_classes(self, tiny: Artifact, tmp_path: Path) -> None:
        pictures = [picture_batch(1, 30, 40)[0], picture_batch(1, 17, 16, seed=1)[0]]
        files = [tmp_path / f"{index}.png" for index in range(2)]
        for file, pixels in zip(files, pictures, strict=True):
            Image.fromarray(pixels).save(file)
        with Runtime(tiny.path) as runtime:
            found = runtime.classify([files[0], str(files[1]), *pictures], top=3)
            expected = np.concatenate([runtime.predict(picture[None]) for picture in pictures])
        assert found[:2] == found[2:]
        for answer, row in zip(found, expected, strict=False):
            assert [label for label, _ in answer] == [LABELS[i] for i in np.argsort(-row)[:3]]
            np.testing.assert_allclose([p for _, p in answer], np.sort(row)[::-1][:3], rtol=1e-4)

    def test_a_single_file_counts_as_one(self, tiny: Artifact, tmp_path: Path) -> None:
        Image.fromarray(picture_batch(1)[0]).save(tmp_path / "a.png")
        with Runtime(tiny.path) as runtime:
            assert len(runtime.classify(str(tmp_path / "a.png"))) == 1  # type: ignore[arg-type]
            assert runtime.classify([]) == []

    def test_of_classes_as_probable_as_each_other_the_first_comes_first(self, tmp_path: Path) -> None:
        labels = tuple(f"label {number}" for number in range(1000))
        black_is_zero = Preprocess(height=8, width=8, mean=(0.0, 0.0, 0.0))
        path = write_fake(tmp_path / "m.onnx", labels=labels, preprocess=black_is_zero).path
        with Runtime(path, backend="fake") as runtime:
            (answer,) = runtime.classify([np.zeros((8, 8, 3), np.uint8)], top=1000)
        assert len({probability for _, probability in answer}) == 1
        assert tuple(label for label, _ in answer) == labels

    def test_more_classes_than_there_are_gives_all(self, tiny: Artifact) -> None:
        with Runtime(tiny.path) as runtime:
            (answer,) = runtime.classify(picture_batch(1), top=100)
        assert sorted(label for label, _ in answer) == sorted(LABELS)
        assert sum(p for _, p in answer) == pytest.approx(1, abs=1e-5)

    def test_a_broken_picture_stops_classify_but_not_classify_each(self, tiny: Artifact, tmp_path: Path) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
        sources = [
            picture_batch(1)[0],
            tmp_path / "broken.jpg",
            tmp_path / "none.jpg",
            np.zeros((3, 4), np.uint8),
            np.ma.masked_equal(picture_batch(1)[0], 0),
            np.broadcast_to(np.uint8(0), (100_000, 100_000, 3)),
            picture_batch(1)[0],
        ]
        with Runtime(tiny.path) as runtime:
            with pytest.raises(PictureError, match=r"broken\.jpg"):
                runtime.classify(sources)
            with pytest.raises(PictureError, match=r"is a folder.*PictureSet\.open"):
                runtime.classify([tmp_path])
            outcomes = list(runtime.classify_each(iter(sources), top=1, batch_size=2))
        sound = type(None)
        assert [type(outcome.error) for outcome in outcomes] == [sound, *[PictureError] * 2, *[InputError] * 3, sound]
        assert outcomes[0] == outcomes[-1]

    def test_a_stream_without_end_is_taken_as_it_is_needed(self, tiny: Artifact) -> None:
        taken = 0

        def endless() -> Any:
            nonlocal taken
            while True:
                taken += 1
                yield picture_batch(1)[0]

        with Runtime(tiny.path) as runtime:
            answers = runtime.classify_each(endless(), batch_size=4, workers=2)
            for _ in range(10):
                next(answers)
            assert taken <= 40
            answers.close()  # type: ignore[attr-defined]

    def test_closed_while_somebody_still_takes_answers_it_says_so_and_its_threads_end(self, tiny: Artifact) -> None:
        before = _thread._count()
        runtime = Runtime(tiny.path)
        answers = runtime.classify_each([picture_batch(1)[0]] * 50, batch_size=2, workers=2)
        next(answers)
        runtime.close()
        next(answers)  # the second of its batch was computed
        with pytest.raises(RuntimeClosed):
            next(answers)
        until(lambda: _thread._count() <= before)

    @pytest.mark.parametrize("wrong", [{"top": 0}, {"top": 1.5}, {"batch_size": 0, "top": 1}, {"workers": -1, "top": 1}])
    def test_impossible_options_are_refused_at_once(self, tiny: Artifact, wrong: dict[str, Any]) -> None:
        with Runtime(tiny.path) as runtime, pytest.raises(InputError, match="expected a whole number, at least 1"):
            runtime.classify_each([], **wrong)


def test_it_runs_where_torch_and_onnx_cannot_be_imported(tiny: Artifact) -> None:
    code = f"""
        import sys
        for name in "torch onnx onnxscript tensorrt tensorrt_rtx openvino safetensors click rich training".split():
            sys.modules[name] = None
        import numpy as np
        from alexnet_deploy import Runtime
        with Runtime({str(tiny.path)!r}) as runtime:
            print(runtime.predict(np.zeros((2, 3, {SIZE}, {SIZE}), np.float32)).shape)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.strip() == f"(2, {len(LABELS)})", done.stderr
    assert done.stderr == ""


_ENDS_WHILE_A_DAEMON_COMPUTES = """
def compute_for_ever():
    with contextlib.suppress(AlexnetDeployError):
        while True:
            runtime.predict(np.zeros((64, 3, 16, 16), np.float32))

for _ in range(3):
    threading.Thread(target=compute_for_ever, daemon=True).start()
time.sleep(0.2)
"""
_ENDS_WITH_ANSWERS_NOT_TAKEN = """
answers = runtime.classify_each(np.zeros((16, 16, 3), np.uint8) for _ in itertools.count())
next(answers)
"""


@pytest.mark.parametrize("script", [_ENDS_WHILE_A_DAEMON_COMPUTES, _ENDS_WITH_ANSWERS_NOT_TAKEN])
def test_a_program_ends_in_peace_whatever_it_leaves_open(tiny: Artifact, script: str) -> None:
    head = """
import contextlib, itertools, sys, threading, time
import numpy as np
from alexnet_deploy import AlexnetDeployError, Runtime

runtime = Runtime(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", head + script, tiny.path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_onnxruntime_is_kept_from_reporting_usage() -> None:
    code = "import alexnet_deploy, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": ""}, check=True)
    assert done.stdout.strip() == "1"
