"""`alexnet-deploy tune`: the right engine for this machine."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, html_option, progress_bars
from alexnet_deploy.cli.units import BATCH, SECONDS, Number


@click.command(cls=Command, short_help="The fastest way to run a model on this machine, kept for Runtime.")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ARTIFACT...")
@click.option("--batch", default=1, show_default=True, type=BATCH, help="Pictures in a call.")
@click.option("--max-latency", type=SECONDS, metavar="5ms", help="Of the median call.")
@click.option("--max-drop", type=Number(min=0), help="Of top-1 accuracy, in percentage points.")
@click.option("--data", metavar="DIR|demo", help="Pictures to compare on.  [those held out in training]")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=1), help="Pictures to compare.")
@click.option("--calib", metavar="DIR|demo", help="Pictures to fit thinner layers to.  [what it was trained on]")
@click.option("--reference", type=click.Path(path_type=Path), help="What accuracy is compared with.  [the first ARTIFACT]")
@click.option(
    "--four-bit/--no-four-bit",
    default=True,
    show_default=True,
    help="Try INT8 graphs with 4-bit weights in their fully connected layers as well.",
)
@click.option("--seconds", default=0.5, show_default=True, type=Number(min=0, min_open=True), help="For each timing.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Copy the file that won here.")
@html_option
def command(
    artifacts: tuple[Path, ...],
    batch: int,
    max_latency: float | None,
    max_drop: float | None,
    data: str | None,
    limit: int,
    calib: str | None,
    reference: Path | None,
    four_bit: bool,
    seconds: float,
    output: Path | None,
    page: Path | None,
) -> Result:
    """Measure every backend, precision and thread count there is, and keep the fastest that holds both budgets.

    Name several forms of one model. INT8 graphs for the CPU are tried with 4-bit weights as well; FP32 graphs, where --max-drop
    holds them to their answers, with wide layers and convolutions as two thin ones in INT8. The choice is stored in the
    manifest of the file that won, and Runtime follows it on machines with this CPU.

    \b
    Example:
      alexnet-deploy tune models/alexnet.onnx models/alexnet.int8.cpu.onnx --max-latency 5ms --max-drop 0.5 --data demo:test
    """
    from contextlib import nullcontext, suppress

    from alexnet_deploy.artifact import Artifact
    from alexnet_deploy.cli.data import held_out
    from alexnet_deploy.engine import training_pictures
    from alexnet_deploy.errors import CalibrationError, DataError
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.report import html
    from alexnet_deploy.report import tune as report
    from alexnet_deploy.tune import tune

    opened = [Artifact.open(path) for path in artifacts]
    pictures = None
    with suppress(DataError) if data is None and max_drop is None else nullcontext():  # speed alone can be tuned anywhere
        pictures = held_out(data, opened[0].manifest).sample(limit)
    calibration = None
    if calib is not None:
        calibration = PictureSet.open_training(calib)
    elif max_drop is not None:
        with suppress(DataError, CalibrationError):  # without them there are fewer ways to try
            calibration = training_pictures(opened[0])
    with progress_bars() as progress:
        found = tune(
            opened,
            batch=batch,
            max_latency_ms=None if max_latency is None else 1000 * max_latency,
            max_drop=max_drop,
            pictures=pictures,
            reference=Artifact.open(reference) if reference else None,
            calibration=calibration,
            four_bit=four_bit,
            seconds=seconds,
            output=output,
            progress=progress,
        )
    if page is not None:
        html.write(page, report.tune_page(found))
    return Result(found, report.tune(found), found.missed)
