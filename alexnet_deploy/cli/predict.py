"""`alexnet-deploy predict`: classify pictures with any artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, as_json, progress_bars
from alexnet_deploy.cli.units import BATCH


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE|DIR|GLOB|@LIST|-|demo...")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes to name for each picture.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--backend", help="onnxruntime, openvino, ...  [what fits the artifact]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [the backend's choice]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.csv|.jsonl|.parquet", help="Write here."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "jsonl"]), default="table", show_default=True, help="On stdout."
)
@click.option("--batch", type=BATCH, help="Pictures in one call.  [the artifact's favourite]")
def command(
    artifact: Path,
    pictures: tuple[str, ...],
    top: int,
    device: str,
    backend: str | None,
    threads: int | None,
    output: Path | None,
    form: str,
    batch: int | None,
) -> Result:
    """Classify pictures: files, folders, patterns, @lists of files, names on stdin (-), or the demo set.

    A picture that cannot be read is reported and does not stop the rest; the exit code is 2 then. CSV, JSON lines and
    Parquet are written while pictures come, however many.

    \b
    Example:
      alexnet-deploy predict models/alexnet.int8.plan cat.jpg holidays/ --top 3
      alexnet-deploy predict models/alexnet.onnx demo:test --json
      alexnet-deploy predict models/alexnet.onnx 'holidays/**/*.jpg' -o holidays.parquet
      find / -name '*.jpg' | alexnet-deploy predict models/alexnet.onnx - --format jsonl
    """
    from alexnet_deploy.cli.streams import answering
    from alexnet_deploy.prediction_files import as_object, write_file, write_rows
    from alexnet_deploy.predictions import PicturePrediction, collect, predict_each, predict_pictures
    from alexnet_deploy.report.predictions import predictions, written
    from alexnet_deploy.runtime import Runtime

    if form != "table" and output is None and as_json():
        raise click.UsageError(f"--json and --format {form} are two answers, and there is one stdout.")
    with Runtime(artifact, device, backend, threads=threads) as runtime:
        top = min(top, runtime.manifest.classes or top)
        if output is None and form == "table":
            named = list(collect(pictures))
            with progress_bars() as progress:
                report = predict_pictures(runtime, named, top=top, batch_size=batch, progress=progress)
            data = {"ran": report.ran, "pictures": [as_object(each) for each in report.pictures], "seconds": report.seconds}
            return Result(data, predictions(report), failed=report.failures)
        failures: list[str] = []
        count = 0

        def noting() -> Iterator[PicturePrediction]:
            nonlocal count
            for prediction in predict_each(runtime, collect(pictures), top=top, batch_size=batch):
                count += 1
                if prediction.error:
                    failures.append(prediction.error)
                yield prediction

        if output is not None:
            write_file(output, top, noting())
        else:
            with answering() as out:
                write_rows(out, form, top, noting())
    summary = {"pictures": count, "failed": len(failures), "output": str(output) if output else None}
    return Result(summary, written(count, output), failed=tuple(failures))
