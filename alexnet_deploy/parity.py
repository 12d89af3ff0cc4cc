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
from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np
import numpy.typing as npt

from alexnet_deploy.answers import BATCH_SIZE, NO_ANSWER, Answers, BatchInvariance, Predictions, answers
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.manifest import DataReference
from alexnet_deploy.pictures import UNLABELLED, PictureSet
from alexnet_deploy.ran import Ran
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.statistics import PairedDifference, Rate, paired_difference, rate
from alexnet_deploy.types import OutputKind, Precision, Progress, silent

TOP = 5
WORST_PICTURES = 12
_ROUNDING = 1e-9  # 995 of 1,000 is 99.5 %, however a float writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What a candidate must keep; None is no gate.

    Attributes:
        max_drop: of top-1 accuracy, in percentage points.
        min_agreement: of the top-1 answers with the reference's, in percent.
        max_error: largest absolute error of a logit, relative to the reference's largest absolute logit.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not isfinite(self.max_drop):
            raise InputError(f"a largest drop of {self.max_drop}", expected="a number of percentage points")
        if self.max_error is not None and not 0 <= self.max_error < inf:
            raise InputError(f"a largest error of {self.max_error}", expected="0 or more, relative to the largest logit")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 100:
            raise InputError(f"a least agreement of {self.min_agreement}", expected="0 to 100 percent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of one artifact, on labelled pictures. Top-5 is top-k where there are only k < 5 classes."""

    top1: Rate
    top5: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """Candidate's logits against the reference's, over every picture and class.

    Attributes:
        max_abs, mean_abs: of |reference - candidate|, in logits.
        largest_logit: the reference's largest absolute logit.
        relative: max_abs / largest_logit.
        cosine: similarity of the two logit vectors, mean over the pictures.
        sqnr_db: 10 log10(sum(reference^2) / sum((reference - candidate)^2)); None where they are identical.
        compared: "logits", or "log-probabilities" where either graph ends in probabilities.
        not_finite: pictures for which the candidate gives NaN or infinity; the other figures leave them out.
    """

    max_abs: float = 0.0
    mean_abs: float = 0.0
    largest_logit: float = 0.0
    relative: float = 0.0
    cosine: float = 0.0
    sqnr_db: float | None = None
    compared: str = "logits"
    not_finite: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class: how many of its pictures each gets right, and on how many they agree."""

    label: str
    total: int
    reference: int
    candidate: int
    agree: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedPicture:
    """A picture whose answer moved far.

    Attributes:
        index, name: its place and name in the picture set.
        truth: its label, or "" when unlabelled.
        reference, candidate: the top answers; "" where the candidate gave no finite one.
        reference_probability, candidate_probability: of these answers.
        distance: total variation between the two probability vectors, 0 (the same) to 1.
    """

    index: int
    name: str
    truth: str
    reference: str
    reference_probability: float
    candidate: str
    candidate_probability: float
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Accuracy of one artifact; `calibrated_on` as in ParityReport."""

    ran: Ran
    pictures: DataReference
    accuracy: Accuracy
    classes: tuple[ClassRow, ...]
    calibrated_on: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """One candidate against one reference.

    Attributes:
        reference, candidate: what ran, and whether a twin ran in a plan's stead.
        pictures: what they were compared on.
        same_preprocessing: whether both turn a picture into the same input; where not, that is part of the error.
        trained_on: whether the candidate was, on this very set or others from its folder: it is flattered then.
        calibrated_on: how many of the pictures the candidate was calibrated on: these flatter it too.
        reference_accuracy, candidate_accuracy, difference: None where the pictures have no labels.
        agreement: pictures on which both give the same top-1 answer.
        error: of the logits.
        invariance: of the candidate; None where it was not tried.
        classes: one row a class, in the artifact's order; those without a picture are left out.
        moved: the pictures whose answers moved farthest, farthest first.
        gates, missed: what was asked, and one sentence for each gate that was missed.
    """

    reference: Ran
    candidate: Ran
    pictures: DataReference
    same_preprocessing: bool
    trained_on: bool
    calibrated_on: int
    reference_accuracy: Accuracy | None
    candidate_accuracy: Accuracy | None
    difference: PairedDifference | None
    agreement: Rate
    error: OutputError
    invariance: BatchInvariance | None
    classes: tuple[ClassRow, ...]
    moved: tuple[MovedPicture, ...]
    gates: Gates
    missed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """One layer's output in the candidate against the same tensor in the reference; measured by `layer_error`.

    Attributes:
        layer, op: of the reference's node.
        precision: what the candidate computes it in.
        sqnr_db: 10 log10(sum(reference^2) / sum((reference - candidate)^2)); None where they are identical.
        relative: largest absolute error, relative to the largest absolute value of the reference.
    """

    layer: str
    op: str
    precision: Precision
    sqnr_db: float | None
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerErrors:
    """Every layer that two graphs share.

    Attributes:
        reference, candidate: file names.
        pictures: what was run.
        layers: in the reference's order.
    """

    reference: str
    candidate: str
    pictures: DataReference
    layers: tuple[LayerError, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Several candidates against one reference.

    Attributes:
        reports: one a candidate.
        files: the reference, then the candidates.
        agreement: [i][j] is the share of the pictures on which files[i] and files[j] give the same answer.
        layers: where in the network each candidate departs from the reference; () where that was not asked for.
    """

    reports: tuple[ParityReport, ...]
    files: tuple[str, ...]
    agreement: tuple[tuple[float, ...], ...]
    layers: tuple[LayerErrors, ...] = ()

    @property
    def missed(self) -> tuple[str, ...]:
        return tuple(sentence for report in self.reports for sentence in report.missed)


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
    agree = reference.predictions == candidate.predictions
    report = ParityReport(
        reference=reference.ran,
        candidate=candidate.ran,
        pictures=reference.data,
        trained_on=_from_the_same(candidate.manifest.pictures, candidate.data),
        calibrated_on=candidate.calibrated_on,
        same_preprocessing=reference.manifest.preprocess == candidate.manifest.preprocess,
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
    return _judged(report)


def agreement_matrix(each: Sequence[Answers]) -> tuple[tuple[float, ...], ...]:
    """[i][j]: the share of the pictures on which i and j give the same top-1 answer."""
    predictions = [own.predictions for own in each]
    return tuple(tuple(float((left == right).mean()) for right in predictions) for left in predictions)


def _from_the_same(used: DataReference | None, measured: DataReference) -> bool:
    """Whether pictures that a model was made with come from where it is measured now."""
    return used is not None and (used.sha256 == measured.sha256 or used.location == measured.location)


def accuracy(own: Answers) -> Accuracy:
    """Top-1 and top-5 over the labelled pictures. Ties count for the class that comes first, as argmax has it."""
    known = own.truth != UNLABELLED
    logits, right = own.logits[known], own.truth[known, None]
    finite = np.isfinite(logits).all(axis=1)
    score = np.take_along_axis(logits, right, axis=1)
    earlier = np.arange(logits.shape[1]) < right
    better = ((logits > score) | ((logits == score) & earlier)).sum(axis=1)  # classes ranked before the right one
    top5 = min(TOP, logits.shape[1])
    total = int(known.sum())
    return Accuracy(top1=rate(int((finite & (better < 1)).sum()), total), top5=rate(int((finite & (better < top5)).sum()), total))


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
    finite = np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)
    not_finite = int((~finite).sum())
    if not finite.any():
        return OutputError(compared=compared, not_finite=not_finite)
    left, right = left[finite], right[finite]
    difference = np.abs(left - right)
    largest = float(np.abs(left).max())
    noise = float(np.square(difference).sum())
    return OutputError(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        largest_logit=largest,
        relative=float(difference.max()) / largest if largest else float(difference.max() > 0),
        cosine=float(_cosine(left, right).mean()),
        sqnr_db=float(10 * np.log10(max(np.square(left).sum(), np.finfo(np.float64).tiny) / noise)) if noise else None,
        compared=compared,
        not_finite=not_finite,
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
    ours, theirs = reference.predictions, candidate.predictions
    rows = []
    for index in np.unique(right[right != UNLABELLED]):
        chosen = right == index
        rows.append(
            ClassRow(
                label=reference.manifest.label(int(index)),
                total=int(chosen.sum()),
                reference=int((ours[chosen] == index).sum()),
                candidate=int((theirs[chosen] == index).sum()),
                agree=int((ours[chosen] == theirs[chosen]).sum()),
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


def _judged(report: ParityReport) -> ParityReport:
    """The report with a sentence for each gate that it misses."""
    gates, error, name = report.gates, report.error, report.candidate.file
    missed = []
    if error.not_finite:
        missed.append(f"{name} gives NaN or infinity for {error.not_finite} of {report.pictures.count} pictures; 0 are allowed")
    if report.invariance and not report.invariance.held:
        missed.append(
            f"{name} answers otherwise alone than in a batch: logits differ by {report.invariance.relative:.1e} of the largest; "
            f"{report.invariance.tolerance:g} are allowed"
        )
    if gates.max_drop is not None and report.difference and report.reference_accuracy and report.candidate_accuracy:
        drop = 100 * report.difference.drop
        if drop > gates.max_drop + _ROUNDING:
            ours, theirs = report.reference_accuracy.top1.fraction, report.candidate_accuracy.top1.fraction
            missed.append(
                f"{name} loses {drop:.2f} points of top-1 accuracy ({ours:.2%} to {theirs:.2%}); "
                f"--max-drop allows {gates.max_drop:g}"
            )
    if gates.min_agreement is not None and 100 * report.agreement.fraction < gates.min_agreement - _ROUNDING:
        missed.append(
            f"{name} agrees with {report.reference.file} on {report.agreement.fraction:.2%} of the pictures; "
            f"--min-agreement asks for {gates.min_agreement:g}%"
        )
    if gates.max_error is not None and error.relative > gates.max_error:
        missed.append(
            f"{name} is off by {error.relative:.2e} of the largest logit ({error.max_abs:.3g} of {error.largest_logit:.3g}); "
            f"--max-error allows {gates.max_error:g}"
        )
    return replace(report, missed=tuple(missed))
