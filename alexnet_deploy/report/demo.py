"""The demo's last table, and its page."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from alexnet_deploy.demo import DemoReport
from alexnet_deploy.parity_report import ParityReport
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.ran import Ran
from alexnet_deploy.report import benchmark, html, parity, plots, terminal, words
from alexnet_deploy.report.engine import calibration_section
from alexnet_deploy.report.html import Section, Tile
from alexnet_deploy.report.plots import Mark
from alexnet_deploy.report.terminal import Cell, Show

_COLUMNS = ["artifact", ">size", "ran on", ">top-1", ">agree", ">max error", ">ms at 1", ">img/s at 32", ">speed-up"]


def demo(of: DemoReport) -> Show:
    """One line an artifact: what it is, whether it is right, and how fast it is."""

    def show(console: Console) -> None:
        console.print()
        terminal.table(console, _COLUMNS, [_styled(row) for row in _rows(of)])
        terminal.lines(console, _notes(of), style="yellow")
        first = of.verification.reports[0]
        terminal.lines(
            console,
            [
                f"Top-1 on {words.count(first.pictures.count, 'picture')} of {first.pictures.location}; agreement, error and "
                f"speed-up (batch 1) are against {first.reference.file}.",
                f"{words.seconds(of.seconds)} in all: "
                + ", ".join(f"{step.name} {words.seconds(step.seconds)}" for step in of.steps),
            ],
            style="dim",
        )
        console.print()
        terminal.lines(console, [f"Report: {of.folder / 'report.html'}", f"Try:    alexnet-deploy predict {_best(of)} PICTURE"])

    return show


def demo_page(of: DemoReport, pictures: PictureSet) -> str:
    """The demo's report.html: what was made, whether it is right, how fast it is."""
    first = of.verification.reports[0]
    lead = (
        f"An AlexNet, trained on {first.pictures.location.replace('test', 'train')}, exported, calibrated, built and verified "
        f"in {words.seconds(of.seconds)}: {words.count(len(of.verification.reports), 'artifact')} compared with the PyTorch "
        f"checkpoint on {words.count(first.pictures.count, 'picture')} that it never saw."
    )
    opening = html.join(html.tiles(_tiles(of)), html.notice(_notes(of)))
    summary = html.table("Every artifact at a glance.", _COLUMNS, [[str(cell) for cell in row] for row in _rows(of)], key=3)
    sizes = [Mark(ran.file, words.size(ran.size_bytes), ran.size_bytes / 1e6, colour=parity.colour(ran)) for ran in _each(of)]
    made = html.figures(
        html.figure(plots.bars("Size of each artifact", sizes, tick="{:g} MB".format), "Size of the files"),
        html.figure(
            plots.bars(
                "Time of each step",
                [Mark(step.name, words.seconds(step.seconds), step.seconds, colour=0) for step in of.steps],
                tick="{:g} s".format,
            ),
            "Time of each step",
        ),
    )
    sections = [
        Section("All artifacts", html.join(summary, made)),
        *benchmark.sections(of.speed),
        *parity.sections(of.verification, pictures),
        calibration_section(of.calibration, of.activations),
    ]
    return html.page("AlexNet, from training to engine", lead, sections, opening=opening, footer=words.machine(of.speed.machine))


def _notes(of: DemoReport) -> list[str]:
    """What a reader must know before believing the figures."""
    return parity.notes(of.verification) + words.warnings(of.speed.warnings)


def _tiles(of: DemoReport) -> list[Tile]:
    reports = {report.candidate.file: report for report in of.verification.reports}
    reference = of.verification.reports[0].reference
    found = []
    if accuracy := of.verification.reports[0].reference_accuracy:
        found.append(
            Tile(words.rate(accuracy.top1), "top-1 of the checkpoint", f"95 %: {words.interval(accuracy.top1.interval)}")
        )
    if int8 := reports.get("alexnet.int8.plan"):
        found.append(Tile(words.rate(int8.agreement), "INT8 gives the same answer", words.ran_on(int8.candidate)))
        smaller = reference.size_bytes / int8.candidate.size_bytes
        found.append(Tile(words.times(smaller), "smaller as INT8 engine", words.size(int8.candidate.size_bytes)))
    fastest = max((t for t in of.speed.timings if t.batch == 1), key=lambda t: t.speed_up, default=None)
    if fastest:
        found.append(Tile(words.times(fastest.speed_up), "faster than PyTorch at batch 1", fastest.ran.file))
    return found


def _each(of: DemoReport) -> tuple[Ran, ...]:
    return (of.verification.reports[0].reference, *(report.candidate for report in of.verification.reports))


def _rows(of: DemoReport) -> list[list[str]]:
    first = of.verification.reports[0]
    rows = [_row(of, first.reference, words.rate(first.reference_accuracy.top1 if first.reference_accuracy else None), None)]
    for report in of.verification.reports:
        top1 = words.rate(report.candidate_accuracy.top1 if report.candidate_accuracy else None)
        rows.append(_row(of, report.candidate, top1, report))
    return rows


def _row(of: DemoReport, ran: Ran, top1: str, report: ParityReport | None) -> list[str]:
    one, many = of.speed.of(ran.file, 1), of.speed.of(ran.file, 32)
    return [
        ran.file,
        words.size(ran.size_bytes),
        words.ran_on(ran),
        top1,
        words.rate(report.agreement if report else None),
        parity.relative_error(report),
        words.milliseconds(one.p50_ms if one else None),
        words.per_second(many.images_per_second if many else None),
        words.times(one.speed_up if one else None),
    ]


def _styled(row: list[str]) -> list[Cell]:
    return [Text(row[0], style="bold"), *row[1:]]


def _best(of: DemoReport) -> str:
    return str(of.folder / "alexnet.int8.plan")
