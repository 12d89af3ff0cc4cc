"""What artifacts say about a picture set: every logit, each picture decoded once whatever the number of artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import DataError, OutputNotFinite
from alexnet_deploy.manifest import DataReference, Manifest
from alexnet_deploy.pictures import UNLABELLED, Labels, PictureSet
from alexnet_deploy.preprocess import Pixels
from alexnet_deploy.ran import Ran
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import Precision, Progress, silent

Logits = npt.NDArray[np.float32]
Predictions = npt.NDArray[np.int64]

BATCH_SIZE = 32
TOP = 5
NO_ANSWER = -1  # the prediction for a picture whose logits hold NaN or infinity
INVARIANCE_PICTURES = 8
# Another batch size takes another kernel, which adds up in another order: float32 differs in its last bits, half precision
# in its own last bits. Where activations are rounded to 8 bits, such a last bit can push a value over the edge of a step, and
# one step is up to 1/127 of a tensor's range. A batch that mixes up its pictures is off by far more than any of these.
BATCH_TOLERANCE = {
    Precision.FP32: 1e-4,
    Precision.FP16: 5e-3,
    Precision.BF16: 2e-2,
    Precision.INT8: 2e-2,
    Precision.FP8: 5e-2,
    Precision.INT4: 2e-2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInvariance:
    """Whether a picture gets the same answer alone, in a batch, and at another place of the batch.

    Attributes:
        pictures: how many were tried.
        relative: largest difference of a logit between these ways, relative to the largest logit.
        changed: pictures whose top-1 answer differs between them.
        tolerance: the most that `relative` may be; see BATCH_TOLERANCE.
    """

    pictures: int
    relative: float
    changed: int
    tolerance: float

    @property
    def held(self) -> bool:
        return self.relative <= self.tolerance


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Answers:
    """Everything one artifact says about a picture set.

    Attributes:
        ran, manifest: of the artifact that was asked for.
        pictures, data: what it was asked.
        truth: int64 (N,), the right class in the artifact's own order; -1 where unlabelled.
        logits: float32 (N, classes); log-probabilities where the graph ends in probabilities.
        invariance: of the artifact, on the first few pictures; None where it was not tried.
        calibrated_on: how many of the pictures it was calibrated on.
    """

    ran: Ran
    manifest: Manifest
    pictures: PictureSet
    data: DataReference
    truth: Labels
    logits: Logits
    invariance: BatchInvariance | None = None
    calibrated_on: int = 0

    @property
    def predictions(self) -> Predictions:
        """int64 (N,): the top-1 answers, NO_ANSWER where a logit is not finite."""
        finite = np.isfinite(self.logits).all(axis=1)
        return np.where(finite, self.logits.argmax(axis=1), NO_ANSWER)

    @property
    def labelled(self) -> bool:
        return bool((self.truth != UNLABELLED).any())


def answers(
    runtimes: Sequence[Runtime], pictures: PictureSet, *, batch_size: int = BATCH_SIZE, progress: Progress = silent
) -> list[Answers]:
    """The logits of every runtime for every picture.

    Each batch is decoded and fitted once for all runtimes that share a recipe, and runtimes that would run the same file
    in the same way (a plan's twin beside the twin itself) are run once.

    Raises:
        DataError: no pictures, or classes that an artifact does not know.
        PictureError: a picture that cannot be read.
    """
    if not len(pictures):
        raise DataError(f"{pictures.location} holds no pictures", expected="at least one")
    truths = [truth(pictures, runtime.manifest) for runtime in runtimes]
    rows: list[list[Logits]] = [[] for _ in runtimes]
    task = f"run {len(runtimes)} artifacts" if len(runtimes) > 1 else f"run {runtimes[0].manifest.file}"
    progress(task, 0, len(pictures))
    recipes = {runtime.manifest.preprocess.digest(): runtime.manifest.preprocess for runtime in runtimes}
    streams = {digest: pictures.pixels(recipe, batch_size) for digest, recipe in recipes.items()}
    for start in range(0, len(pictures), batch_size):
        fitted = {digest: next(stream)[0] for digest, stream in streams.items()}
        done: dict[tuple[Path, str, str, str], Logits] = {}
        for runtime, mine in zip(runtimes, rows, strict=True):
            digest = runtime.manifest.preprocess.digest()
            same = (runtime.running.path, runtime.backend, runtime.device, digest)
            if same not in done:
                done[same] = _logits(runtime, fitted[digest])
            mine.append(done[same])
        progress(task, min(start + batch_size, len(pictures)), len(pictures))
    data = pictures.reference()
    quantised = any(runtime.manifest.calibration for runtime in runtimes)
    hashes = pictures.content_hashes() if quantised else []
    return [
        Answers(
            ran=Ran.of(runtime),
            manifest=runtime.manifest,
            pictures=pictures,
            data=data,
            truth=known,
            logits=np.concatenate(mine),
            invariance=batch_invariance(runtime, pictures.subset(range(min(len(pictures), INVARIANCE_PICTURES)))),
            calibrated_on=runtime.manifest.calibration.shared(hashes) if runtime.manifest.calibration else 0,
        )
        for runtime, known, mine in zip(runtimes, truths, rows, strict=True)
    ]


def batch_invariance(runtime: Runtime, pictures: PictureSet) -> BatchInvariance | None:
    """Runs the pictures one by one, all together, and all together in reverse, and compares the answers.

    Returns:
        None where the artifact gives no finite answer to compare.
    """
    pixels, _ = next(pictures.pixels(runtime.manifest.preprocess, len(pictures)))
    alone = np.concatenate([_logits(runtime, pixels[i : i + 1]) for i in range(len(pixels))])
    together, reversed_ = _logits(runtime, pixels), _logits(runtime, pixels[::-1])[::-1]
    ways = np.stack([alone, together, reversed_])
    if not np.isfinite(ways).all():
        return None
    largest = float(np.abs(alone).max())
    return BatchInvariance(
        pictures=len(pixels),
        relative=float((ways.max(axis=0) - ways.min(axis=0)).max()) / (largest or 1.0),
        changed=int((np.ptp(ways.argmax(axis=2), axis=0) > 0).sum()),
        tolerance=BATCH_TOLERANCE[runtime.manifest.precision],
    )


def truth(pictures: PictureSet, manifest: Manifest) -> Labels:
    """The pictures' labels as indices into the artifact's classes: matched by name where the artifact has labels.

    Returns:
        int64 (N,), -1 where unlabelled.

    Raises:
        DataError: the pictures have a class that the artifact does not know.
    """
    if not pictures.labelled:
        return pictures.labels
    if not manifest.labels:
        if manifest.classes is not None and len(pictures.classes) > manifest.classes:
            raise DataError(
                f"{pictures.location} has {len(pictures.classes)} classes, {manifest.file} answers with {manifest.classes}",
                expected="pictures of the classes that it was trained on",
            )
        return pictures.labels
    index = {label: number for number, label in enumerate(manifest.labels)}
    unknown = [name for name in pictures.classes if name not in index]
    if unknown:
        raise DataError(
            f"{manifest.file} does not know the classes {_some(unknown)} of {pictures.location}",
            expected=f"folders named after its labels: {_some(manifest.labels)}",
        )
    order = np.array([index[name] for name in pictures.classes], np.int64)
    return np.where(pictures.labels == UNLABELLED, UNLABELLED, order[pictures.labels])


def ranks(scores: npt.NDArray[np.floating], right: Labels) -> npt.NDArray[np.int64]:
    """int64 (N,): how many classes come before the right one. Of equals the first comes first, as argmax has it.

    Args:
        scores: (N, classes), logits or probabilities.
        right: int64 (N,), the right classes.
    """
    own = np.take_along_axis(scores, right[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < right[:, None]
    before: npt.NDArray[np.int64] = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return before


def _logits(runtime: Runtime, pixels: Pixels) -> Logits:
    """The logits of a batch, with NaN in the rows of pictures for which the engine gives no finite answer."""
    try:
        return runtime.logits(pixels)
    except OutputNotFinite:
        if len(pixels) == 1:
            return np.full((1, runtime.manifest.classes or 1), np.nan, np.float32)
        return np.concatenate([_logits(runtime, pixels[i : i + 1]) for i in range(len(pixels))])


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
