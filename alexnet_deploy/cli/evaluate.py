"""`alexnet-deploy evaluate`: the accuracy of one artifact."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, progress_bars
from alexnet_deploy.cli.units import BATCH


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR|demo:test", help="Labelled pictures.  [those held out in training]")
@click.option("--count", type=click.IntRange(min=1), help="Only so many pictures, spread over the classes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the choice of --count pictures.")
@click.option("--batch-size", type=BATCH, default=32, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--backend", help="Run it on this backend instead of the one that suits it best.")
def command(
    artifact: Path, data: str | None, count: int | None, seed: int, batch_size: int, device: str, backend: str | None
) -> Result:
    """Accuracy of a checkpoint, an ONNX graph or an engine on labelled pictures, class by class.

    \b
    Example:
      alexnet-deploy evaluate models/alexnet.safetensors --data photos/val
      alexnet-deploy evaluate models/alexnet.int8.plan
    """
    from alexnet_deploy.cli.data import held_out
    from alexnet_deploy.parity import evaluate
    from alexnet_deploy.report.parity import evaluation
    from alexnet_deploy.runtime import Runtime

    with Runtime(artifact, device, backend) as runtime, progress_bars() as progress:
        pictures = held_out(data, runtime.manifest)
        if count is not None:
            pictures = pictures.sample(count, seed)
        found = evaluate(runtime, pictures, batch_size=batch_size, progress=progress)
    return Result(found, evaluation(found))
