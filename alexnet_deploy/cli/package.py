"""`alexnet-deploy package`: a deployment in one file."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result


@click.command(cls=Command)
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ARTIFACT...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The package, a .zip.")
@click.option("--sign", type=click.Path(path_type=Path), help="An Ed25519 private key, PEM.")
@click.option("--licence", "--license", type=click.Path(path_type=Path), help="A text that goes with the models.")
def command(artifacts: tuple[Path, ...], output: Path, sign: Path | None, licence: Path | None) -> Result:
    """Pack artifacts with manifests, twins, labels and a list of SHA-256 sums; the first is the one that runs.

    A package is an artifact for every command: predict, verify, bench, serve. With ALEXNET_DEPLOY_TRUST naming a public key,
    only packages that its owner signed are opened.

    \b
    Example:
      openssl genpkey -algorithm ed25519 -out key.pem
      openssl pkey -in key.pem -pubout -out trust.pem
      alexnet-deploy package models/alexnet.int8.plan -o alexnet.zip --sign key.pem
      ALEXNET_DEPLOY_TRUST=trust.pem alexnet-deploy predict alexnet.zip cat.jpg
    """
    from alexnet_deploy.artifact import Artifact
    from alexnet_deploy.package import write_package
    from alexnet_deploy.report.package import packed

    report = write_package([Artifact.open(path) for path in artifacts], output, sign=sign, licence=licence)
    return Result(report, packed(report))
