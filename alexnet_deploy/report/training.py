"""What `train` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from alexnet_deploy.report import terminal, words

if TYPE_CHECKING:
    from training.train import TrainReport

_MOST_EPOCHS = 12


def training(of: TrainReport) -> terminal.Show:
    """The figures of each epoch (of evenly chosen ones when there are many), and where the checkpoint is."""

    def show(console: Console) -> None:
        every = -(-len(of.history) // _MOST_EPOCHS)
        shown = [record for record in of.history if record.epoch % every == 0 or record is of.history[-1]]
        rows = [
            [
                str(record.epoch),
                f"{record.train_loss:.3f}",
                words.percent(record.train_accuracy),
                f"{record.validation_loss:.3f}",
                words.percent(record.validation_accuracy),
                words.per_second(record.pictures_per_second),
                words.seconds(record.seconds),
            ]
            for record in shown
        ]
        columns = ["epoch", ">train loss", ">accuracy", ">held-out loss", ">accuracy", "?>pictures/s", "?>time"]
        terminal.table(console, columns, rows)
        terminal.facts(
            console,
            [
                ("checkpoint", str(of.checkpoint)),
                ("model", f"{of.settings.arch}, {of.parameters:,} parameters, {of.settings.input_size} px"),
                (
                    "pictures",
                    f"{of.train_pictures:,} to train on, {of.validation_pictures:,} held out, {len(of.classes)} classes",
                ),
                ("time", words.seconds(of.seconds)),
            ],
        )
        if of.unreadable:
            left_out = words.count(len(of.unreadable), "picture")
            terminal.lines(console, [f"{left_out} could not be read and were left out:", *of.unreadable[:5]], style="yellow")

    return show
