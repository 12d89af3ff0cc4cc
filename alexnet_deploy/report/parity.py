"""Verification and evaluation, for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import DataReference
from alexnet_deploy.parity_report import Accuracy, EvaluationReport, LayerError, MovedPicture, ParityReport, Verification
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.ran import Ran
from alexnet_deploy.report import html, plots, terminal, words
from alexnet_deploy.report.html import Markup, Section, Tile
from alexnet_deploy.report.plots import Mark
from alexnet_deploy.report.terminal import Cell, Show
from alexnet_deploy.types import Precision

PALETTE = {
    Precision.FP32: 1,
    Precision.FP16: 2,
    Precision.INT8: 3,
    Precision.FP8: 4,
    Precision.BF16: 5,
    Precision.INT4: 6,
}
_WIDEST_DB, _DB_A_BLOCK = 60.0, 4.0  # of the bars in the terminal


def verification(of: Verification, *, per_class: bool = False) -> Show:
    """A line an artifact: accuracy, agreement, error; then what did not run itself; then how sure a drop is."""

    def show(console: Console) -> None:
        first = of.reports[0]
        labelled = first.reference_accuracy is not None
        rates = [">top-1", "?>top-5"][: len(_rates(first.reference_accuracy))]
        columns = ["artifact", "ran on", *rates, ">agree", ">max error", "?>cosine", ">SQNR"]
        terminal.table(console, columns, [_reference_row(first), *map(_candidate_row, of.reports)])
        if labelled:
            terminal.table(
                console,
                ["artifact", ">change", "95 % interval", ">lost", ">gained", "McNemar"],
                [_difference_row(report) for report in of.reports],
                title="Top-1 accuracy against the reference, in points",
            )
        for layers in of.layers:
            terminal.table(
                console,
                ["layer", "op", "precision", ">SQNR", "", ">max error"],
                [_layer_row(layer) for layer in layers.layers],
                title=f"Layers of {layers.candidate} against {layers.reference}",
            )
        if per_class and first.classes:
            terminal.table(console, *_class_table(of.reports))
        if not labelled:
            terminal.lines(console, ["No labels: accuracy is not known, agreement and error are."], style="dim")
        terminal.lines(console, notes(of), style="yellow")
        terminal.lines(console, [f"Compared on {words.count(first.pictures.count, 'picture')} of {first.pictures.location}."])
        terminal.verdict(console, of.missed, "every gate passed" if gated(of) else "")

    return show


def evaluation(of: EvaluationReport) -> Show:
    """Accuracy of one artifact, and a line a class."""

    def show(console: Console) -> None:
        rates = (("top-1", of.accuracy.top1), ("top-5", of.accuracy.top5))
        terminal.facts(
            console,
            [
                ("artifact", of.ran.file),
                ("ran on", words.ran_on(of.ran)),
                ("pictures", f"{of.pictures.count:,} of {of.pictures.location}"),
                *((name, f"{words.rate(found)}  (95 %: {words.interval(found.interval)})") for name, found in rates if found),
            ],
        )
        console.print()
        rows = [(row.label, f"{row.total:,}", words.percent(row.reference / row.total)) for row in of.classes]
        terminal.table(console, ["class", ">pictures", ">top-1"], rows)
        terminal.lines(
            console, words.ran_sentences([of.ran]) + _calibrated_on(of.ran, of.calibrated_on, of.pictures), style="yellow"
        )

    return show


def notes(of: Verification) -> list[str]:
    """What a reader must know before believing the table."""
    sentences = words.ran_sentences([of.reports[0].reference, *(report.candidate for report in of.reports)])
    for report in of.reports:
        ran = report.candidate
        if report.trained_on:
            sentences.append(f"{ran.file} was trained on pictures of {report.pictures.location}: these figures flatter it.")
        sentences += _calibrated_on(ran, report.calibrated_on, report.pictures)
        if not report.same_preprocessing:
            sentences.append(
                f"{report.candidate.file} preprocesses pictures otherwise than {report.reference.file}: "
                "the difference is part of its error."
            )
        if report.error.compared != "logits":
            sentences.append(f"{report.candidate.file}: errors are of {report.error.compared}, as a graph ends in probabilities.")
    return sentences


def _calibrated_on(ran: Ran, shared: int, pictures: DataReference) -> list[str]:
    if not shared:
        return []
    return [f"{ran.file} was calibrated on {shared:,} of these {pictures.count:,} pictures: the figures flatter it."]


def _reference_row(report: ParityReport) -> list[Cell]:
    rates = _rates(report.reference_accuracy)
    return [report.reference.file, words.ran_on(report.reference), *rates, *[words.NONE] * 4]


def _candidate_row(report: ParityReport) -> list[Cell]:
    error = report.error
    return [
        Text(report.candidate.file, style="bold red" if report.missed else ""),
        words.ran_on(report.candidate),
        *_rates(report.candidate_accuracy),
        words.rate(report.agreement),
        relative_error(report),
        f"{error.cosine:.5f}" if error.pictures else words.NONE,
        words.decibels(error.sqnr_db) if error.pictures else words.NONE,
    ]


def relative_error(report: ParityReport | None) -> str:
    """The largest, of the largest logit; none where no picture has a finite answer of both."""
    return words.error(report.error.relative if report and report.error.pictures else None)


def _rates(of: Accuracy | None) -> list[str]:
    """Top-1 and top-5, as far as they say anything."""
    return [words.rate(found) for found in (of.top1, of.top5) if found] if of else []


def _difference_row(report: ParityReport) -> list[Cell]:
    found = report.difference
    assert found is not None
    return [
        report.candidate.file,
        words.points(-found.drop),
        f"{words.points(-found.interval.high)} to {words.points(-found.interval.low)}",
        f"{found.lost}",
        f"{found.gained}",
        words.p_value(found.p_value),
    ]


def _layer_row(of: LayerError) -> list[Cell]:
    bar = "█" * round(min(of.sqnr_db, _WIDEST_DB) / _DB_A_BLOCK) if of.sqnr_db else ""
    return [of.layer, of.op, str(of.precision), words.decibels(of.sqnr_db), bar, words.error(of.relative)]


def _class_table(reports: Sequence[ParityReport]) -> tuple[list[str], list[list[Cell]]]:
    columns = ["class", ">pictures", ">reference", *(f">{report.candidate.file}" for report in reports)]
    rows: list[list[Cell]] = [
        [
            row.label,
            f"{row.total:,}",
            words.percent(row.reference / row.total),
            *(words.percent(report.classes[number].candidate / row.total) for report in reports),
        ]
        for number, row in enumerate(reports[0].classes)
    ]
    return columns, rows


def verification_page(of: Verification, pictures: PictureSet) -> str:
    """The HTML of `verify --html`."""
    first = of.reports[0]
    passed = not of.missed
    lead = (
        f"{words.count(len(of.reports), 'artifact')} against {first.reference.file}, "
        f"on {words.count(first.pictures.count, 'picture')} of {first.pictures.location}."
    )
    opening = html.join(
        html.tiles(tiles(of)),
        html.notice(of.missed, "bad") if not passed else html.notice(["Every gate passed."] if gated(of) else [], "good"),
        html.notice(notes(of)),
    )
    every = [Section("Artifacts", _overview(of)), *sections(of, pictures)]
    return html.page("Verification", lead, every, opening=opening, footer=words.machine(Machine.here()))


def tiles(of: Verification) -> list[Tile]:
    """The reference's accuracy, and the worst of each figure over the candidates."""
    least = min(of.reports, key=lambda report: report.agreement.fraction)
    found = [Tile(words.rate(least.agreement), "least agreement", least.candidate.file)]
    if least.reference_accuracy:
        found.insert(0, Tile(words.rate(least.reference_accuracy.top1), "top-1 of the reference", least.reference.file))
        worst = max(of.reports, key=lambda report: report.difference.drop if report.difference else 0.0)
        if worst.difference:
            found.append(Tile(words.points(-worst.difference.drop), "points of accuracy, at worst", worst.candidate.file))
    farthest = max(of.reports, key=lambda report: report.error.relative)
    found.append(Tile(relative_error(farthest), "largest error, of the largest logit", farthest.candidate.file))
    return found


def gated(of: Verification) -> bool:
    gates = of.reports[0].gates
    return any(gate is not None for gate in (gates.max_drop, gates.min_agreement, gates.max_error))


def sections(of: Verification, pictures: PictureSet) -> list[Section]:
    """What a page says of a verification: accuracy, agreement, output error, classes, and the pictures that moved."""
    parts = [_agreement_section(of), _error_section(of)]
    if of.layers:
        parts.append(_layer_section(of))
    if of.reports[0].reference_accuracy:
        parts.insert(0, _accuracy_section(of))
        parts.append(_class_section(of))
    if any(report.moved for report in of.reports):
        parts.append(_moved_section(of, pictures))
    return parts


def _overview(of: Verification) -> Markup:
    first = of.reports[0]
    each = [(first.reference, first.reference_accuracy, None), *((r.candidate, r.candidate_accuracy, r) for r in of.reports)]
    rows = [
        [
            ran.file,
            words.rate(found.top1 if found else None),
            words.rate(report.agreement if report else None),
            relative_error(report),
            f"{ran.precision}{f', {ran.form} form' if ran.form else ''}",
            words.size(ran.size_bytes),
            words.ran_on(ran),
        ]
        for ran, found, report in each
    ]
    columns = ["artifact", ">top-1", ">agree", ">max error", "precision", ">size", "ran on"]
    return html.table("What was compared; the first is the reference.", columns, rows, key=1)


def _accuracy_section(of: Verification) -> Section:
    first = of.reports[0]
    each = [(first.reference, first.reference_accuracy), *((r.candidate, r.candidate_accuracy) for r in of.reports)]
    marks = [
        Mark(
            ran.file,
            f"{words.rate(found.top1)}  ({words.interval(found.top1.interval)})",
            100 * found.top1.fraction,
            100 * found.top1.interval.low,
            100 * found.top1.interval.high,
            colour(ran),
        )
        for ran, found in each
        if found
    ]
    changes = [
        Mark(
            report.candidate.file,
            words.drop(report.difference),
            -100 * report.difference.drop,
            -100 * report.difference.interval.high,
            -100 * report.difference.interval.low,
            colour(report.candidate),
        )
        for report in of.reports
        if report.difference
    ]
    table = html.table(
        "Change of top-1 accuracy against the reference, on the same pictures; lost and gained are the pictures whose answer "
        "became wrong or right. A large p of McNemar's exact test means that the change may be chance.",
        ["artifact", ">change, points", "95 % interval", ">lost", ">gained", "McNemar"],
        [[str(cell) for cell in _difference_row(report)] for report in of.reports],
        key=1,
    )
    accuracies = plots.intervals("Top-1 accuracy with 95 % Wilson intervals", marks, tick="{:g} %".format)
    paired = plots.intervals("Change of top-1 accuracy in points, with its 95 % paired interval", changes, tick=words.signed)
    drawn = html.figures(
        html.figure(accuracies, "Top-1 accuracy, with its 95 % interval"),
        html.figure(paired, "Change against the reference, in points"),
    )
    return Section("Accuracy", html.join(drawn, table))


def _agreement_section(of: Verification) -> Section:
    marks = [
        Mark(
            report.candidate.file,
            f"{words.rate(report.agreement)}  ({words.interval(report.agreement.interval)})",
            100 * report.agreement.fraction,
            100 * report.agreement.interval.low,
            100 * report.agreement.interval.high,
            colour(report.candidate),
        )
        for report in of.reports
    ]
    drawn = [
        html.figure(
            plots.intervals("Top-1 agreement with the reference", marks, tick="{:g} %".format),
            "Same answer as the reference, with its 95 % interval",
        )
    ]
    if len(of.files) > 2:
        squares = plots.matrix(
            "Agreement of every artifact with every other", of.files, of.agreement, text=lambda v: f"{100 * v:.1f}"
        )
        drawn.append(html.figure(squares, "Each with each, percent"))
    return Section("Agreement", html.figures(*drawn))


def _error_section(of: Verification) -> Section:
    measured = [report for report in of.reports if report.error.sqnr_db is not None]
    marks = [
        Mark(r.candidate.file, words.decibels(r.error.sqnr_db), max(0.0, r.error.sqnr_db or 0.0), colour=colour(r.candidate))
        for r in measured
    ]
    rows = [
        [
            report.candidate.file,
            *(_error_figures(report) if report.error.pictures else [words.NONE] * 5),
            words.error(report.invariance.relative if report.invariance else None),
        ]
        for report in of.reports
    ]
    table = html.table(
        "Error of the logits against the reference's, over all pictures and classes; relative means of its largest logit. "
        "Alone or in a batch: how much the same picture's logits differ between these, and between places in the batch.",
        ["artifact", ">max, relative", ">max, absolute", ">mean", ">cosine", ">SQNR", ">alone or in a batch"],
        rows,
        key=1,
    )
    drawn = plots.bars("Signal to noise of the logits, dB", marks, tick="{:g} dB".format) if marks else None
    figure = html.figure(drawn, "Signal to quantisation noise of the logits: 20 dB is 10 % noise, 40 dB is 1 %") if drawn else ""
    return Section("Output error", html.join(figure, table))


def _error_figures(report: ParityReport) -> list[str]:
    error = report.error
    size = [f"{error.max_abs:.3g}", f"{error.mean_abs:.3g}", f"{error.cosine:.6f}"]
    return [relative_error(report), *size, words.decibels(error.sqnr_db)]


def _layer_section(of: Verification) -> Section:
    """Where the error comes from: the SQNR of every layer's output, layer by layer."""
    drawn = [
        html.figure(
            plots.bars(
                f"Signal to noise of every layer of {each.candidate}, dB",
                [
                    Mark(
                        f"{layer.layer} ({layer.op}, {layer.precision})",
                        words.decibels(layer.sqnr_db),
                        max(0.0, layer.sqnr_db or 0.0),
                        colour=PALETTE[layer.precision],
                    )
                    for layer in each.layers
                ],
                tick="{:g} dB".format,
            ),
            f"{each.candidate}: signal to noise of each layer's output",
        )
        for each in of.layers
    ]
    about = html.paragraph(
        f"Each layer's output against the same tensor of {of.layers[0].reference}, on "
        f"{words.count(of.layers[0].pictures.count, 'picture')}; one colour a precision. "
        "A layer's error holds that of those before it."
    )
    return Section("Layers", html.join(about, html.figures(*drawn)))


def _class_section(of: Verification) -> Section:
    columns, rows = _class_table(of.reports)
    table = html.table("Top-1 accuracy, a class a line", columns, [[str(cell) for cell in row] for row in rows])
    return Section("Classes", table if len(rows) <= 20 else html.details(f"All {len(rows)} classes", table))


def _moved_section(of: Verification, pictures: PictureSet) -> Section:
    shown: list[Markup] = [
        html.paragraph(
            "Changed answers first, then by how far the probabilities moved (total variation: 0 the same, 1 nothing in common)."
        )
    ]
    most_changed = min((report for report in of.reports if report.moved), key=lambda report: report.agreement.count)
    for report in of.reports:
        if not report.moved:
            continue
        changed = report.agreement.total - report.agreement.count
        summary = f"{report.candidate.file}: {words.count(changed, 'changed answer')} of {report.agreement.total:,}"
        items = [_moved_picture(picture, pictures) for picture in report.moved]
        shown.append(html.details(summary, html.tag("ul", *items, class_="gallery"), opened=report is most_changed))
    return Section("Pictures that moved farthest", html.join(*shown))


def _moved_picture(moved: MovedPicture, pictures: PictureSet) -> Markup:
    drawn = html.thumbnail(pictures.picture(moved.index), f"{moved.name}, {moved.truth or 'unlabelled'}")
    before = f"{moved.reference or 'no answer'} {words.percent(moved.reference_probability, 0)}"
    after = f"{moved.candidate or 'no answer'} {words.percent(moved.candidate_probability, 0)}"
    truth = [html.tag("span", f"is {moved.truth}", class_="dim")] if moved.truth else []
    right = moved.candidate == moved.truth
    sign, judged = ("", None) if not moved.truth else (" ✓", "good") if right else (" ✗", "bad")
    return html.tag("li", drawn, *truth, html.tag("span", before), html.tag("span", f"→ {after}{sign}", class_=judged))


def colour(ran: Ran) -> int:
    """One colour a precision, in every plot; the checkpoint is grey."""
    if ran.kind == "checkpoint":
        return 0
    return PALETTE[ran.precision]
