"""INT8 within an accuracy budget: quantise everything, measure, and give the worst layers back until the drop is small enough.

Both graph forms must hold the budget, since both are shipped: the plan is made from one, its twin on the CPU is the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_deploy.answers import truth
from alexnet_deploy.errors import DataError, GateMissed
from alexnet_deploy.manifest import Artifact
from alexnet_deploy.pictures import UNLABELLED, PictureSet
from alexnet_deploy.quantization.calibration import Calibration
from alexnet_deploy.quantization.fitness import warn_of_overlap
from alexnet_deploy.quantization.layers import choose_skipped
from alexnet_deploy.quantization.sensitivity import LayerSensitivity, Trials, agreement, measure, top1_change, worst_first
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

_SENSITIVITY_PICTURES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStep:
    """One measurement: these layers left alone, that change of accuracy.

    Attributes:
        skipped: names of the layers left in half precision (TensorRT) or float32 (CPU).
        top1_change: for each form, in percentage points, negative for a loss.
        agreement: for each form, share of pictures whose top-1 class is the float32 graph's.
    """

    skipped: tuple[str, ...]
    top1_change: dict[str, float]
    agreement: dict[str, float]

    @property
    def worst_drop(self) -> float:
        """The larger loss of the two forms, in percentage points, positive for a loss."""
        return max(-change for change in self.top1_change.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReport:
    """How the budget was held.

    Attributes:
        max_drop: the budget, in percentage points of top-1 accuracy.
        pictures: how many it was measured on.
        steps: every measurement; the last one holds the budget.
        layers: the sensitivity table, in the graph's order; empty where nothing had to be given back.
    """

    max_drop: float
    pictures: int
    steps: tuple[BudgetStep, ...]
    layers: tuple[LayerSensitivity, ...]

    @property
    def skipped(self) -> tuple[str, ...]:
        return self.steps[-1].skipped


def hold_budget(
    model: Artifact,
    calibration: Calibration,
    pictures: PictureSet,
    *,
    max_drop: float,
    skip: Sequence[str] = (),
    precision: Precision = Precision.INT8,
    progress: Progress = silent,
) -> BudgetReport:
    """Finds the fewest layers to leave alone for a drop of at most `max_drop` points.

    Args:
        model: the FP32 graph.
        calibration: of that graph.
        pictures: labelled, and not those of the calibration.
        skip: layers to leave alone in any case.

    Raises:
        DataError: the pictures have no labels.
        GateMissed: the budget does not hold even with half of the layers left alone.
    """
    labels = truth(pictures, model.manifest)
    if not (labels != UNLABELLED).any():
        raise DataError(
            f"{pictures.location} has no labels", expected="one subfolder a class, to measure accuracy", fix="--data FOLDER"
        )
    warn_of_overlap(calibration.record, pictures)
    forms = (GraphForm.TENSORRT, GraphForm.CPU) if precision is Precision.INT8 else (GraphForm.TENSORRT,)
    trials = {form: Trials(model, calibration, pictures, precision=precision, form=form) for form in forms}
    always = tuple(sorted(choose_skipped(trials[GraphForm.TENSORRT].layers, skip)))

    def step(skipped: tuple[str, ...]) -> BudgetStep:
        progress("accuracy budget", len(skipped), len(trials[GraphForm.TENSORRT].layers))
        answers = {form: trial.run(skipped) for form, trial in trials.items()}
        reference = trials[GraphForm.TENSORRT].reference
        return BudgetStep(
            skipped=skipped,
            top1_change={form.value: top1_change(reference, answer, labels) for form, answer in answers.items()},
            agreement={form.value: agreement(reference, answer) for form, answer in answers.items()},
        )

    steps = [step(always)]
    table: tuple[LayerSensitivity, ...] = ()
    if steps[-1].worst_drop > max_drop:
        few = pictures.sample(_SENSITIVITY_PICTURES)
        table = measure(Trials(model, calibration, few, precision=precision), truth(few, model.manifest), progress)
        order = [name for name in worst_first(table) if name not in always]
        most = len(table) // 2
        while steps[-1].worst_drop > max_drop and len(steps) <= most:
            steps.append(step((*always, *order[: len(steps)])))
    if steps[-1].worst_drop > max_drop:
        best = min(steps, key=lambda s: s.worst_drop)
        raise GateMissed(
            f"{precision} costs {best.worst_drop:.2f} points of top-1 even with {len(best.skipped)} of"
            f" {len(trials[GraphForm.TENSORRT].layers)} layers left alone, more than --max-drop {max_drop:g}",
            expected="a drop within the budget",
            fix="--fp16, more calibration pictures, or a larger --max-drop",
        )
    return BudgetReport(max_drop=max_drop, pictures=len(pictures), steps=tuple(steps), layers=table)
