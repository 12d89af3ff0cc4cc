"""What was tried to run a model fast, for a person."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from alexnet_deploy.report import terminal, words
from alexnet_deploy.report.terminal import Show
from alexnet_deploy.tune import Trial, TuneReport


def tune(of: TuneReport) -> Show:
    """A line for each way to run, and the choice."""

    def show(console: Console) -> None:
        compared = of.pictures > 0
        terminal.table(
            console,
            ["file", "backend", ">threads", ">p50 ms", *([">drop", ">same"] if compared else []), ""],
            [[*_row(trial), *(_accuracy(trial) if compared else []), _verdict(trial)] for trial in of.trials],
            title=f"Batch {of.batch}" + (f", against {of.reference} on {of.pictures:,} pictures" if compared else ""),
        )
        if compared:
            drops = "drop: of top-1 accuracy, in percentage points; same: answers that are the reference's"
            terminal.lines(console, [f"{drops}. Slower ways were not compared."], style="dim")
        if of.chosen is not None and of.path is not None:
            saved = f"{of.path} keeps the choice: Runtime and every command follow it on this CPU."
            terminal.lines(console, [saved], style="green")
        terminal.lines(console, [words.machine(of.machine)], style="dim")

    return show


def _row(trial: Trial) -> list[str]:
    backend = trial.backend if trial.device == "cpu" else f"{trial.backend} on {trial.device}"
    return [trial.file, backend, str(trial.threads or words.NONE), words.milliseconds(trial.latency_ms)]


def _accuracy(trial: Trial) -> list[str]:
    drop = words.NONE if trial.drop is None else f"{trial.drop:.2f}"
    return [drop, words.percent(trial.agreement)]


def _verdict(trial: Trial) -> Text:
    return Text(trial.verdict if trial.verdict != "slower" else "", "bold green" if trial.verdict == "chosen" else "")
