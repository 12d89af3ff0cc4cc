"""What every backend must do behind Runtime. A backend joins with an empty subclass:

class TestOnnxRuntime(Conformance):
    backend = "onnxruntime"
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from alexnet_deploy.artifact import Artifact, manifest_path
from alexnet_deploy.backends import BACKENDS
from alexnet_deploy.backends.base import Backend
from alexnet_deploy.backends.fake import write_fake
from alexnet_deploy.errors import ArtifactCorrupt, ArtifactError, BackendError, InputError, RuntimeClosed
from alexnet_deploy.runtime import Runtime
from tests.tiny import tiny_artifact

LARGEST = 8
CHILD_SECONDS = 60


class Conformance:
    """Subclasses state `backend`, and override `make_artifact` where the hand-made ONNX graph is not for it.

    Attributes:
        backend: as in the table of backends.
        device: where it is tried.
        tolerance: how far answers to the same picture in different batches may lie apart, relative to the largest logit;
            engines pick kernels by the batch size.
    """

    backend: ClassVar[str]
    device: ClassVar[str] = "cpu"
    tolerance: ClassVar[float] = 1e-5

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        """An artifact for batches of 1 to 8, of float32 input, with logits."""
        return tiny_artifact(path_without_suffix.with_suffix(".onnx"))

    @pytest.fixture(scope="class")
    def artifact(self, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        return self.make_artifact(tmp_path_factory.mktemp(self.backend) / "model")

    @pytest.fixture
    def runtime(self, artifact: Artifact) -> Iterator[Runtime]:
        with self.open(artifact) as runtime:
            yield runtime

    def open(self, artifact: Artifact) -> Runtime:
        return Runtime(artifact.path, self.device, self.backend)

    @staticmethod
    def rows(artifact: Artifact, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
        shape = (count, *artifact.manifest.preprocess.input_shape)
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    def assert_close(self, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype == np.float32
        if expected.size:
            assert np.abs(found - expected).max() <= self.tolerance * np.abs(expected).max()

    def test_says_what_runs_and_where(self, runtime: Runtime) -> None:
        assert (runtime.backend, runtime.device) == (self.backend, self.device)
        assert runtime.twin_of is None
        assert runtime.running is runtime.artifact

    @pytest.mark.parametrize("count", [0, 1, LARGEST, LARGEST + 1, 1000])
    def test_any_number_of_rows_gives_each_its_own_answer(self, runtime: Runtime, artifact: Artifact, count: int) -> None:
        batch = self.rows(artifact, count)
        found = runtime.logits(batch)
        some = sorted({0, count // 2, max(count - 1, 0)}) if count else []
        self.assert_close(found[some], np.concatenate([runtime.logits(batch[i : i + 1]) for i in some]) if count else found[:0])
        assert found.shape == (count, artifact.manifest.classes)

    def test_the_engine_gets_only_batches_that_it_takes(
        self, runtime: Runtime, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[npt.NDArray[Any]] = []
        engine = BACKENDS[self.backend].backend()
        original = engine.run_each

        def watching(self: Backend, batches: Any) -> Any:
            batches = list(batches)
            seen.extend(batches)
            return original(self, batches)

        monkeypatch.setattr(engine, "run_each", watching)
        runtime.logits(self.rows(artifact, 3 * LARGEST + 1)[::-1])
        assert [len(batch) for batch in seen] == [6, 6, 6, 7]
        assert all(batch.flags.c_contiguous and batch.dtype == np.float32 for batch in seen)

    def test_rows_that_are_not_contiguous_give_the_same(self, runtime: Runtime, artifact: Artifact) -> None:
        batch = self.rows(artifact, 6)
        strided = np.empty((12, *batch.shape[1:], 2), np.float32)[::2, ..., 0]
        strided[:] = batch
        np.testing.assert_array_equal(runtime.logits(strided), runtime.logits(batch))
        np.testing.assert_array_equal(runtime.logits(batch[::-1]), runtime.logits(batch[::-1].copy()))
        np.testing.assert_array_equal(runtime.logits(np.asfortranarray(batch)), runtime.logits(batch))

    def test_a_read_only_batch_is_taken_and_no_batch_is_changed(self, runtime: Runtime, artifact: Artifact) -> None:
        batch = self.rows(artifact, 2)
        kept = batch.copy()
        batch.flags.writeable = False
        runtime.logits(batch)
        np.testing.assert_array_equal(batch, kept)

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.int8, bool, object, ">f4", "S4"])
    def test_another_dtype_is_refused(self, runtime: Runtime, artifact: Artifact, dtype: Any) -> None:
        with pytest.raises(InputError, match="the batch is"):
            runtime.logits(np.zeros((1, *artifact.manifest.preprocess.input_shape), dtype))

    def test_another_shape_is_refused(self, runtime: Runtime, artifact: Artifact) -> None:
        batch = self.rows(artifact, 2)
        for wrong in (batch[0], batch[None], batch[:, :2], batch[..., :-1], batch.reshape(2, -1), batch[..., :0]):
            with pytest.raises(InputError, match=r"the batch is float32 \("):
                runtime.logits(wrong)
        for wrong_pictures in (np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 4), np.uint8), np.zeros((1, 0, 4, 3), np.uint8)):
            with pytest.raises(InputError, match="pictures are uint8"):
                runtime.logits(wrong_pictures)

    def test_what_is_no_array_is_refused(self, runtime: Runtime, artifact: Artifact) -> None:
        for wrong in (None, self.rows(artifact, 1).tolist(), "cat.jpg", memoryview(b"abc")):
            with pytest.raises(InputError, match="the batch is a"):
                runtime.logits(wrong)  # type: ignore[arg-type]

    def test_of_subclasses_of_arrays_numbers_count_and_masks_are_refused(self, runtime: Runtime, artifact: Artifact) -> None:
        batch = self.rows(artifact, 3)
        np.testing.assert_array_equal(runtime.logits(batch.view(np.recarray)), runtime.logits(batch))
        masked = np.ma.masked_invalid(np.where(batch > 1, np.nan, batch))  # NaN, under a mask
        with pytest.raises(InputError, match="the batch is a masked array"):
            runtime.predict(masked)

    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("row", [0, 10])
    def test_nan_and_infinity_are_refused_and_the_picture_named(
        self, runtime: Runtime, artifact: Artifact, poison: float, row: int
    ) -> None:
        batch = self.rows(artifact, 11)
        batch[row].flat[-1] = poison
        with pytest.raises(InputError, match=f"picture {row} of the batch"):
            runtime.predict(batch)

    def test_answers_belong_to_the_caller(self, runtime: Runtime, artifact: Artifact) -> None:
        first_batch, second_batch = self.rows(artifact, 3, seed=1), self.rows(artifact, 3, seed=2)
        first = runtime.logits(first_batch)
        kept = first.copy()
        second = runtime.logits(second_batch)
        np.testing.assert_array_equal(first, kept)
        assert first.flags.writeable
        assert not np.shares_memory(first, second)
        first[:] = 0
        self.assert_close(runtime.logits(first_batch), kept)

    def test_probabilities_are_the_softmax_of_the_logits(self, runtime: Runtime, artifact: Artifact) -> None:
        batch = self.rows(artifact, 5)
        logits, probabilities = runtime.logits(batch).astype(np.float64), runtime.predict(batch)
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)

    def test_pictures_of_any_size_are_preprocessed_by_the_recipe(self, runtime: Runtime, artifact: Artifact) -> None:
        from alexnet_deploy.preprocess import normalise, prepare

        pictures = np.random.default_rng(3).integers(0, 256, (LARGEST + 2, 20, 31, 3), np.uint8)
        recipe = artifact.manifest.preprocess
        self.assert_close(runtime.logits(pictures), runtime.logits(normalise(prepare(pictures, recipe), recipe)))
        assert runtime.predict(pictures[:0]).shape == (0, artifact.manifest.classes)

    def test_closed_once_or_twice_it_says_so(self, artifact: Artifact) -> None:
        runtime = self.open(artifact)
        runtime.close()
        runtime.close()
        assert runtime.closed
        for call in (runtime.predict, runtime.logits):
            with pytest.raises(RuntimeClosed):
                call(self.rows(artifact, 1))

    def test_closing_waits_for_calls_under_way(self, artifact: Artifact) -> None:
        """Threads that are in the middle of a call get their answer, and those that come later an error; nothing crashes."""
        for _ in range(3):
            runtime = self.open(artifact)
            batch, outcomes, begun = self.rows(artifact, 64), [], threading.Barrier(4)

            def ask(runtime: Runtime = runtime, batch: Any = batch, outcomes: Any = outcomes, begun: Any = begun) -> None:
                begun.wait()
                try:
                    while True:
                        outcomes.append(runtime.logits(batch))
                except RuntimeClosed as error:
                    outcomes.append(error)

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            begun.wait()
            runtime.close()
            for thread in threads:
                thread.join(CHILD_SECONDS)
            assert not any(thread.is_alive() for thread in threads)
            assert sum(isinstance(outcome, RuntimeClosed) for outcome in outcomes) == len(threads)

    def test_threads_on_one_runtime_get_the_single_threads_answers_bit_for_bit(
        self, runtime: Runtime, artifact: Artifact
    ) -> None:
        batches = [self.rows(artifact, 1 + seed % LARGEST, seed) for seed in range(32)]
        expected = [runtime.logits(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            for answer, wanted in zip(pool.map(runtime.logits, batches * 4), expected * 4, strict=True):
                np.testing.assert_array_equal(answer, wanted)

    def test_several_runtimes_at_once_do_not_disturb_each_other(self, artifact: Artifact, tmp_path: Path) -> None:
        other = write_fake(tmp_path / "other.onnx", height=8, width=8)
        batch, other_batch = self.rows(artifact, 5), np.random.default_rng(0).standard_normal((5, 3, 8, 8), np.float32)
        with self.open(artifact) as one, self.open(artifact) as two, Runtime(other.path, backend="fake") as three:
            expected = one.logits(batch)
            expected_other = three.logits(other_batch)
            with ThreadPoolExecutor(3) as pool:
                asked = [
                    pool.submit(r.logits, b) for _ in range(20) for r, b in ((one, batch), (two, batch), (three, other_batch))
                ]
            for index, answer in enumerate(asked):
                self.assert_close(answer.result(), (expected, expected, expected_other)[index % 3])
            one.close()
            self.assert_close(two.logits(batch), expected)

    def test_a_spawned_process_answers_the_same(self, runtime: Runtime, artifact: Artifact) -> None:
        batch = self.rows(artifact, 3)
        answer = in_process("spawn", runtime, batch)  # the Runtime travels pickled, and is opened anew
        self.assert_close(answer, runtime.logits(batch))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_process_answers_the_same_or_says_why_not(self, runtime: Runtime, artifact: Artifact) -> None:
        batch = self.rows(artifact, LARGEST + 1)
        expected = runtime.logits(batch)
        answer = in_process("fork", runtime, batch)
        if BACKENDS[self.backend].backend().forkable:
            self.assert_close(answer, expected)
        else:
            assert isinstance(answer, BackendError)
            assert "does not survive a fork" in str(answer)
        self.assert_close(runtime.logits(batch), expected)

    def test_a_changed_file_is_refused(self, artifact: Artifact, tmp_path: Path) -> None:
        copy = copied(artifact, tmp_path)
        content = bytearray(copy.read_bytes())
        content[len(content) // 2] ^= 1
        copy.write_bytes(content)
        with pytest.raises(ArtifactCorrupt, match="SHA-256"):
            Runtime(copy, self.device, self.backend)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
    def test_a_truncated_file_is_refused_with_and_without_its_manifest(
        self, artifact: Artifact, tmp_path: Path, share: float
    ) -> None:
        copy = copied(artifact, tmp_path)
        copy.write_bytes(copy.read_bytes()[: int(share * copy.stat().st_size)])
        with pytest.raises(ArtifactCorrupt):
            Runtime(copy, self.device, self.backend)
        manifest_path(copy).unlink()
        with pytest.raises((ArtifactError, BackendError)):
            Runtime(copy, self.device, self.backend)


def copied(artifact: Artifact, folder: Path) -> Path:
    copy = folder / artifact.path.name
    shutil.copy(artifact.path, copy)
    shutil.copy(manifest_path(artifact.path), manifest_path(copy))
    return copy


def in_process(method: str, runtime: Runtime, batch: npt.NDArray[np.float32]) -> Any:
    """What `runtime.logits(batch)` gives or raises in a child process."""
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=_answer, args=(there, runtime, batch))
    child.start()
    try:
        assert here.poll(CHILD_SECONDS), "the child does not answer"
        return here.recv()
    finally:
        child.join(10)
        if child.is_alive():
            child.kill()


def _answer(there: Connection, runtime: Runtime, batch: npt.NDArray[np.float32]) -> None:
    try:
        there.send(runtime.logits(batch))
    except Exception as error:
        there.send(error)
