"""alexnet-deploy bench: how fast are these artifacts here?"""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, html_option, progress_bars
from alexnet_deploy.cli.units import Number


def _batches(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers such as 1,8,32") from None
    if min(batches) < 1:
        raise click.BadParameter("a batch size is 1 or more")
    return batches


@click.command(cls=Command, short_help="Latency and throughput of artifacts, side by side.")
@click.argument("artifacts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--batch", "batches", callback=_batches, default="1,8,32", show_default=True, metavar="N,N,...", help="Batch sizes."
)
@click.option("--seconds", type=Number(min=0, min_open=True), default=2.0, show_default=True, help="For each artifact and batch.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--backend", help="Run all on this backend instead of the one that suits each best.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads in one call.")
@html_option
def command(
    artifacts: tuple[Path, ...],
    batches: tuple[int, ...],
    seconds: float,
    device: str,
    backend: str | None,
    threads: int | None,
    page: Path | None,
) -> Result:
    """Time ARTIFACTS in turns: p50, p90 and p99 of a call, images a second, and the speed-up against the first.

    What is timed is a call of Runtime on a preprocessed batch in memory.

    \b
    Example:
      alexnet-deploy bench models/alexnet.onnx models/alexnet.int8.plan --batch 1,8,32
    """
    from contextlib import ExitStack

    from alexnet_deploy.benchmark import benchmark
    from alexnet_deploy.report import benchmark as report
    from alexnet_deploy.report import html
    from alexnet_deploy.runtime import Runtime

    with ExitStack() as opened, progress_bars() as progress:
        runtimes = [opened.enter_context(Runtime(path, device, backend, threads=threads)) for path in artifacts]
        found = benchmark(runtimes, batches, seconds=seconds, threads=threads, progress=progress)
    if page is not None:
        html.write(page, report.benchmark_page(found))
    return Result(found, report.benchmark(found))
