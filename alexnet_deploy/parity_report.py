"""What a comparison says, as data: the gates, the report of one candidate, of several, and of their layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite

from alexnet_deploy.answers import BatchInvariance
from alexnet_deploy.errors import InputError
from alexnet_deploy.manifest import DataReference
from alexnet_deploy.ran import Ran
from alexnet_deploy.statistics import PairedDifference, Rate
from alexnet_deploy.types import Precision

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
    """Of one artifact, on labelled pictures. Top-5 is None with five classes or fewer, among which all would be right."""

    top1: Rate
    top5: Rate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """Candidate's logits against the reference's, over every class and every picture for which both are finite.

    Attributes:
        pictures: how many these are; where there is none, all figures are 0 and mean nothing.
        max_abs, mean_abs: of |reference - candidate|, in logits.
        largest_logit: the reference's largest absolute logit.
        relative: max_abs / largest_logit.
        cosine: similarity of the two logit vectors, mean over the pictures.
        sqnr_db: 10 log10(sum(reference^2) / sum((reference - candidate)^2)); None where they are identical.
        compared: "logits", or "log-probabilities" where either graph ends in probabilities.
        not_finite, reference_not_finite: pictures for which the candidate, or the reference, gives NaN or infinity.
    """

    pictures: int = 0
    max_abs: float = 0.0
    mean_abs: float = 0.0
    largest_logit: float = 0.0
    relative: float = 0.0
    cosine: float = 0.0
    sqnr_db: float | None = None
    compared: str = "logits"
    not_finite: int = 0
    reference_not_finite: int = 0


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
        reference, candidate: the top answers; "" where one gave none that is finite.
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


def judged(report: ParityReport) -> ParityReport:
    """The report with a sentence for each gate that it misses."""
    gates, error, name = report.gates, report.error, report.candidate.file
    missed = []
    for file, count in ((report.reference.file, error.reference_not_finite), (name, error.not_finite)):
        if count:
            missed.append(f"{file} gives NaN or infinity for {count} of {report.pictures.count} pictures; 0 are allowed")
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
