"""alexnet-deploy verify: do these artifacts still answer like the reference?"""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, html_option, progress_bars
from alexnet_deploy.cli.preprocess_options import PreprocessOptions, open_or_adopt, preprocess_options
from alexnet_deploy.cli.units import BATCH


@click.command(cls=Command, short_help="Compare artifacts with a reference; exit code 1 when a gate is missed.")
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidates", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--data", metavar="DIR|demo:test", help="Labelled pictures.  [those held out in training]")
@click.option("--max-drop", type=float, metavar="POINTS", help="Gate: most points of top-1 accuracy that may be lost.")
@click.option("--min-agreement", type=float, metavar="PERCENT", help="Gate: least share of answers equal to the reference's.")
@click.option("--max-error", type=float, metavar="RATIO", help="Gate: largest logit error, relative to the largest logit.")
@click.option("--count", type=click.IntRange(min=1), help="Only so many pictures, spread over the classes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the choice of --count pictures.")
@click.option("--batch-size", type=BATCH, default=32, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--backend", help="Run the candidates on this backend instead of the one that suits them best.")
@click.option("--classes", "per_class", is_flag=True, help="Show the accuracy of each class too.")
@click.option("--layers", is_flag=True, help="Where the error arises: each layer's output, ONNX against ONNX.")
@preprocess_options
@html_option
def command(
    reference: Path,
    candidates: tuple[Path, ...],
    data: str | None,
    max_drop: float | None,
    min_agreement: float | None,
    max_error: float | None,
    count: int | None,
    seed: int,
    batch_size: int,
    device: str,
    backend: str | None,
    per_class: bool,
    layers: bool,
    page: Path | None,
    pictures_as: PreprocessOptions,
) -> Result:
    """Compare CANDIDATES with REFERENCE on the same pictures.

    Accuracy of both, top-1 agreement, the error of the logits, and how sure a drop is. Exit code 1 when a gate is missed.
    A REFERENCE that somebody else made is taken with --preset, or --mean, --std and so on: how it wants its pictures.

    \b
    Example:
      alexnet-deploy verify models/alexnet.safetensors models/alexnet.int8.plan \\
        --data photos/val --min-agreement 99 --max-drop 0.5 --html verify.html
    """
    from contextlib import ExitStack
    from dataclasses import replace

    from alexnet_deploy.cli.data import held_out
    from alexnet_deploy.layer_error import compare_layers
    from alexnet_deploy.parity import verify_all
    from alexnet_deploy.parity_report import Gates
    from alexnet_deploy.report import html
    from alexnet_deploy.report.parity import verification, verification_page
    from alexnet_deploy.runtime import Runtime

    gates = Gates(max_drop=max_drop, min_agreement=min_agreement, max_error=max_error)
    with ExitStack() as opened, progress_bars() as progress:
        first = opened.enter_context(Runtime(open_or_adopt(reference, pictures_as).path, device))
        others = [opened.enter_context(Runtime(path, device, backend)) for path in candidates]
        pictures = held_out(data, first.manifest)
        if count is not None:
            pictures = pictures.sample(count, seed)
        found = verify_all(first, others, pictures, gates, batch_size=batch_size, progress=progress)
        if layers:
            found = replace(found, layers=compare_layers(first, others, pictures, progress))
    if page is not None:
        html.write(page, verification_page(found, pictures))
    return Result(found, verification(found, per_class=per_class), found.missed)
