"""INT8 within an accuracy budget: quantise everything, measure, and give the worst layers back until the drop is small enough.

Both graph forms must hold the budget, since both are shipped: the plan is made from one, its twin on the CPU is the other.

Layers are given back in the order of the noise that each adds alone, 1, 2, 4 and so on, until the budget holds. Which of the
last lot were needed is then judged beside those given back before, where noise that two layers share counts once, and the
smallest number is found by halving. So a graph of n layers is measured at most 2 log2(n) + 2 times on all pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_deploy.answers import truth
from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import DataError, GateMissed
from alexnet_deploy.pictures import UNLABELLED, PictureSet
from alexnet_deploy.quantization.calibration import Calibration
from alexnet_deploy.quantization.comparison import relative_error
from alexnet_deploy.quantization.fitness import warn_of_overlap
from alexnet_deploy.quantization.layers import choose_skipped
from alexnet_deploy.quantization.sensitivity import LayerSensitivity, Trials, agreement, measure, top1_change, worst_first
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

_SENSITIVITY_PICTURES = 128


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
        steps: every measurement, the one that is kept last.
        layers: the sensitivity table of the form that dropped more, in the graph's order; empty where nothing was given back.
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
    """Finds few layers to leave alone for a drop of at most `max_drop` points.

    Args:
        model: the FP32 graph.
        calibration: of that graph.
        pictures: labelled, and not those of the calibration.
        skip: layers to leave alone in any case.

    Raises:
        DataError: the pictures have no labels.
        GateMissed: the budget does not hold with a single layer quantised.
    """
    labels = truth(pictures, model.manifest)
    if not (labels != UNLABELLED).any():
        raise DataError(
            f"{pictures.location} has no labels", expected="one subfolder a class, to measure accuracy", fix="--data FOLDER"
        )
    warn_of_overlap(calibration.record, pictures)
    forms = (GraphForm.TENSORRT, GraphForm.CPU) if precision is Precision.INT8 else (GraphForm.TENSORRT,)

    def trials_on(chosen: PictureSet) -> dict[GraphForm, Trials]:
        return {form: Trials(model, calibration, chosen, precision=precision, form=form) for form in forms}

    trials = trials_on(pictures)
    reference, layers = trials[GraphForm.TENSORRT].reference, trials[GraphForm.TENSORRT].layers
    always = tuple(sorted(choose_skipped(layers, skip)))

    def step(skipped: Sequence[str]) -> BudgetStep:
        progress("accuracy budget", len(skipped), len(layers))
        answers = {form: trial.run(skipped) for form, trial in trials.items()}
        return BudgetStep(
            skipped=tuple(skipped),
            top1_change={form.value: top1_change(reference, answer, labels) for form, answer in answers.items()},
            agreement={form.value: agreement(reference, answer) for form, answer in answers.items()},
        )

    steps = [step(always)]
    table: tuple[LayerSensitivity, ...] = ()
    if steps[0].worst_drop > max_drop:
        few = pictures.sample(_SENSITIVITY_PICTURES)
        some = trials_on(few)
        worst = min(forms, key=lambda form: steps[0].top1_change[form.value])
        table = measure(some[worst], truth(few, model.manifest), progress)
        order = [name for name in worst_first(table) if name not in always]

        def holds(count: int) -> bool:
            steps.append(step((*always, *order[:count])))
            return steps[-1].worst_drop <= max_drop

        too_few, enough = 0, 1
        while enough < len(order) and not holds(enough):
            too_few, enough = enough, 2 * enough
        if enough >= len(order) and not holds(len(order) - 1):
            best = min(steps, key=lambda s: s.worst_drop)
            raise GateMissed(
                f"{precision} costs {best.worst_drop:.2f} points of top-1 even with {len(best.skipped)} of"
                f" {len(layers)} layers left alone, more than --max-drop {max_drop:g}",
                expected="a drop within the budget",
                fix="--fp16, more calibration pictures, or a larger --max-drop",
            )
        enough = min(enough, len(order) - 1)
        order[too_few:enough] = _beside(order[:too_few], order[too_few:enough], always, some)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if holds(middle) else (middle, enough)
        kept = min((s for s in steps if s.worst_drop <= max_drop), key=lambda s: len(s.skipped))
        steps = [*(s for s in steps if s is not kept), kept]
    return BudgetReport(max_drop=max_drop, pictures=len(pictures), steps=tuple(steps), layers=table)


def _beside(
    given_back: Sequence[str], candidates: Sequence[str], always: Sequence[str], trials: dict[GraphForm, Trials]
) -> list[str]:
    """The candidates, first the one without which least noise is left, in both forms and beside those given back already."""

    def left(name: str) -> float:
        skipped = (*always, *given_back, name)
        return sum(relative_error(trial.reference, trial.run(skipped)) for trial in trials.values())

    noise = {name: left(name) for name in candidates} if len(candidates) > 1 else {}
    return sorted(candidates, key=lambda name: noise.get(name, 0.0))
