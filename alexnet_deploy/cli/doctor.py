"""`alexnet-deploy doctor`: what this machine can run."""

from __future__ import annotations

import click

from alexnet_deploy.cli.common import Command, Result


@click.command(cls=Command)
def command() -> Result:
    """Try every backend on this machine, and say what to install for the others.

    Each is tried in a process of its own: imported, and given a tiny model to run where it can.

    \b
    Example:
      alexnet-deploy doctor
      alexnet-deploy doctor --json
    """
    from alexnet_deploy.doctor import examine
    from alexnet_deploy.report.doctor import doctor

    report = examine()
    return Result(report, doctor(report))
