"""`alexnet-deploy completion`: what a shell needs to complete commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from alexnet_deploy.cli.common import Command, Result

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ALEXNET_DEPLOY_COMPLETE"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> Result:
    """Print the completion script of a shell.

    \b
    Example:
      alexnet-deploy completion bash > ~/.local/share/bash-completion/completions/alexnet-deploy
      alexnet-deploy completion zsh > "${fpath[1]}/_alexnet-deploy"
      alexnet-deploy completion fish > ~/.config/fish/completions/alexnet-deploy.fish
    """
    from alexnet_deploy.cli import main

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(main, {}, "alexnet-deploy", VARIABLE).source()
    return Result({"shell": shell, "script": script}, lambda _: click.echo(script))
