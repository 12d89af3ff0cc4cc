"""Does an artifact still answer like its reference? Two runtimes, one picture set, one ParityReport.

    compare(reference, candidate)   two sets of answers: accuracy, agreement, output error, the paired difference, gates
    verify(...)                     the same, for two runtimes
    verify_all(...)                 for several candidates, and how far each agrees with each
    evaluate(...)                   accuracy of one

Accuracy alone hides damage: a model can lose 3 % of its answers, gain 3 % of others, and look unchanged. Agreement and
output error see it; the paired interval says how sure a drop is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alexnet_deploy.answers import BATCH_SIZE, NO_ANSWER, TOP, Answers, Predictions, answers, ranks
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.manifest import DataReference, Manifest
from alexnet_deploy.parity_report import (
    Accuracy,
    ClassRow,
    EvaluationReport,
    Gates,
    MovedPicture,
    OutputError,
    ParityReport,
    Verification,
    judged,
)
from alexnet_deploy.pictures import UNLABELLED, PictureSet
from alexnet_deploy.preprocess import framing
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.statistics import PairedDifference, paired_difference, rate
from alexnet_deploy.types import OutputKind, Progress, silent

WORST_PICTURES = 12


def verify(
    reference: Runtime,
    candidate: Runtime,
    pictures: PictureSet,
    gates: Gates | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
) -> ParityReport:
    """Compares two runtimes on `pictures`. See ParityReport; a missed gate is a sentence in it, not an error.

    Raises:
        InputError: the two do not have the same classes, or a drop is to be limited on pictures without labels.
        DataError, PictureError: as `answers`.
    """
    left, right = answers([reference, candidate], pictures, batch_size=batch_size, progress=progress)
    return compare(left, right, gates)


def verify_all(
    reference: Runtime,
    candidates: Sequence[Runtime],
    pictures: PictureSet,
    gates: Gates | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress = silent,
) -> Verification:
    """`verify` for several candidates in one pass over the pictures. Raises as `verify`."""
    first, *others = answers([reference, *candidates], pictures, batch_size=batch_size, progress=progress)
    return Verification(
        reports=tuple(compare(first, other, gates) for other in others),
        files=tuple(each.ran.file for each in (first, *others)),
        agreement=agreement_matrix([first, *others]),
    )


def evaluate(
    runtime: Runtime, pictures: PictureSet, *, batch_size: int = BATCH_SIZE, progress: Progress = silent
) -> EvaluationReport:
    """Accuracy of one runtime on labelled pictures.

    Raises:
        DataError: the pictures are not labelled, or as `answers`.
    """
    if not pictures.labelled:
        raise DataError(f"{pictures.location} has no labels", expected="a folder with one subfolder a class, or demo:test")
    (own,) = answers([runtime], pictures, batch_size=batch_size, progress=progress)
    return EvaluationReport(
        ran=own.ran, pictures=own.data, accuracy=accuracy(own), classes=_class_rows(own, own), calibrated_on=own.calibrated_on
    )


def compare(reference: Answers, candidate: Answers, gates: Gates | None = None) -> ParityReport:
    """The ParityReport of two sets of answers to the same pictures.

    Raises:
        InputError: different classes, or `max_drop` without labels.
    """
    gates = gates or Gates()
    _check_comparable(reference, candidate)
    labelled = reference.labelled
    if gates.max_drop is not None and not labelled:
        raise InputError(
            f"--max-drop needs labels, and {reference.pictures.location} has none", expected="a folder with one subfolder a class"
        )
    agree = _agree(reference, candidate)
    report = ParityReport(
        reference=reference.ran,
        candidate=candidate.ran,
        pictures=reference.data,
        trained_on=_from_the_same(candidate.manifest.pictures, candidate.data),
        calibrated_on=candidate.calibrated_on,
        same_preprocessing=_same_preprocessing(reference.manifest, candidate.manifest),
        reference_accuracy=accuracy(reference) if labelled else None,
        candidate_accuracy=accuracy(candidate) if labelled else None,
        difference=_difference(reference, candidate) if labelled else None,
        agreement=rate(int(agree.sum()), len(agree)),
        error=_output_error(reference, candidate),
        invariance=candidate.invariance,
        classes=_class_rows(reference, candidate),
        moved=_moved_pictures(reference, candidate),
        gates=gates,
        missed=(),
    )
    return judged(report)


def agreement_matrix(each: Sequence[Answers]) -> tuple[tuple[float, ...], ...]:
    """[i][j]: the share of the pictures on which i and j give the same top-1 answer."""
    return tuple(tuple(float(_agree(left, right).mean()) for right in each) for left in each)


def _agree(left: Answers, right: Answers) -> npt.NDArray[np.bool_]:
    """(N,): where both give the same top-1 answer. NaN on both sides is no answer, and so not the same."""
    ours = left.predictions
    same: npt.NDArray[np.bool_] = (ours == right.predictions) & (ours != NO_ANSWER)
    return same


def _same_preprocessing(ours: Manifest, theirs: Manifest) -> bool:
    """Whether both turn a picture into the same input. What a graph that takes pixels does with them is its own affair."""
    if "uint8" in (ours.input.dtype, theirs.input.dtype):
        return framing(ours.preprocess) == framing(theirs.preprocess)
    return ours.preprocess == theirs.preprocess


def _from_the_same(used: DataReference | None, measured: DataReference) -> bool:
    """Whether pictures that a model was made with come from where it is measured now."""
    return used is not None and (used.sha256 == measured.sha256 or used.location == measured.location)


def accuracy(own: Answers) -> Accuracy:
    """Top-1 and top-5 over the labelled pictures; one without a finite answer counts as wrong."""
    known = own.truth != UNLABELLED
    logits = own.logits[known]
    finite, rank = np.isfinite(logits).all(axis=1), ranks(logits, own.truth[known])
    total = int(known.sum())
    return Accuracy(
        top1=rate(int((finite & (rank < 1)).sum()), total),
        top5=rate(int((finite & (rank < TOP)).sum()), total) if logits.shape[1] > TOP else None,
    )


def _check_comparable(reference: Answers, candidate: Answers) -> None:
    ours, theirs = reference.logits.shape[1], candidate.logits.shape[1]
    if ours != theirs:
        raise InputError(
            f"{reference.ran.file} has {ours} classes, {candidate.ran.file} has {theirs}", expected="two forms of one model"
        )
    if reference.manifest.labels and candidate.manifest.labels and reference.manifest.labels != candidate.manifest.labels:
        raise InputError(
            f"{reference.ran.file} and {candidate.ran.file} have different labels", expected="the same classes in the same order"
        )


def _difference(reference: Answers, candidate: Answers) -> PairedDifference:
    known = reference.truth != UNLABELLED
    ours = (reference.predictions == reference.truth)[known]
    theirs = (candidate.predictions == candidate.truth)[known]
    return paired_difference(
        both=int((ours & theirs).sum()),
        lost=int((ours & ~theirs).sum()),
        gained=int((~ours & theirs).sum()),
        neither=int((~ours & ~theirs).sum()),
    )


def _output_error(reference: Answers, candidate: Answers) -> OutputError:
    compared = "logits"
    left, right = reference.logits.astype(np.float64), candidate.logits.astype(np.float64)
    if OutputKind.PROBABILITIES in (reference.manifest.output_kind, candidate.manifest.output_kind):
        # Probabilities fix logits only up to a constant a picture: compare what both determine.
        compared, left, right = "log-probabilities", _log_softmax(left), _log_softmax(right)
    ours, theirs = (np.isfinite(logits).all(axis=1) for logits in (left, right))
    both = ours & theirs
    not_finite, reference_not_finite = int((~theirs).sum()), int((~ours).sum())
    if not both.any():
        return OutputError(compared=compared, not_finite=not_finite, reference_not_finite=reference_not_finite)
    left, right = left[both], right[both]
    difference = np.abs(left - right)
    largest = float(np.abs(left).max())
    noise = float(np.square(difference).sum())
    return OutputError(
        pictures=len(left),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        largest_logit=largest,
        relative=float(difference.max()) / largest if largest else float(difference.max() > 0),
        cosine=float(_cosine(left, right).mean()),
        sqnr_db=float(10 * np.log10(max(np.square(left).sum(), np.finfo(np.float64).tiny) / noise)) if noise else None,
        compared=compared,
        not_finite=not_finite,
        reference_not_finite=reference_not_finite,
    )


def _cosine(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Row by row; 1 where both rows are zero, 0 where only one is."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = (left == right).all(axis=1)
    similar: npt.NDArray[np.float64] = np.einsum("ij,ij->i", left, right) / np.where(lengths == 0, 1, lengths)
    return np.where(lengths == 0, both_zero, similar).clip(-1, 1)


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _class_rows(reference: Answers, candidate: Answers) -> tuple[ClassRow, ...]:
    right = reference.truth
    ours, theirs, agree = reference.predictions, candidate.predictions, _agree(reference, candidate)
    rows = []
    for index in np.unique(right[right != UNLABELLED]):
        chosen = right == index
        rows.append(
            ClassRow(
                label=reference.manifest.label(int(index)),
                total=int(chosen.sum()),
                reference=int((ours[chosen] == index).sum()),
                candidate=int((theirs[chosen] == index).sum()),
                agree=int(agree[chosen].sum()),
            )
        )
    return tuple(rows)


def _moved_pictures(reference: Answers, candidate: Answers) -> tuple[MovedPicture, ...]:
    with np.errstate(invalid="ignore"):  # a row without a finite answer is NaN here too, and counts as moved
        left, right = (np.exp(_log_softmax(each.logits.astype(np.float64))) for each in (reference, candidate))
    ours, theirs = reference.predictions, candidate.predictions
    distance = np.nan_to_num(np.abs(left - right).sum(axis=1) / 2, nan=1.0)
    farthest = np.lexsort((-distance, ours == theirs))[:WORST_PICTURES]  # changed answers first, then the farthest

    def answer(predicted: Predictions, index: int) -> str:
        return "" if predicted[index] == NO_ANSWER else reference.manifest.label(int(predicted[index]))

    def probability(table: npt.NDArray[np.float64], predicted: Predictions, index: int) -> float:
        return 0.0 if predicted[index] == NO_ANSWER else float(table[index, predicted[index]])

    return tuple(
        MovedPicture(
            index=int(i),
            name=reference.pictures.names[i],
            truth="" if reference.truth[i] == UNLABELLED else reference.manifest.label(int(reference.truth[i])),
            reference=answer(ours, i),
            reference_probability=probability(left, ours, i),
            candidate=answer(theirs, i),
            candidate_probability=probability(right, theirs, i),
            distance=float(distance[i]),
        )
        for i in farthest
        if distance[i] > 0
    )
