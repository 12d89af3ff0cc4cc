"""`alexnet-deploy adopt`: somebody else's ONNX classifier becomes an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, models_folder
from alexnet_deploy.cli.preprocess_options import PreprocessOptions, adopt_with, preprocess_options


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact.  [models/<name>.adopted.onnx]")
@click.option(
    "--input",
    "input_dtype",
    type=click.Choice(["float", "uint8"]),
    default="float",
    show_default=True,
    help="uint8: the preprocessing becomes part of the graph, which then takes pixels (N, H, W, 3).",
)
@preprocess_options
def command(model: Path, output: Path | None, input_dtype: str, pictures_as: PreprocessOptions) -> Result:
    """Make an artifact of an ONNX classifier from elsewhere.

    The file itself stays as it is. A normalised copy (new opset, dynamic batch, weights as initialisers) is compared with
    it and written with a manifest. Every other command then takes it.

    \b
    Example:
      alexnet-deploy adopt resnet18.onnx --preset torchvision --resize 256 --labels imagenet.txt
      alexnet-deploy adopt bvlcalexnet.onnx --preset caffe --resize 256
    """
    from alexnet_deploy.report.export import adopted

    target = output or models_folder() / f"{model.stem}.adopted.onnx"
    artifact = adopt_with(model, pictures_as, target, pixels_in=input_dtype == "uint8")
    return Result(artifact, adopted(artifact))
