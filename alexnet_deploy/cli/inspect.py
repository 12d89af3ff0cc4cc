"""`alexnet-deploy inspect`: what is in an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from alexnet_deploy.cli.common import Command, Result, note

if TYPE_CHECKING:
    from alexnet_deploy.inspection import Inspection


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the layers, to scale.")
@click.option("--layers", is_flag=True, help="Of a checkpoint: trace it, to tell shapes and multiply-adds. Needs PyTorch.")
def command(artifact: Path, svg: Path | None, layers: bool) -> Result:
    """Show what is in an artifact, without running it.

    Manifest, layers with their shapes, parameters, multiply-adds and precision, and the header of a plan. Files without a
    manifest are shown too.

    \b
    Example:
      alexnet-deploy inspect models/alexnet.int8.onnx
      alexnet-deploy inspect models/alexnet.onnx --svg alexnet.svg
      alexnet-deploy inspect models/alexnet.int8.plan --json
    """
    from alexnet_deploy.inspection import inspect
    from alexnet_deploy.report.inspection import inspected

    found = inspect(artifact)
    if found.kind == "checkpoint" and (layers or svg is not None):
        found = _traced(found)
    if svg is not None:
        _draw(found, svg)
    return Result(found, inspected(found))


def _traced(found: Inspection) -> Inspection:
    """With the graph that a checkpoint would be exported as."""
    from dataclasses import replace

    from alexnet_deploy.export import to_onnx
    from alexnet_deploy.extras import extra
    from alexnet_deploy.onnx_graph.statistics import statistics

    with extra("train", "tracing a checkpoint"):
        from training import checkpoint
    model, source = checkpoint.load(found.path)
    return replace(found, graph=statistics(to_onnx(model, (2, *source.manifest.preprocess.input_shape))))


def _draw(found: Inspection, target: Path) -> None:
    from alexnet_deploy.errors import InputError
    from alexnet_deploy.files import replacing
    from alexnet_deploy.report.architecture import architecture

    if found.graph is None:
        raise InputError(
            f"a {found.kind} does not tell the shapes of its layers",
            expected="an ONNX graph to draw",
            fix="alexnet-deploy export",
        )
    with replacing(target) as temporary:
        temporary.write_text(architecture(found.graph, found.path.name), "utf-8")
    note(f"drew {target}")
