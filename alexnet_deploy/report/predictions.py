"""Classes of pictures, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from alexnet_deploy.predictions import PredictionReport
from alexnet_deploy.report import terminal, words
from alexnet_deploy.report.terminal import Show
from alexnet_deploy.runtime import Prediction


def predictions(of: PredictionReport) -> Show:
    """A line a picture, with as many classes as were asked for; the broken ones are named below, by the command."""

    def show(console: Console) -> None:
        sound = [picture for picture in of.pictures if not picture.error]
        ranks = max((len(picture.predictions) for picture in sound), default=0)
        if sound:
            columns = [_answers([picture.predictions[rank] for picture in sound]) for rank in range(ranks)]
            headings = ["picture", "class", *(_nth(rank) for rank in range(2, ranks + 1))]
            names = [picture.name for picture in sound]
            room = console.width - sum(2 + cell_len(column[0]) for column in columns)
            if max(map(cell_len, names)) > room and (folder := _common_folder(names)):
                terminal.lines(console, [f"all in {folder}:"])
                names = [name[len(folder) + 1 :] for name in names]
            terminal.table(console, headings, list(zip(names, *columns, strict=True)))
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


def _common_folder(names: Sequence[str]) -> str:
    """The deepest folder that all lie in, or ""."""
    parents = map(str, Path(names[0]).parents)
    return next((parent for parent in parents if all(name.startswith(f"{parent}/") for name in names)), "")


def _answers(each: Sequence[Prediction]) -> list[str]:
    """Labels and probabilities in one column, so that a narrow terminal does not tear them apart."""
    widest = max(cell_len(answer.label) for answer in each)
    return [f"{set_cell_size(answer.label, widest)}  {words.percent(answer.probability):>7}" for answer in each]


def _nth(rank: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(rank, f"{rank}th")
