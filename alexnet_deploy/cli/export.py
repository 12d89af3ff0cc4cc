"""`alexnet-deploy export`: checkpoint to ONNX."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, latest, models_folder, progress_bars
from alexnet_deploy.cli.units import BATCH


@click.command(cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The ONNX file to write. [default: models/<name>.onnx]")
@click.option(
    "--input",
    "input_dtype",
    type=click.Choice(["float", "uint8"]),
    default="float",
    show_default=True,
    help="uint8: the preprocessing becomes part of the graph, which then takes pixels (N, H, W, 3).",
)
@click.option("--max-batch", type=BATCH, default=64, show_default=True, help="Largest batch to plan for.")
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX operator set.")
@click.option("--data", metavar="DIR", help="Pictures to compare on. [default: those it was trained on]")
def command(
    checkpoint: Path | None, output: Path | None, input_dtype: str, max_batch: int, opset: int, data: str | None
) -> Result:
    """Write a checkpoint as ONNX, compared with PyTorch before it is written.

    Takes the newest checkpoint in models/ when none is named.

    \b
    Example:
      alexnet-deploy export models/alexnet.safetensors -o models/alexnet.onnx
      alexnet-deploy export --input uint8
    """
    checkpoint = checkpoint or latest(".safetensors", None, fix="alexnet-deploy train")
    output = output or models_folder() / f"{checkpoint.stem}.onnx"

    from alexnet_deploy.export import export
    from alexnet_deploy.extras import extra
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.report.export import exported
    from alexnet_deploy.types import BatchRange

    with extra("train", "exporting"):
        from training import checkpoint as checkpoints
    with progress_bars() as progress:
        model, source = checkpoints.load(checkpoint)
        done = export(
            model,
            source,
            output,
            batch=BatchRange(1, min(8, max_batch), max_batch),
            input_dtype="uint8" if input_dtype == "uint8" else "float32",
            opset=opset,
            pictures=PictureSet.open(data) if data else None,
            progress=progress,
        )
    return Result(done, exported(done))
