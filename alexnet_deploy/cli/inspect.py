"""`alexnet-deploy inspect`: what is in an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
def command(artifact: Path) -> Result:
    """Show what is in an artifact, without running it.

    Manifest, layers with their shapes, parameters, multiply-adds and precision, and the header of a plan. Files without a
    manifest are shown too.

    \b
    Example:
      alexnet-deploy inspect models/alexnet.int8.onnx
      alexnet-deploy inspect models/alexnet.int8.plan --json
    """
    from alexnet_deploy.inspection import inspect
    from alexnet_deploy.report.inspection import inspected

    found = inspect(artifact)
    return Result(found, inspected(found))
