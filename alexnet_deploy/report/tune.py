"""What was tried to run a model fast, for a person: in the terminal and as a page."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from alexnet_deploy.report import html, plots, terminal, words
from alexnet_deploy.report.html import Section, Tile
from alexnet_deploy.report.plots import Mark
from alexnet_deploy.report.terminal import Cell, Show
from alexnet_deploy.tune import Trial, TuneReport


def tune(of: TuneReport) -> Show:
    """A line for each way to run, and the choice."""

    def show(console: Console) -> None:
        compared = of.pictures > 0
        shown = terminal.table(
            console,
            ["file", "backend", ">p50 ms", "", "?times as long", *([">change", ">same"] if compared else [])],
            [_line(trial, compared) for trial in of.trials],
            title=f"Batch {of.batch}" + (f", against {of.reference} on {of.pictures:,} pictures" if compared else ""),
        )
        if compared:
            change = "change: of top-1 accuracy, in percentage points; same: answers that are the reference's"
            terminal.lines(console, [f"{change}. Others were slower, timed alone, and not compared."], style="dim")
        if "times as long" in shown and any(trial.times_longer for trial in of.trials):
            longer = "times as long: as the way chosen, 95 % interval of those timed in turns with it"
            terminal.lines(console, [f"{longer}; as fast: the difference is within it, and noise."], style="dim")
        if of.chosen is not None and of.path is not None:
            saved = f"{of.path} keeps the choice: Runtime and every command follow it on this CPU."
            terminal.lines(console, [saved], style="green")
        terminal.lines(console, words.warnings(of.warnings), style="yellow")
        terminal.lines(console, _notes(of))
        terminal.lines(console, [words.machine(of.machine)], style="dim")

    return show


def _notes(of: TuneReport) -> list[str]:
    return [f"Note: {note}." for note in of.notes]


def _line(trial: Trial, compared: bool) -> list[Cell]:
    """Short, so that 80 columns hold it; where they do not, the verdict still stands beside the way that it is of."""
    file, backend, threads, latency, longer = _row(trial)
    name = file.removesuffix(".onnx")
    way = backend if trial.threads is None else f"{backend} ×{threads}"
    return [name, way, latency, _verdict(trial), longer, *(_accuracy(trial) if compared else [])]


def _row(trial: Trial) -> list[str]:
    backend = trial.backend if trial.device == "cpu" else f"{trial.backend} on {trial.device}"
    threads = str(trial.threads or words.NONE)
    return [trial.file, backend, threads, words.milliseconds(trial.latency_ms), words.times_interval(trial.times_longer)]


def _accuracy(trial: Trial) -> list[str]:
    change = words.NONE if trial.drop is None else words.points(-trial.drop / 100)
    return [change, words.percent(trial.agreement)]


def _verdict(trial: Trial) -> Text:
    return Text(trial.verdict if trial.verdict != "slower" else "", "bold green" if trial.verdict == "chosen" else "")


def tune_page(of: TuneReport) -> str:
    """The HTML of `tune --html`: every way to run, the fastest first, and the one that was kept."""
    chosen = of.chosen
    tiles = []
    if chosen is not None:
        tiles.append(Tile(f"{words.milliseconds(chosen.latency_ms)} ms", f"median at batch {of.batch}", _way(chosen)))
        if chosen.agreement is not None:
            tiles.append(Tile(words.percent(chosen.agreement), "same answers", f"as {of.reference}"))
    marks = [
        Mark(_way(trial), f"{words.milliseconds(trial.latency_ms)} ms", trial.latency_ms, colour=2 if trial is chosen else 0)
        for trial in of.trials
        if trial.latency_ms is not None
    ]
    rows = [
        [
            *_row(trial),
            *_accuracy(trial),
            trial.verdict,
            trial.precision,
        ]
        for trial in of.trials
    ]
    columns = ["file", "backend", ">threads", ">p50 ms", "times as long", ">change", ">same", "verdict", "precision"]
    body = html.table(
        "Every way that was tried: those that were timed again and compared, then the others; the fastest first.",
        columns,
        rows,
        key=3,
    )
    if marks:
        named = plots.bars("Median latency of each way to run, milliseconds", marks, tick="{:g} ms".format)
        body = html.join(html.figure(named, "Median latency of each way; the one that was kept stands out"), body)
    lead = f"{words.count(len(of.trials), 'way')} to run the model at batch {of.batch} on this machine" + (
        f", compared with {of.reference} on {words.count(of.pictures, 'picture')}." if of.pictures else "."
    )
    opening = html.join(
        html.tiles(tiles) if tiles else "",
        html.notice(of.missed, "bad"),
        html.notice([*words.warnings(of.warnings), *_notes(of)]),
    )
    return html.page("Tuning", lead, [Section("Ways to run", body)], opening=opening, footer=words.machine(of.machine))


def _way(trial: Trial) -> str:
    threads = f", {words.count(trial.threads, 'thread')}" if trial.threads else ""
    return f"{trial.file} on {trial.backend}{threads}"
