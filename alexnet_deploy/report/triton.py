"""A Triton model repository, for a person."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from alexnet_deploy.report import terminal
from alexnet_deploy.report.terminal import Show
from alexnet_deploy.triton import TritonReport


def triton(of: TritonReport) -> Show:
    """The models, and the command that serves them."""

    def show(console: Console) -> None:
        terminal.table(console, ["model", "platform", "file"], [[m.name, m.runs, m.file] for m in of.models])
        console.print(f"Serve {of.folder} with")
        console.print(Text(of.command, style="bold"), soft_wrap=True)  # one line, to be copied

    return show
