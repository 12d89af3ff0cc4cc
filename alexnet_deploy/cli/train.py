"""`alexnet-deploy train`: pictures to a checkpoint."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from alexnet_deploy.cli.after_training import Watchers, describe
from alexnet_deploy.cli.common import Command, Result, html_option, models_folder, note, progress_bars
from alexnet_deploy.cli.family import ARCHITECTURES
from alexnet_deploy.cli.qat import check_weights, ranges_of
from alexnet_deploy.cli.units import BATCH, Number

if TYPE_CHECKING:
    from training.records import EpochRecord, Watcher
    from training.settings import TrainSettings

RECIPES = ("modern", "paper")


@click.command(cls=Command)
@click.option("--data", metavar="DIR|demo", help="train/ and val/, or one folder a class; demo is built in. [default: demo]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Checkpoint to write. [default: models/alexnet.safetensors]"
)
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="Member of the family. [default: alexnet]")
@click.option(
    "--recipe", type=click.Choice(RECIPES), help="How to train: today's best, or the paper's of 2012. [default: modern]"
)
@click.option(
    "--weights",
    metavar="imagenet|FILE",
    help="Start from torchvision's published weights, or a .pth, .safetensors, .caffemodel or .onnx.",
)
@click.option("--freeze", type=click.Choice(["features"]), help="Train the fully connected layers alone.")
@click.option("--features-lr", type=float, help="Learning rate of the convolutions, as a share of the rest's.")
@click.option("--layer-decay", type=float, help="Learning rate of each layer, as a share of the next one's.")
@click.option("--qat", is_flag=True, help="Train --weights on, rounding as the INT8 engine will.")
@click.option("--epochs", type=click.IntRange(min=1), help="How often each picture is seen.")
@click.option("--patience", type=click.IntRange(min=0), help="Stop after so many epochs without a better held-out accuracy.")
@click.option("--batch-size", type=BATCH, help="Pictures a step.")
@click.option("--optimiser", type=click.Choice(["sgd", "adamw"]), help="AdamW, or SGD with Nesterov momentum.")
@click.option("--lr", type=float, help="Learning rate at its peak.")
@click.option("--schedule", type=click.Choice(["cosine", "step"]), help="How it falls: along a cosine, or tenfold three times.")
@click.option("--weight-decay", type=float, help="Pull of the weights towards zero.")
@click.option("--label-smoothing", type=float, help="Share of each target that is spread over all classes.")
@click.option("--mixup", type=float, help="How strongly pairs of pictures are mixed; 0: not at all.")
@click.option("--ema", type=float, help="Decay of the weights' moving average, which is kept; 0 keeps the weights themselves.")
@click.option("--augment", "policy", type=click.Choice(["none", "trivial"]), help="Change each picture in one way of fourteen.")
@click.option("--crop", type=float, help="Smallest share of a picture's area that a random crop keeps; 1: crops only move.")
@click.option("--erase", type=float, help="How often a square of a picture is covered.")
@click.option("--flip/--no-flip", default=None, help="Mirror pictures left and right, half of the time.")
@click.option("--classes", type=click.IntRange(min=2), help="How many the pictures must have. [default: as many as there are]")
@click.option("--width", type=float, help="Scales every layer; 1 is the published network.")
@click.option("--dropout", type=float, help="Probability that a unit of the fully connected layers is left out of a step.")
@click.option("--input-size", type=click.IntRange(min=63), help="Height and width of the input in pixels.")
@click.option("--framing", type=click.Choice(["centre", "whole"]), help="Crop the centre of a photo, or scale it whole.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed gives the same weights, bit for bit.")
@click.option(
    "--fast-paths",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="Try first which of the next three is fastest here, where a training takes minutes; each that is given stays.",
)
@click.option("--layout", type=click.Choice(["nhwc", "nchw"]), help="Order of pictures and weights in memory while training.")
@click.option("--arithmetic", type=click.Choice(["fp32", "bf16"]), help="What the network computes in while it trains.")
@click.option("--compiled/--eager", default=None, help="Compile the step first: minutes once, for some percent of speed.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--save-seconds", type=Number(min=0), default=60, show_default=True, help="How often a long epoch saves its state.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted training of this output, with its settings.")
@click.option("--validation", metavar="DIR", help="Held-out pictures, where they are not beside the others.")
@click.option("--data-licence", metavar="TEXT", help="Licence of the pictures, for the model card.")
@click.option("--log-dir", type=click.Path(path_type=Path), metavar="DIR", help="Write curves for TensorBoard there.")
@html_option
def command(
    output: Path | None,
    device: str,
    save_seconds: float,
    resume: bool,
    recipe: str | None,
    freeze: str | None,
    qat: bool,
    fast_paths: str,
    log_dir: Path | None,
    page: Path | None,
    **options: Any,
) -> Result:
    """Train an AlexNet on a folder of pictures, or on the demo data.

    A folder without val/ has a tenth of each class held out. CIFAR's binaries, IDX files, ImageNet's archives and WebDataset
    shards are read as they are. A model card is written beside the checkpoint.

    Ctrl-C and kill leave a state that --resume continues from, as if nothing had happened. What is not given has the default
    of the recipe; the demo has a quick one of its own.

    \b
    Example:
      alexnet-deploy train --data photos -o models/photos.safetensors --epochs 60
      alexnet-deploy train --data photos --weights imagenet --freeze features
      alexnet-deploy train --resume -o models/photos.safetensors
      torchrun --nproc-per-node 2 -m training --data photos
    """
    from alexnet_deploy.extras import extra
    from alexnet_deploy.report.training import training

    with extra("train", "training"):
        from training import distributed, state
        from training.train import interrupted_settings, train

    output = output or models_folder() / "alexnet.safetensors"
    given = {name: value for name, value in options.items() if value is not None}
    if freeze:
        given["features_lr"] = 0.0
    resume = resume or (distributed.was_restarted() and state.state_path(output).is_file())
    if qat and not resume:
        check_weights(given.get("weights"))
    settings = replace(interrupted_settings(output), **given) if resume else _settings(given, _typed(), "qat" if qat else recipe)
    if not distributed.leads():  # the first process speaks for all
        click.get_current_context().with_resource(redirect_stdout(io.StringIO()))
    curves = [_curves(log_dir)] if log_dir is not None and distributed.leads() else []
    with progress_bars() as progress:
        try:
            report = train(
                settings,
                output,
                resume=resume,
                device=device,
                save_seconds=save_seconds,
                progress=progress,
                watch=Watchers([EpochLines(settings.epochs), *curves]),
                ranges=ranges_of(settings.weights, settings.data, progress) if qat and not resume else None,
                fast_paths=fast_paths == "auto",
                fixed=given.keys() & {"layout", "arithmetic", "compiled"},
            )
        except (KeyboardInterrupt, SystemExit):
            if distributed.leads() and state.state_path(output).is_file():
                note(f"to go on where this was stopped: alexnet-deploy train --resume -o {output}")
            raise
        if distributed.leads():
            describe(report, page, device, progress)
    return Result(report, training(report))


def _curves(log_dir: Path) -> Watcher:
    from training.curves import Curves

    return Curves(log_dir)


def _typed() -> set[str]:
    """The options on the command line itself; the others that have a value stand in a settings file or the environment."""
    context = click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _settings(given: dict[str, Any], typed: set[str], recipe: str | None) -> TrainSettings:
    """Those of a new training. What is typed counts most, then the network of the checkpoint that it goes on from, then what the
    settings say, then the recipe."""
    from training.family import FAMILY
    from training.recipes import continued, with_recipe
    from training.settings import TrainSettings, demo_settings

    chosen = given | continued(given.get("weights", "")) | {name: value for name, value in given.items() if name in typed}
    if recipe is None and chosen.get("data", "demo") == "demo":
        return replace(demo_settings(), **chosen)
    arch = chosen.get("arch", "alexnet")
    known = {name: chosen[name] for name in ("width", "epochs") if name in chosen}  # which the recipe takes into account
    plain = TrainSettings(arch=arch, input_size=FAMILY[arch].input_size, **known)
    return replace(with_recipe(plain, recipe or "modern"), **chosen)


class EpochLines:
    """A training's Watcher that says one line an epoch on stderr, where that is no terminal to draw a bar on."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def step(self, step: int, loss: float, accuracy: float, learning_rate: float, pictures_per_second: float) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        if not sys.stderr.isatty():
            note(
                f"epoch {record.epoch} of {self._epochs}: loss {record.train_loss:.3f}, "
                f"held out {record.validation_loss:.3f} and {100 * record.validation_accuracy:.1f} %, "
                f"{record.pictures_per_second:,.0f} pictures/s"
            )
