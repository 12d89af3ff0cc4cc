"""Runtime: one artifact, ready to answer. It checks, chunks and delegates; a backend computes.

with Runtime("models/alexnet.int8.plan") as runtime:
    probabilities = runtime.predict(batch)             # (N, classes) float32
    for label, probability in runtime.classify(["cat.jpg"], top=5)[0]:
        print(label, probability)
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from alexnet_deploy import logs
from alexnet_deploy.artifact import Artifact, existing_file, manifest_path
from alexnet_deploy.backends import BACKENDS
from alexnet_deploy.backends.base import Backend
from alexnet_deploy.door import Door
from alexnet_deploy.errors import AlexnetDeployError, BackendError, InputError, OutputNotFinite
from alexnet_deploy.foreign import foreign, is_foreign
from alexnet_deploy.intake import Intake, all_finite, parts, plain
from alexnet_deploy.loading import load, open_again
from alexnet_deploy.manifest import Manifest, Preprocess
from alexnet_deploy.preprocess import Pixels
from alexnet_deploy.types import BatchRange, OutputKind, whole_number

if TYPE_CHECKING:
    from alexnet_deploy.decoding import Source

log = logs.logger(__name__)

Probabilities = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]
_SMALLEST = np.finfo(np.float32).tiny
MOST_AT_ONCE = 1024  # pictures that wait for a call, whatever a manifest says is its favourite


class Prediction(NamedTuple):
    """One class of one picture."""

    label: str
    probability: float


class Outcome(Struct, frozen=True):
    """What became of one picture: the most probable classes, the most probable first, or the error that it met."""

    predictions: tuple[Prediction, ...] = ()
    error: AlexnetDeployError | None = None

    def unwrap(self) -> list[Prediction]:
        """The predictions. Raises `error` where there is one."""
        if self.error is not None:
            raise self.error
        return list(self.predictions)


class Runtime:
    """An artifact loaded on the best backend for it, safe to call from several threads.

    Attributes:
        artifact, manifest: the file that was named, and what is known about it.
        running: the file that runs: `artifact`, or its twin where a plan's GPU is missing.
        twin_of: the plan's path while its twin runs, else None.
        backend: the name of the backend that computes, such as "onnxruntime".
        device: where it really runs, "cpu" or "cuda".
        threads: CPU threads in one call, as asked for or as tuned; None where the backend chooses.
        batch: the batch sizes that reach the engine; `predict` itself takes any.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        backend: str | None = None,
        *,
        threads: int | None = None,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] = (),
        output_kind: OutputKind | None = None,
        trust: str | Path | None = None,
    ) -> None:
        """Loads an artifact; the SHA-256 of its file is checked.

        Args:
            path: an ONNX graph, a plan or a checkpoint, with its manifest beside it; or a package of them, a .zip.
            device: "cuda" and "cpu" are strict; "auto" is CUDA where the artifact's backend can use it, else the CPU.
            backend: a name from `alexnet_deploy.backends.BACKENDS`; chosen by the artifact when None.
            threads: CPU threads in one call; the backend's choice when None.
            preprocess, labels, output_kind: only for a file without a manifest, and with `backend` named. Without
                `preprocess` it takes float batches alone, without `output_kind` it gives raw output alone.
            trust: the public key that must have signed the package, as `package.open_package` takes it; for packages only.

        Raises:
            ArtifactMissing, ArtifactCorrupt, ManifestError, ModelError: the file, or its manifest, is not what it should be.
            BackendMissing: the package that would run it is not installed.
            DeviceMissing: `device` is not here.

        Warns:
            FallbackWarning: a plan's twin graph runs on the CPU because there is no usable GPU.
        """
        packed = existing_file(path).suffix == ".zip"
        if trust is not None and not packed:
            raise InputError(
                f"{path} is no package: nobody can have signed it",
                expected="a .zip with a signature, for `trust` to be asked for",
                fix="alexnet-deploy package --sign KEY",
            )
        if packed or manifest_path(Path(path)).is_file():
            if preprocess is not None or labels or output_kind is not None:
                raise InputError(
                    f"{path} has a manifest, which says how it is used",
                    expected="preprocess, labels and output_kind for files without one only",
                )
            artifact = _packed(path, trust) if packed else Artifact.open(path, check_hash=False)
        else:
            artifact = foreign(path, backend, preprocess, tuple(labels), output_kind)
        loaded = load(artifact, device, backend, threads)
        self.artifact: Artifact = loaded.artifact
        self.running: Artifact = loaded.running
        self.manifest: Manifest = loaded.artifact.manifest
        self.twin_of: Path | None = loaded.artifact.path if loaded.running is not loaded.artifact else None
        self.backend: str = loaded.backend.name
        self.device: str = loaded.backend.device
        self.threads: int | None = loaded.options.threads
        self.batch: BatchRange = loaded.backend.batch
        recipe = None if is_foreign(artifact) and preprocess is None else loaded.running.manifest.preprocess
        self._intake = Intake(loaded.backend.input, self.batch.min, recipe, self.artifact.path.name)
        self._output_kind = None if is_foreign(artifact) and output_kind is None else loaded.running.manifest.output_kind
        self._ends_in_probabilities = self._output_kind is OutputKind.PROBABILITIES
        self._classes = cast(int, loaded.backend.output.shape[-1])  # `load` refuses an open number of classes
        self._engine: Backend | None = loaded.backend
        self._huge_pages = loaded.huge_pages
        self._load_again = partial(open_again, type(loaded.backend), loaded.running, loaded.options)
        self._door = Door()
        self._turn = nullcontext() if loaded.backend.concurrent else threading.Lock()
        self._waking = threading.Lock()
        log.info("%s runs on %s (%s); asked for %s, %s", self.running.path.name, self.backend, self.device, device, backend)
        said: dict[str, Any] = {"preprocess": preprocess, "labels": tuple(labels), "output_kind": output_kind, "trust": trust}
        self._open_anew = partial(type(self), path, device, backend, threads=threads, **said)
        _alive.add(self)

    def predict(self, batch: npt.NDArray[Any]) -> Probabilities:
        """Class probabilities.

        Args:
            batch: pictures, uint8 (N, H, W, 3) RGB of any one size, which the manifest's recipe turns into input; or that
                input itself, float32 (N, C, H, W) (axes in the recipe's layout). Any N, also 0 and more than `batch.max`.
                Where a plan runs on the GPU, also the engine's input in GPU memory; see `on_device`.

        Returns:
            float32 (N, classes), rows in the batch's order, each summing to 1; owned by the caller.

        Raises:
            InputError: dtype, rank or shape do not fit, or the batch holds NaN or infinity.
            BackendError: the engine failed; OutputNotFinite where it gave NaN or infinity.
            RuntimeClosed: after close().
        """
        if self._output_kind is None:
            raise self._unknown_output()
        raw = self._run(batch)
        return raw if self._ends_in_probabilities else softmax(raw)

    def logits(self, batch: npt.NDArray[Any]) -> Logits:
        """The graph's raw output; takes and raises what `predict` does.

        A graph that ends in probabilities gives their natural logarithm (no less than that of the smallest normal
        float32, -87.3), which differs from its logits by a constant in each row only.
        """
        raw = self._run(batch)
        if self._ends_in_probabilities:
            return cast(Logits, np.log(np.maximum(raw, _SMALLEST)))
        return raw

    def on_device(self, batch: object, out: object | None = None) -> object:
        """The graph's raw output for a batch that lives on the GPU, and stays there; for plans that run on one.

        Nothing is copied, and neither the batch nor the answer is looked at for NaN or infinity.

        Args:
            batch: an array with __dlpack__ or __cuda_array_interface__ (PyTorch, CuPy, JAX, Numba), any N, as the engine's
                input: float32, preprocessed, or uint8 (N, H, W, 3) for a graph that takes pictures.
            out: a float32 (N, classes) array on the GPU to write into; None for a new one, which
                torch.from_dlpack and cupy.asarray take without a copy.

        Returns:
            `out`, or the new array: complete, for use on any stream.

        Raises:
            InputError: what runs here is not on the GPU, or the arrays do not fit.
        """
        with self._door, self._turn:
            return (self._engine or self._wake()).run_on_device(batch, out)

    async def apredict(self, batch: npt.NDArray[Any]) -> Probabilities:
        """`predict` in a thread, so that an event loop goes on meanwhile."""
        import asyncio

        return await asyncio.to_thread(self.predict, batch)

    def classify(self, sources: Sequence[str | Path | Pixels] | Pixels, top: int = 5) -> list[list[Prediction]]:
        """The `top` most probable classes of each picture, the most probable first.

        Args:
            sources: picture files, or uint8 (H, W, 3) RGB arrays of any sizes; of a folder, PictureSet.open(folder).sources.
            top: at most as many as there are classes.

        Raises:
            PictureError: a file that cannot be read as a picture.
            InputError: an array that is no picture, or `top` below 1.
        """
        if isinstance(sources, (str, Path)):
            sources = [sources]
        return [outcome.unwrap() for outcome in self.classify_each(sources, top)]

    def classify_each(
        self, sources: Iterable[Source], top: int = 5, *, batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[Outcome]:
        """`classify` for any number of pictures: one Outcome each, in order, and a broken picture does not stop the rest.

        Pictures are decoded in parallel, and while the engine computes; no more than a few batches are in memory at once.

        Args:
            sources, top: as `classify` takes them; `sources` may be endless.
            batch_size: pictures in one call of the engine; the artifact's favourite (`batch.opt`) when None.
            workers: threads that decode; one a core when None.
        """
        for what, number in (("top", top), ("batch_size", batch_size), ("workers", workers)):
            if number is not None:
                whole_number(number, what)
        return self._classify_each(sources, top, batch_size or min(self.batch.opt, MOST_AT_ONCE), workers, self.recipe)

    def _classify_each(
        self, sources: Iterable[Source], top: int, batch_size: int, workers: int | None, recipe: Preprocess
    ) -> Iterator[Outcome]:
        from alexnet_deploy.decoding import fitted

        pictures = fitted(sources, recipe, ahead=2 * batch_size, workers=workers)
        with closing(pictures):  # ends the decoding threads, also when the caller stops early
            while batch := list(islice(pictures, batch_size)):
                sound = [picture for picture in batch if isinstance(picture, np.ndarray)]
                answers = iter(self.predict(np.stack(sound)) if sound else ())
                for picture in batch:
                    yield self._best(next(answers), top) if isinstance(picture, np.ndarray) else Outcome(error=picture)

    def _best(self, probabilities: npt.NDArray[np.float32], top: int) -> Outcome:
        order = np.argsort(-probabilities, kind="stable")[:top]
        return Outcome(tuple(Prediction(self.manifest.label(int(i)), float(probabilities[i])) for i in order))

    @property
    def recipe(self) -> Preprocess:
        """How pictures become input. Raises InputError for a file without a manifest that was opened without one."""
        return self._intake.recipe

    @property
    def closed(self) -> bool:
        return self._door.closed

    def settle(self) -> None:
        """Waits until calls are as fast as they will be: for whoever times them, after a first call. Others need not.

        On Linux, a second after loading, a thread brings the engine's memory into larger pages; here that is done at once.
        """
        if self._huge_pages is not None:
            self._huge_pages.settle()

    def close(self) -> None:
        """Waits for the calls under way, then releases engine and memory. Further calls do nothing.

        Not for a signal handler that may interrupt a call of its own thread: raise SystemExit there, and close on the way out.
        """
        self._door.close()
        with self._waking:
            engine, self._engine = self._engine, None
        if engine is not None:
            if self._huge_pages is not None:
                self._huge_pages.stop()
            engine.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.backend} on {self.device}"
        return f"<Runtime {self.artifact.path} ({state})>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as its arguments: a spawned worker opens the artifact anew."""
        return self._open_anew, ()

    def _unknown_output(self) -> InputError:
        return InputError(
            f"whether {self.artifact.path.name} gives logits or probabilities is not known: it has no manifest",
            expected="logits() for its raw output",
            fix="Runtime(..., output_kind=OutputKind.LOGITS), or alexnet-deploy adopt",
        )

    def _run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Checks a batch and sends it through the engine in chunks: float32 (N, classes), raw and finite."""
        if type(batch) is not np.ndarray:
            if not isinstance(batch, np.ndarray):
                return self._run_on_device(batch)
            batch = plain(batch)
        are_pictures = self._intake.are_pictures(batch)
        count = len(batch)
        if 0 < count <= self.batch.max:
            rows = self._intake.prepared(batch, are_pictures)
            with self._door, self._turn:
                answer = (self._engine or self._wake()).run_while(rows, partial(self._intake.check, batch))
            return self._checked(answer if len(answer) == count else answer[:count], count)
        # Of several chunks, the next is prepared while the engine is busy.
        chunks = parts(count, self.batch.max)
        with (
            self._door,
            self._turn,
            closing((self._engine or self._wake()).run_each(self._prepared(batch, are_pictures, chunks))) as answers,
        ):
            cut = [answer[: chunk.stop - chunk.start] for answer, chunk in zip(answers, chunks, strict=True)]
        return self._checked(np.concatenate([np.empty((0, self._classes), np.float32), *cut]), count)

    def _prepared(self, batch: npt.NDArray[Any], are_pictures: bool, chunks: Sequence[slice]) -> Iterator[npt.NDArray[Any]]:
        """A batch's chunks as the engine takes them; each is checked when the engine has it and asks for the next."""
        for chunk in chunks:
            yield self._intake.prepared(batch[chunk], are_pictures)
            self._intake.check(batch[chunk], chunk.start)

    def _run_on_device(self, batch: object) -> npt.NDArray[np.float32]:
        """The answer to a batch on the GPU, brought to the host."""
        from alexnet_deploy.trt.device_arrays import is_on_device

        if not is_on_device(batch):
            raise InputError(f"the batch is a {type(batch).__name__}", expected="a numpy array", fix="numpy.asarray(batch)")
        with self._door, self._turn:
            answer = (self._engine or self._wake()).run_from_device(batch)
        return self._checked(answer, len(answer))

    def _checked(self, answer: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
        if answer.shape != (count, self._classes):
            raise BackendError(f"{self.backend} gave {answer.shape}", expected=f"{(count, self._classes)}")
        if not all_finite(answer):
            raise OutputNotFinite(
                f"{self.running.path.name} gave NaN or infinity for finite input",
                expected="a number for each class",
                fix="alexnet-deploy verify finds out; FP16 overflows above 65504, FP32 or BF16 do not",
            )
        return answer

    def _wake(self) -> Backend:
        """In a process forked from the one that loaded the engine: loads it again, if it is one that may be."""
        if not BACKENDS[self.backend].backend().forkable:
            raise BackendError(
                f"{self.artifact.path.name} was loaded in another process, and {self.backend} does not survive a fork",
                expected="a Runtime that is opened in the process that uses it",
                fix='multiprocessing.get_context("spawn"), or Runtime(...) inside the worker',
            )
        with self._waking:
            if self._engine is None:
                self._engine, self._huge_pages = self._load_again()
            return self._engine

    def _forked(self) -> None:
        """In the child of a fork: the engine's threads, and holders of locks, are in the parent only."""
        if self._engine is not None:
            # Never destroyed, not even at exit: its destructor would wait for threads that are not here.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._engine))
            self._engine = None
        self._huge_pages = None
        self._door = Door(closed=self._door.closed)
        self._turn = type(self._turn)() if isinstance(self._turn, nullcontext) else threading.Lock()
        self._waking = threading.Lock()


def _packed(path: str | Path, trust: str | Path | None) -> Artifact:
    from alexnet_deploy.package import open_package  # here: an application without packages starts 10 ms sooner

    return open_package(path, trust=trust)


def softmax(logits: Logits) -> Probabilities:
    """float32 (N, classes) to probabilities; the largest is subtracted first, so that none overflows, and hopeless ones are 0."""
    with np.errstate(over="ignore", under="ignore"):
        exponentials = logits - np.maximum.reduce(logits, axis=1, keepdims=True, initial=-np.inf)
        np.exp(exponentials, out=exponentials)
    exponentials /= np.add.reduce(exponentials, axis=1, keepdims=True)
    return exponentials


_alive: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for runtime in list(_alive):
        runtime._forked()


@atexit.register
def _at_exit() -> None:
    """Daemon threads are waited for that are in an engine: one that came back to no interpreter would abort the process."""
    for runtime in list(_alive):
        runtime._door.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
