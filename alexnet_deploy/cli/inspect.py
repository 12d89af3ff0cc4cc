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
def command(artifact: Path, svg: Path | None) -> Result:
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
    if svg is not None:
        _draw(found, svg)
    return Result(found, inspected(found))


def _draw(found: Inspection, target: Path) -> None:
    from alexnet_deploy.errors import InputError
    from alexnet_deploy.manifest import replacing
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
