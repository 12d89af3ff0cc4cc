"""What `train` leaves beside its checkpoint: a model card, and a page where one was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_deploy.types import Progress
    from training.records import EpochRecord, TrainReport, Watcher


class Watchers:
    """Several watchers as one."""

    def __init__(self, each: Sequence[Watcher]) -> None:
        self._each = each

    def step(self, step: int, loss: float, accuracy: float, learning_rate: float, pictures_per_second: float) -> None:
        for watcher in self._each:
            watcher.step(step, loss, accuracy, learning_rate, pictures_per_second)

    def epoch(self, record: EpochRecord) -> None:
        for watcher in self._each:
            watcher.epoch(record)


def card_path(checkpoint: Path) -> Path:
    """`alexnet.safetensors.md`, beside the manifest."""
    return checkpoint.with_name(checkpoint.name + ".md")


def describe(of: TrainReport, page: Path | None, device: str, progress: Progress) -> Path:
    """Measures the finished checkpoint on the validation pictures, and writes what was found.

    Args:
        of: the training.
        page: where its HTML goes, None for none.
        device: to measure on.

    Returns:
        Where the model card is.
    """
    from alexnet_deploy.diagnosis import diagnose
    from alexnet_deploy.report import html
    from alexnet_deploy.report.model_card import model_card
    from alexnet_deploy.report.training import training_page
    from alexnet_deploy.runtime import Runtime
    from training.data import open_validation

    pictures = open_validation(of.settings.data, of.settings.validation)
    with Runtime(of.checkpoint, device) as runtime:
        found = diagnose(runtime, pictures, progress)
        artifact = runtime.artifact
    card = card_path(of.checkpoint)
    html.write(card, model_card(of, artifact, found))
    if page is not None:
        html.write(page, training_page(of, found, pictures))
    return card
