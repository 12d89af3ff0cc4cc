"""What `train` prints, and its page."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from alexnet_deploy.machine import Machine
from alexnet_deploy.report import html, plots, terminal, words
from alexnet_deploy.report.html import Section, Tile
from alexnet_deploy.report.plots import Series

if TYPE_CHECKING:
    from alexnet_deploy.diagnosis import Diagnosis, Mistake
    from alexnet_deploy.pictures import PictureSet
    from training.records import TrainReport

_MOST_EPOCHS = 12
_MOST_DRAWN_CLASSES = 20
_MOST_CONFUSIONS = 20


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
                ("checkpoint", f"{of.checkpoint}" + (f", of epoch {of.kept_epoch}" if of.settings.patience else "")),
                ("model card", f"{of.checkpoint}.md"),
                ("model", f"{of.settings.arch}, {of.parameters:,} parameters, {of.settings.input_size} px"),
                (
                    "pictures",
                    f"{of.train_pictures:,} to train on, {of.validation_pictures:,} held out, {len(of.classes)} classes",
                ),
                *([("ten crops", words.percent(of.ten_crop_accuracy))] if of.ten_crop_accuracy is not None else []),
                ("time", words.seconds(of.seconds)),
            ],
        )
        if of.unreadable:
            left_out = words.count(len(of.unreadable), "picture")
            terminal.lines(console, [f"{left_out} could not be read and were left out:", *of.unreadable[:5]], style="yellow")

    return show


def training_page(of: TrainReport, found: Diagnosis, pictures: PictureSet) -> str:
    """The HTML of `train --html`: how loss and accuracy went, what is confused with what, and with which settings.

    Args:
        of: the training.
        found: how its checkpoint does on the validation pictures.
        pictures: these; the worst mistakes are shown.
    """
    last = of.history[of.kept_epoch - 1]
    best = max(of.history, key=lambda record: record.validation_accuracy)
    tiles = html.tiles(
        [
            Tile(
                words.rate(found.top1),
                "accuracy on held-out pictures",
                f"95 %: {words.interval(found.top1.interval)}; best epoch: {best.epoch}",
            ),
            Tile(words.percent(last.train_accuracy), "accuracy in training", "with augmentation and dropout"),
            Tile(f"{of.parameters:,}", "parameters", of.checkpoint.name),
            Tile(words.seconds(of.seconds), words.count(len(of.history), "epoch")),
        ]
    )
    epochs = [float(record.epoch) for record in of.history]
    losses = [
        Series("training", [record.train_loss for record in of.history], epochs, colour=0),
        Series("held out", [record.validation_loss for record in of.history], epochs, colour=1),
    ]
    accuracies = [
        Series("training", [100 * record.train_accuracy for record in of.history], epochs, colour=0),
        Series("held out", [100 * record.validation_accuracy for record in of.history], epochs, colour=1),
    ]
    drawn = html.figures(
        html.figure(plots.lines("Loss", losses, x_label="epoch", logarithmic=False), "Loss", plots.legend(losses)),
        html.figure(
            plots.lines("Accuracy", accuracies, x_label="epoch", tick="{:g} %".format, logarithmic=False),
            "Accuracy",
            plots.legend(accuracies),
        ),
    )
    rows = [
        [
            str(record.epoch),
            f"{record.train_loss:.4f}",
            words.percent(record.train_accuracy),
            f"{record.validation_loss:.4f}",
            words.percent(record.validation_accuracy),
            f"{record.learning_rate:.2g}",
            words.per_second(record.pictures_per_second),
        ]
        for record in of.history
    ]
    columns = ["epoch", ">train loss", ">accuracy", ">held-out loss", ">accuracy", ">learning rate", ">pictures/s"]
    table = html.table("Every epoch.", columns, rows, key=4)
    settings = html.facts(
        [(name.replace("_", " "), _setting(value)) for name, value in asdict(of.settings).items() if value != ""]
    )
    classes, others = words.count(len(of.classes), "class", "classes"), words.count(of.validation_pictures, "other", "others")
    lead = f"{of.settings.arch} on {words.count(of.train_pictures, 'picture')} of {classes}, measured on {others}."
    sections = [
        Section("Progress", html.join(drawn, html.details("Figures", table))),
        _classes(found),
        *_mistakes(found, pictures),
        Section("Settings", settings),
    ]
    opening = html.join(tiles, html.notice(of.unreadable[:5]))
    return html.page("Training", lead, sections, opening=opening, footer=words.machine(Machine.here()))


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _classes(found: Diagnosis) -> Section:
    """Accuracy class by class, and what is taken for what."""
    often: dict[str, str] = {}
    for truth, said, count in found.confusions():
        often.setdefault(truth, f"{said} ({count:,})")
    rows = [
        [
            name,
            f"{recall.total:,}" if recall else "0",
            words.percent(recall.fraction) if recall else "–",
            words.interval(recall.interval) if recall else "–",
            often.get(name, "–"),
        ]
        for name, recall in ((name, found.recall(label)) for label, name in enumerate(found.classes))
    ]
    columns = ["class", ">pictures", ">recognised", ">95 % interval", "most often taken for"]
    table = html.table("Every class, on held-out pictures.", columns, rows, key=2)
    if len(found.classes) <= _MOST_DRAWN_CLASSES:
        drawing = plots.confusion("Confusion matrix", found.classes, found.confusion)
        caption = "Rows: what a picture is. Columns: what it was taken for, by the rows' numbers."
        return Section("Classes", html.join(html.figure(drawing, caption), table))
    frequent = [[truth, said, f"{count:,}"] for truth, said, count in found.confusions()[:_MOST_CONFUSIONS]]
    confusions = html.table("The most frequent confusions.", ["class", "taken for", ">pictures"], frequent, key=2)
    return Section("Classes", html.join(confusions, html.details("Every class", table)))


def _mistakes(found: Diagnosis, pictures: PictureSet) -> list[Section]:
    if not found.mistakes:
        return []
    intro = html.paragraph("Wrong answers on held-out pictures; those whose class seemed least probable come first.")
    items = [_mistake(mistake, pictures) for mistake in found.mistakes]
    return [Section("Worst mistakes", html.join(intro, html.tag("ul", *items, class_="gallery")))]


def _mistake(mistake: Mistake, pictures: PictureSet) -> html.Markup:
    return html.tag(
        "li",
        html.thumbnail(pictures.picture(mistake.index), f"{mistake.name}, {mistake.truth}"),
        html.tag("span", f"{mistake.said} {words.percent(mistake.probability, 0)}", class_="bad"),
        html.tag("span", f"is {mistake.truth} {words.percent(mistake.truth_probability, 0)}", class_="dim"),
    )
