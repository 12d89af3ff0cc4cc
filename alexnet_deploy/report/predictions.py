"""Classes of pictures, for a person."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from alexnet_deploy.predictions import PredictionReport
from alexnet_deploy.report import terminal, words
from alexnet_deploy.report.terminal import Show


def predictions(of: PredictionReport) -> Show:
    """A line a picture, with as many classes as were asked for; the broken ones are named below, by the command."""

    def show(console: Console) -> None:
        sound = [picture for picture in of.pictures if not picture.error]
        ranks = max((len(picture.predictions) for picture in sound), default=0)
        if sound:
            terminal.table(
                console,
                ["picture", "class", ">prob.", *(column for rank in range(2, ranks + 1) for column in (_nth(rank), ">prob."))],
                [
                    [picture.name, *(cell for p in picture.predictions for cell in (p.label, words.percent(p.probability)))]
                    for picture in sound
                ],
            )
        terminal.lines(console, words.ran_sentences([of.ran]), style="yellow")
        if sound and of.seconds > 0:
            rate = f"{len(sound) / of.seconds:,.0f} a second, decoding included"
            terminal.lines(console, [f"{words.count(len(sound), 'picture')} by {words.ran_on(of.ran)}: {rate}"], style="dim")

    return show


def written(count: int, output: Path | None) -> Show:
    """Where rows went; nothing where they went to stdout themselves."""

    def show(console: Console) -> None:
        if output is not None:
            terminal.lines(console, [f"{output}: {words.count(count, 'picture')}"])

    return show


def _nth(rank: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(rank, f"{rank}th")
