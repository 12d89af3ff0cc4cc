"""`alexnet-deploy predict`: classify pictures with any artifact."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, progress_bars


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE|DIR|demo...")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes to name for each picture.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--backend", help="onnxruntime, openvino, ...  [what fits the artifact]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [the backend's choice]")
@click.option("--batch", type=click.IntRange(min=1), help="Pictures in one call.  [the artifact's favourite]")
def command(
    artifact: Path, pictures: tuple[str, ...], top: int, device: str, backend: str | None, threads: int | None, batch: int | None
) -> Result:
    """Classify pictures: files, folders, or the demo set.

    A picture that cannot be read is reported and does not stop the rest; the exit code is 2 then.

    \b
    Example:
      alexnet-deploy predict models/alexnet.int8.plan cat.jpg holidays/ --top 3
      alexnet-deploy predict models/alexnet.onnx demo:test --json
    """
    from alexnet_deploy.predictions import collect, predict_pictures
    from alexnet_deploy.report.predictions import predictions
    from alexnet_deploy.runtime import Runtime

    named = collect(pictures)
    with Runtime(artifact, device, backend, threads=threads) as runtime, progress_bars() as progress:
        report = predict_pictures(runtime, named, top=top, batch_size=batch, progress=progress)
    return Result(report, predictions(report), failed=report.failures)
