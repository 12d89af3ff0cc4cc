"""What is known of a training: its epochs, its end, and who is told meanwhile. No torch is needed to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch's figures. Accuracies are fractions; the training ones are of augmented pictures, with dropout, as seen."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    pictures_per_second: float


def best_epoch(history: Sequence[EpochRecord]) -> int:
    """The first one with the highest validation accuracy, counted from 1; 0 before any."""
    return max(history, key=lambda record: record.validation_accuracy).epoch if history else 0


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came out of a training.

    Attributes:
        checkpoint: path of the artifact.
        parameters: number of them.
        classes: their names.
        train_pictures, validation_pictures: how many, unreadable ones included.
        history: one record an epoch.
        seconds: of all epochs, those before a resume too.
        unreadable: why each picture that was left out could not be read.
        settings: what it was trained with.
        ten_crop_accuracy: on the validation pictures, over ten crops of each; None where that was not asked for.
    """

    checkpoint: Path
    parameters: int
    classes: tuple[str, ...]
    train_pictures: int
    validation_pictures: int
    history: tuple[EpochRecord, ...]
    seconds: float
    unreadable: tuple[str, ...]
    settings: TrainSettings = field(kw_only=True)
    ten_crop_accuracy: float | None = field(default=None, kw_only=True)

    @property
    def kept_epoch(self) -> int:
        """The one whose weights the checkpoint holds."""
        return best_epoch(self.history) if self.settings.patience else len(self.history)


class Watcher(Protocol):
    """Who is told how a training goes, such as curves for TensorBoard. Only the first of several processes tells."""

    def step(self, step: int, loss: float, accuracy: float, learning_rate: float, pictures_per_second: float) -> None:
        """A few times a second: means over the epoch so far; `step` counts from the beginning of the training."""

    def epoch(self, record: EpochRecord) -> None:
        """After every epoch; when a training resumes, also once for each epoch that is behind it."""


class Unwatched:
    """The Watcher that nobody listens to."""

    def step(self, step: int, loss: float, accuracy: float, learning_rate: float, pictures_per_second: float) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        pass
