"""`alexnet-deploy score`: any number of pictures into Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, latest, progress_bars
from alexnet_deploy.cli.units import BATCH
from alexnet_deploy.errors import ArtifactMissing


@click.command(cls=Command)
@click.argument("source", metavar="INPUT")
@click.argument("output", metavar="OUTPUT")
@click.option("-m", "--model", type=click.Path(path_type=Path), help="The artifact.  [the newest plan or ONNX graph in models/]")
@click.option("--shard-size", default=1000, show_default=True, type=click.IntRange(1), help="Pictures in one part of the output.")
@click.option("--picture-column", default="", help="Of Parquet input: the column of picture files.  [found by its usual names]")
@click.option("--name-column", default="", help="Of Parquet input: what a picture is called.  [found by its usual names]")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--backend", help="onnxruntime, openvino, ...  [what fits the artifact]")
@click.option("--batch", type=BATCH, help="Pictures in one call.  [the artifact's favourite]")
@click.option("--threads", type=click.IntRange(1), help="That read and decode.  [one a core]")
@click.option("--ray", "ray_workers", default=0, metavar="N", type=click.IntRange(0), help="On Ray, with N Runtimes.")
@click.option("--ray-address", help="Of a Ray cluster.  [Ray on this machine]")
def command(
    source: str,
    output: str,
    model: Path | None,
    shard_size: int,
    picture_column: str,
    name_column: str,
    device: str,
    backend: str | None,
    batch: int | None,
    threads: int | None,
    ray_workers: int,
    ray_address: str | None,
) -> Result:
    """Classify any number of pictures, into Parquet with picture, label, class, probability and model.

    INPUT is a folder, a glob, a list of files (.txt), Parquet with picture files in a column, tars, a set such as
    cifar-10:test, or a URL (s3://, gs://, ... through fsspec). OUTPUT is a folder or its URL. Pictures that cannot be read go
    to OUTPUT/_rejects with the reason. A run that was stopped, however it was, goes on where it was when the same command is
    given again.

    \b
    Example:
      alexnet-deploy score photos/ scores/ -m models/alexnet.int8.plan
      alexnet-deploy score s3://bucket/photos.parquet s3://bucket/scores --ray 8 --ray-address auto
    """
    from alexnet_deploy.extras import extra

    with extra("score", "alexnet-deploy score"):
        from alexnet_deploy.report.score import scored
        from alexnet_deploy.score import score

    with progress_bars() as progress:
        report = score(
            model or _newest(),
            source,
            output,
            shard_size=shard_size,
            picture_column=picture_column,
            name_column=name_column,
            device=device,
            backend=backend,
            batch_size=batch,
            threads=threads,
            ray_workers=ray_workers,
            ray_address=ray_address,
            progress=progress,
        )
    return Result(report, scored(report))


def _newest() -> Path:
    """The newest engine, or else the newest graph."""
    try:
        return latest(".plan", None, "")
    except ArtifactMissing:
        return latest(".onnx", None, "alexnet-deploy export")
