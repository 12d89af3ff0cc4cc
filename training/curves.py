"""How a training goes, as curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from alexnet_deploy.extras import extra
from training.records import EpochRecord


class Curves:
    """A Watcher that writes event files: loss, accuracy, learning rate and speed, by step and by epoch.

    Raises:
        AlexnetDeployError: the package tensorboard is missing.
    """

    def __init__(self, folder: Path) -> None:
        with extra("tensorboard", "--log-dir"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder))

    def step(self, step: int, loss: float, accuracy: float, learning_rate: float, pictures_per_second: float) -> None:
        self._write(
            step,
            {
                "step/loss": loss,
                "step/accuracy": accuracy,
                "step/learning_rate": learning_rate,
                "step/pictures_per_second": pictures_per_second,
            },
        )

    def epoch(self, record: EpochRecord) -> None:
        self._write(
            record.epoch,
            {
                "loss/train": record.train_loss,
                "loss/validation": record.validation_loss,
                "accuracy/train": record.train_accuracy,
                "accuracy/validation": record.validation_accuracy,
                "learning_rate": record.learning_rate,
                "pictures_per_second": record.pictures_per_second,
            },
        )
        self._writer.flush()

    def _write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
