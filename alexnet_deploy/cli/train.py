"""`alexnet-deploy train`: pictures to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from alexnet_deploy.cli.common import Command, Result, models_folder, note, progress_bars

ARCHITECTURES = ("alexnet", "alexnet-2012", "alexnet-caffe", "alexnet-bn", "alexnet-tutorial")  # --help imports no torch


@click.command(cls=Command)
@click.option("--data", metavar="DIR|demo", help="train/ and val/, or one folder a class; demo is built in. [default: demo]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Checkpoint to write. [default: models/alexnet.safetensors]"
)
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="Member of the family. [default: alexnet]")
@click.option("--weights", metavar="imagenet|FILE", help="Start from torchvision's published weights, a .pth or a .safetensors.")
@click.option("--freeze", type=click.Choice(["features"]), help="Train the fully connected layers alone.")
@click.option("--features-lr", type=float, help="Learning rate of the convolutions, as a share of the rest's.")
@click.option("--epochs", type=click.IntRange(min=1), help="How often each picture is seen.")
@click.option("--patience", type=click.IntRange(min=0), help="Stop after so many epochs without a better held-out accuracy.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures a step.")
@click.option("--optimiser", type=click.Choice(["sgd", "adamw"]), help="AdamW, or SGD with Nesterov momentum.")
@click.option("--lr", type=float, help="Learning rate at its peak: it warms up to it, then falls to zero.")
@click.option("--weight-decay", type=float, help="Pull of the weights towards zero.")
@click.option("--label-smoothing", type=float, help="Share of each target that is spread over all classes.")
@click.option("--width", type=float, help="Scales every layer; 1 is the published network.")
@click.option("--dropout", type=float, help="Probability that a unit of the fully connected layers is left out of a step.")
@click.option("--input-size", type=click.IntRange(min=63), help="Height and width of the input in pixels.")
@click.option("--framing", type=click.Choice(["centre", "whole"]), help="Crop the centre of a photo, or scale it whole.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed gives the same weights, bit for bit.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--save-seconds", type=float, default=60, show_default=True, help="How often a long epoch saves its state.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training of this output, with its settings.")
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write a report with plots as well.")
def command(
    output: Path | None, device: str, save_seconds: float, resume: bool, freeze: str | None, page: Path | None, **options: Any
) -> Result:
    """Train an AlexNet on a folder of pictures, or on the demo data.

    A folder without val/ has a tenth of each class held out. Ctrl-C and kill leave a state that --resume continues from,
    as if nothing had happened. What is not given has the default of the data: modest for the demo, the published network for
    a folder.

    \b
    Example:
      alexnet-deploy train --data photos -o models/photos.safetensors --epochs 60
      alexnet-deploy train --data photos --weights imagenet --freeze features
      alexnet-deploy train --resume -o models/photos.safetensors
    """
    from dataclasses import replace

    from alexnet_deploy.errors import AlexnetDeployError
    from alexnet_deploy.report import html
    from alexnet_deploy.report.training import training, training_page

    try:
        from training import state
        from training.family import FAMILY
        from training.train import TrainSettings, demo_settings, interrupted_settings, train
    except ImportError as error:
        raise AlexnetDeployError(
            f"training needs PyTorch ({error})",
            expected="the packages torch and safetensors",
            fix="pip install 'alexnet-deploy[train]'",
        ) from error

    output = output or models_folder() / "alexnet.safetensors"
    given = {name: value for name, value in options.items() if value is not None}
    if freeze:
        given["features_lr"] = 0.0
    if given.get("data", "demo") == "demo":
        fresh = demo_settings()
    else:
        fresh = TrainSettings(input_size=FAMILY[given.get("arch", "alexnet")].input_size)
    base = interrupted_settings(output) if resume else fresh
    with progress_bars() as progress:
        try:
            settings = replace(base, **given)
            report = train(settings, output, resume=resume, device=device, save_seconds=save_seconds, progress=progress)
        except (KeyboardInterrupt, SystemExit):
            if state.state_path(output).is_file():
                note(f"to go on where this was stopped: alexnet-deploy train --resume -o {output}")
            raise
    if page is not None:
        html.write(page, training_page(report))
    return Result(report, training(report))
