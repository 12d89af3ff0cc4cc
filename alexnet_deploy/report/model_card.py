"""The model card: what a checkpoint is, what it learnt from, how well it does and where nobody knows, in Markdown.

After Mitchell et al. 2019, Model Cards for Model Reporting (arXiv:1810.03993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING

from alexnet_deploy import __version__
from alexnet_deploy.artifact import Artifact
from alexnet_deploy.machine import Machine
from alexnet_deploy.report import words

if TYPE_CHECKING:
    from alexnet_deploy.diagnosis import Diagnosis
    from training.records import TrainReport

_MOST_CLASSES = 20
_WEAKEST = 5


def model_card(of: TrainReport, artifact: Artifact, found: Diagnosis) -> str:
    """The text beside the checkpoint.

    Args:
        of: how it was trained.
        artifact: the checkpoint.
        found: how it does on the validation pictures.
    """
    blocks = [
        f"# {artifact.path.stem}",
        f"An image classifier: {of.settings.arch} of width {of.settings.width:g}, {words.count(of.parameters, 'parameter')}, "
        f"for {len(found.classes)} classes.",
        *_interface(of, artifact, found),
        *_data(of, artifact, found),
        *_figures(of, found),
        *_recipe(of, artifact),
        "## What is not known",
        _list(
            [
                "How it does on pictures of another origin, and on what is none of its classes: it names one all the same.",
                "Whether its mistakes fall on some groups of people or places more than on others: nobody has measured it.",
            ]
        ),
        "## Use",
        f"```python\nfrom alexnet_deploy import Runtime\n\nwith Runtime({artifact.path.name!r}) as runtime:\n"
        '    print(runtime.classify("picture.jpg"))\n```',
        f"Written by alexnet-deploy {__version__} on {date.today().isoformat()}.",
    ]
    return "\n\n".join(blocks) + "\n"


def _interface(of: TrainReport, artifact: Artifact, found: Diagnosis) -> list[str]:
    named = ", ".join(found.classes[:_MOST_CLASSES])
    more = len(found.classes) - _MOST_CLASSES
    size = of.settings.input_size
    return [
        "## Input and output",
        _list(
            [
                f"Takes pictures of {size}x{size} pixels; the manifest beside it says how they are prepared.",
                f"Gives {artifact.manifest.output_kind} of {named}" + (f" and {more} more." if more > 0 else "."),
            ]
        ),
    ]


def _data(of: TrainReport, artifact: Artifact, found: Diagnosis) -> list[str]:
    pictures = artifact.manifest.pictures
    known = f"`{pictures.location}`, SHA-256 `{pictures.sha256[:12]}…`" if pictures else f"`{of.settings.data}`"
    built_in = of.settings.data.partition(":")[0] == "demo"
    licence = of.settings.data_licence or ("MIT (Fashion-MNIST)" if built_in else "unknown; `--data-licence` was not given")
    sentences = [
        f"Trained on {words.count(of.train_pictures, 'picture')} of {known}.",
        f"Measured on {words.count(of.validation_pictures, 'other', 'others')} of `{found.location}`.",
        f"Licence of the data: {licence}.",
    ]
    if of.unreadable:
        sentences.append(f"{words.count(len(of.unreadable), 'picture')} could not be read and were left out.")
    return ["## Data", _list(sentences)]


def _figures(of: TrainReport, found: Diagnosis) -> list[str]:
    measured = (("top-1", found.top1), ("top-5", found.top5))
    rows = [[name, words.rate(of), words.interval(of.interval)] for name, of in measured if of is not None]
    if of.ten_crop_accuracy is not None:
        rows.append(["top-1 over ten crops", words.percent(of.ten_crop_accuracy), ""])
    rows.append(["loss", f"{of.history[of.kept_epoch - 1].validation_loss:.4f}", ""])
    known = [(recall, name) for label, name in enumerate(found.classes) if (recall := found.recall(label)) is not None]
    weakest = [
        [name, f"{recall.total:,}", words.percent(recall.fraction), words.interval(recall.interval)]
        for recall, name in sorted(known, key=lambda one: one[0].fraction)[:_WEAKEST]
    ]
    flattered = " The epoch was chosen by these very pictures: the figures are a little too good." if of.settings.patience else ""
    return [
        "## Figures",
        f"On {found.top1.total:,} held-out pictures.{flattered}",
        _table(["figure", "value", "95 % interval"], rows),
        "The weakest classes:",
        _table(["class", "pictures", "recognised", "95 % interval"], weakest),
    ]


def _recipe(of: TrainReport, artifact: Artifact) -> list[str]:
    settings = [[name.replace("_", " "), str(value)] for name, value in asdict(of.settings).items() if value != ""]
    made_from = [f"Made from `{parent.file}`, SHA-256 `{parent.sha256[:12]}…`." for parent in artifact.manifest.parents]
    return [
        "## Recipe",
        f"{words.count(len(of.history), 'epoch')} in {words.seconds(of.seconds)}. {words.machine(Machine.here())}",
        *made_from,
        _table(["setting", "value"], settings),
    ]


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
