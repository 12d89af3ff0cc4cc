"""Which backend and device run an artifact on this machine, and loading it there."""

from __future__ import annotations

import _thread
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path

import numpy as np
from msgspec import Struct, structs

from alexnet_deploy.artifact import Artifact, short
from alexnet_deploy.backends import BACKENDS, FLAVOURS, entry
from alexnet_deploy.backends.base import Backend, Options
from alexnet_deploy.errors import (
    AlexnetDeployError,
    ArtifactCorrupt,
    BackendMissing,
    DeviceMissing,
    FallbackWarning,
    InputError,
    ManifestError,
    ModelError,
)
from alexnet_deploy.foreign import completed, is_foreign
from alexnet_deploy.gpu import gpus, problem
from alexnet_deploy.huge_pages import HugePages, full_blocks
from alexnet_deploy.machine import cpu_name, has_vnni, usable_cores
from alexnet_deploy.manifest import Manifest, TunedRecord
from alexnet_deploy.types import MAX_THREADS, GraphForm, Precision, whole_number

DEVICES = ("auto", "cpu", "cuda")
_MOST_BYTES = 4_000_000_000  # of the smallest batch: one picture is filled up to it


class Loaded(Struct, frozen=True):
    """An artifact in a backend.

    Attributes:
        artifact: the file that was asked for.
        running: the file that runs: the same one, or the twin of a plan.
        options: what `backend` was loaded with.
        huge_pages: what brings its memory into larger pages; None on a GPU.
    """

    artifact: Artifact
    running: Artifact
    backend: Backend
    options: Options
    huge_pages: HugePages | None


def load(artifact: Artifact, device: str, backend: str | None, threads: int | None) -> Loaded:
    """Loads an artifact (its hash not checked yet) on the backend and device that fit it best.

    Raises:
        InputError: an unknown device or backend, a backend that does not read this kind of file, or no thread at all.
        ArtifactCorrupt: the file's SHA-256 is not the manifest's, or the backend cannot read it.
        ManifestError: what the engine takes and gives is not what the manifest says.
        BackendMissing, DeviceMissing: what was asked for, or all that could run it, is not here.
    """
    if device not in DEVICES:
        raise InputError(f"there is no device {device!r}", expected=f"one of {', '.join(DEVICES)}")
    if threads is not None:
        threads = whole_number(threads, "threads", MAX_THREADS)
    if device == "auto" and backend is None and threads is None and (tuned := _tuned_for_here(artifact.manifest)):
        device, backend, threads = tuned.device, tuned.backend, tuned.threads
    name = _backend_name(artifact, backend)
    if artifact.manifest.kind == "plan" and BACKENDS[name].devices == ("cuda",):
        loaded = _load_plan(artifact, name, device, threads)
    else:
        loaded = _load_anywhere(artifact, artifact, name, device, threads)
    try:
        if is_foreign(artifact):
            artifact = completed(artifact, loaded.backend)
            loaded = structs.replace(loaded, artifact=artifact, running=artifact)
        _check_agreement(loaded)
    except AlexnetDeployError:
        if loaded.huge_pages is not None:
            loaded.huge_pages.stop()
        loaded.backend.close()
        raise
    _warn_of_saturation(loaded)
    return loaded


def _tuned_for_here(manifest: Manifest) -> TunedRecord | None:
    """The manifest's record of how it is fastest, if it was made on a machine like this and its backend is still here."""
    tuned = manifest.tuned
    if tuned is None or (tuned.cpu, tuned.cores) != (cpu_name(), usable_cores()):
        return None
    line = BACKENDS.get(tuned.backend)
    here = line is not None and line.automatic and line.installed
    return tuned if here and (tuned.device == "cpu" or gpus()) else None


def _backend_name(artifact: Artifact, named: str | None) -> str:
    """The backend that was named, if it reads this kind of file; else the first of the table that does and is installed."""
    manifest = artifact.manifest
    if named is not None:
        line = entry(named)
        name = next(n for n, other in BACKENDS.items() if other is line)
        if manifest.kind not in line.kinds:
            raise InputError(
                f"{name} does not read {artifact.path.name}, which is of the kind {manifest.kind!r}",
                expected=f"a {' or '.join(line.kinds)} for it",
                fix=f"backend=None, or the twin {manifest.twin.file!r}" if manifest.twin else "backend=None",
            )
        return name
    if manifest.plan is not None:
        return next(name for name, flavour in FLAVOURS.items() if flavour == manifest.plan.flavour)
    able = [name for name, line in BACKENDS.items() if manifest.kind in line.kinds and line.automatic]
    return next((name for name in able if BACKENDS[name].installed), able[0])


def _load_plan(plan: Artifact, name: str, device: str, threads: int | None) -> Loaded:
    """The plan itself where it can run, else its twin graph on the CPU."""
    why = ""
    if device != "cpu":
        try:
            if not gpus():
                raise DeviceMissing(f"{plan.path.name} needs a GPU: {problem()}", expected="an NVIDIA GPU and its driver")
            return _load_on(plan, plan, name, Options("cuda", threads))
        except (DeviceMissing, BackendMissing) as error:
            if device == "cuda":
                raise
            why = error.found
    if not is_foreign(plan):
        plan.check_hash()
    twin = plan.twin(check_hash=False)
    if twin is None:
        raise DeviceMissing(
            why or f"{plan.path.name} does not run on the CPU",
            expected="a GPU, or a twin graph in the plan's manifest",
            fix="alexnet-deploy build-engine writes plan and twin together",
        )
    if device == "auto":
        warnings.warn(f"{why}; its twin {twin.path.name} runs on the CPU instead", FallbackWarning, stacklevel=4)
    tuned = _tuned_for_here(twin.manifest) if threads is None else None
    if tuned is not None and tuned.device == "cpu":
        return _load_anywhere(plan, twin, tuned.backend, "cpu", tuned.threads)
    return _load_anywhere(plan, twin, _backend_name(twin, None), "cpu", threads)


def _load_anywhere(artifact: Artifact, running: Artifact, name: str, device: str, threads: int | None) -> Loaded:
    """On the device asked for; "auto" is CUDA where there is a GPU and the backend can use it, else the CPU."""
    line = BACKENDS[name]
    if device != "auto":
        return _load_on(artifact, running, name, Options(device, threads))
    if "cuda" in line.devices and line.automatic and running.manifest.form is not GraphForm.CPU and gpus():
        try:
            return _load_on(artifact, running, name, Options("cuda", threads))
        except DeviceMissing as error:
            warnings.warn(
                f"{running.path.name} runs on the CPU although there is a GPU: {error.found} (device='cpu' takes it as it is)",
                FallbackWarning,
                stacklevel=4,
            )
    return _load_on(artifact, running, name, Options("cpu", threads))


def _load_on(artifact: Artifact, running: Artifact, name: str, options: Options) -> Loaded:
    line = BACKENDS[name]
    if options.device not in line.devices:
        raise DeviceMissing(
            f"{name} does not run on {options.device}",
            expected=" or ".join(line.devices),
            fix=f"device={line.devices[0]!r}, or another backend",
        )
    if running.manifest.kind != "plan":  # beside the hashing, both would wait for the interpreter's lock
        with suppress(ImportError):  # `load` says what is missing
            import_module(line.needs)
    with nullcontext() if is_foreign(running) else _hash_checked(running):
        backend, huge_pages = open_engine(line.backend(), running, options)
    return Loaded(artifact, running, backend, options, huge_pages)


def open_engine(kind: type[Backend], running: Artifact, options: Options) -> tuple[Backend, HugePages | None]:
    """An artifact in an engine, and what brings the engine's memory into larger pages.

    None on a GPU: what its engine keeps in the computer's memory is not what it computes with.
    """
    if options.device != "cpu":
        return kind.load(running, options), None
    before = full_blocks(tidy=True)
    return kind.load(running, options), HugePages(before)


def open_again(kind: type[Backend], running: Artifact, options: Options) -> tuple[Backend, HugePages | None]:
    """`open_engine` in a process forked from the one that checked the file: another may lie in its place by now."""
    with _hash_checked(running) if running.manifest.sha256 else nullcontext():
        return open_engine(kind, running, options)


@contextmanager
def _hash_checked(artifact: Artifact) -> Iterator[None]:
    """Checks the file's SHA-256 while the block loads it, or before: a plan is code that runs as soon as it is read."""
    before = _state(artifact.path)
    if is_plan := artifact.manifest.kind == "plan":
        artifact.check_hash()
    try:
        with nullcontext() if is_plan else _beside(artifact.check_hash):
            yield
    finally:
        if _state(artifact.path) != before:  # what was hashed may not be what was loaded
            raise ArtifactCorrupt(
                f"{artifact.path} was exchanged while it was loaded", expected="one that stays", fix="try again"
            )


@contextmanager
def _beside(check: Callable[[], None]) -> Iterator[None]:
    """Checks in a thread beside the block; what it raises is the error even where the block has failed first."""
    wrong: list[Exception] = []
    ended = _thread.allocate_lock()  # no threading.Thread: Ctrl-C in the middle of its Python would leave its locks taken
    ended.acquire()

    def run() -> None:
        try:
            check()
        except Exception as error:
            wrong.append(error)
        finally:
            ended.release()

    _thread.start_new_thread(run, ())
    try:
        yield
    finally:
        ended.acquire()
        if wrong:
            raise wrong[0]


def _state(path: Path) -> tuple[int, int, int] | None:
    """What is another one when a file has been written or exchanged, whatever times were given to it; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns


def _check_agreement(loaded: Loaded) -> None:
    """The engine takes and gives what its manifest says, and that is a classifier's input and output."""
    path, manifest, engine = loaded.running.path, loaded.running.manifest, loaded.backend
    for what, said, found in (("input", manifest.input, engine.input), ("output", manifest.output, engine.output)):
        if said.dtype != found.dtype or not _same_shape(said.shape[1:], found.shape[1:]):
            raise ManifestError(
                f"the {what} of {path.name} is {found}, its manifest says {short(str(said))}",
                expected="a manifest that was written for this file",
                fix="make the artifact again",
            )
    if len(engine.output.shape) != 2 or engine.output.shape[-1] is None:
        raise ModelError(f"the output of {path.name} is {engine.output}", expected="(N, classes) with a fixed number of classes")
    if manifest.labels and len(manifest.labels) != engine.output.shape[-1]:  # where the manifest leaves the number open
        raise ManifestError(
            f"{path.name} gives {engine.output.shape[-1]} classes, its manifest names {len(manifest.labels)}",
            expected="one label a class",
            fix="make the artifact again",
        )
    if len(engine.input.shape) != 4:
        raise ModelError(f"the input of {path.name} is {engine.input}", expected="a batch of pictures, four axes")
    smallest_bytes = engine.batch.min * math.prod(n or 1 for n in engine.input.shape[1:]) * np.dtype(engine.input.dtype).itemsize
    if smallest_bytes > _MOST_BYTES:
        raise ModelError(
            f"{path.name} takes no fewer than {engine.batch.min:,} pictures at once, {smallest_bytes / 1e9:,.0f} GB",
            expected=f"at most {_MOST_BYTES / 1e9:.0f} GB",
        )


def _same_shape(said: tuple[int | None, ...], found: tuple[int | None, ...]) -> bool:
    return len(said) == len(found) and all(s is None or f is None or s == f for s, f in zip(said, found, strict=True))


def _warn_of_saturation(loaded: Loaded) -> None:
    """U8S8 kernels without VNNI add pairs of products in 16 bits: 8-bit weights overflow there, 7-bit ones do not."""
    manifest = loaded.running.manifest
    on_cpu = loaded.backend.device == "cpu" and manifest.kind == "onnx" and loaded.backend.name != "fake"
    if on_cpu and manifest.precision is Precision.INT8 and manifest.reduce_range is False and not has_vnni():
        warnings.warn(
            f"{loaded.running.path.name} has full 8-bit weights, and this CPU has no VNNI: sums may saturate, accuracy suffer. "
            "Quantise it again with reduce_range, and compare: alexnet-deploy verify",
            FallbackWarning,
            stacklevel=4,
        )
