"""`alexnet-deploy triton-repo`: artifacts as a model repository for Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from alexnet_deploy.cli.common import Command, Result
from alexnet_deploy.cli.units import SECONDS


@click.command(cls=Command, name="triton-repo")
@click.argument("artifacts", nargs=-1, required=True, metavar="[NAME=]ARTIFACT...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="The repository's folder.")
@click.option("--instances", default=1, show_default=True, type=click.IntRange(1), help="Executions of a model at once.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "gpu"]), help="Where graphs run.")
@click.option("--max-delay", default="2ms", show_default=True, type=SECONDS, help="How long Triton waits for a batch to fill.")
@click.option("--pixels", is_flag=True, help="Also an ensemble that takes uint8 pictures, cropped to the network's size.")
@click.option("--image", default="", help="The container that will serve it.  [the newest that is known to read the plans]")
def command(
    artifacts: tuple[str, ...],
    output: Path,
    instances: int,
    device: Literal["auto", "cpu", "gpu"],
    max_delay: float,
    pixels: bool,
    image: str,
) -> Result:
    """Write a model repository for NVIDIA's Triton Inference Server.

    Plans of TensorRT (not those of TensorRT for RTX, which Triton does not have) and ONNX graphs, with dynamic batching,
    warm-up and labels; prints the docker command of a container that reads them.

    \b
    Example:
      alexnet-deploy triton-repo models/alexnet.onnx -o repository --pixels
      alexnet-deploy triton-repo fast=models/alexnet.int8.plan exact=models/alexnet.onnx -o repository
    """
    from alexnet_deploy.report.triton import triton
    from alexnet_deploy.triton import write_repository

    report = write_repository(
        artifacts, output, instances=instances, device=device, max_delay_us=round(max_delay * 1e6), pixels=pixels, image=image
    )
    return Result(report, triton(report))
