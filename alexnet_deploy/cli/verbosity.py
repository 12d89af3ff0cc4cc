"""How much is said on stderr: -q nothing but warnings and errors, -v what happens, -vv all of it and where an error came from."""

from __future__ import annotations

import logging

import click

from alexnet_deploy import logs

logger = logging.getLogger(__name__)
_QUIET = f"{__name__}.quiet"


def options() -> list[click.Option]:
    """-q and -v, for a command or for the group: before or after the command's name, as people happen to type them."""
    quiet = click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet, help="No progress, no notes.")
    verbose = click.Option(
        ["-v", "--verbose"], count=True, expose_value=False, callback=_listen, help="Say what happens; -vv in full."
    )
    return [quiet, verbose]


def quiet() -> bool:
    """Whether this run was asked to be quiet."""
    ctx = click.get_current_context(silent=True)
    return bool(ctx and ctx.meta.get(_QUIET))


class StderrHandler(logging.Handler):
    """To stderr as it is at that moment, so that lines and progress bars share a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _be_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_QUIET] = True


def _listen(ctx: click.Context, _: click.Parameter, count: int) -> None:
    """For this run only: what was set up is taken down when the context closes."""
    package = logging.getLogger(logs.ROOT)
    if not count or any(isinstance(handler, StderrHandler) for handler in package.handlers):
        return
    handler, level = StderrHandler(), package.level
    handler.setFormatter(logging.Formatter("%(relativeCreated)8.0f ms  %(name)s: %(message)s"))

    def stop() -> None:
        package.removeHandler(handler)
        package.setLevel(level)

    package.addHandler(handler)
    package.setLevel(logging.INFO if count == 1 else logging.DEBUG)
    ctx.call_on_close(stop)
