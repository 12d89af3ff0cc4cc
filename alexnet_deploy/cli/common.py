"""What every command shares: --json, -q and -v, settings, the way errors become exit codes, progress bars, the models folder."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from alexnet_deploy import __version__
from alexnet_deploy.cli import settings, streams, verbosity
from alexnet_deploy.errors import AlexnetDeployError, ArtifactMissing
from alexnet_deploy.types import Precision, Progress

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_AS_JSON = f"{__name__}.as_json"
_NARROWEST = 20


html_option = click.option(
    "--html", "page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a report with plots as well."
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a command gives back.

    Attributes:
        data: a dataclass or plain dict; what --json prints.
        show: draws it for a person on the console it is given.
        missed: one sentence for each gate that was missed, with both numbers; any makes the exit code 1.
        failed: one sentence for each part of the work that could not be done while the rest was; any makes the exit code 2.
    """

    data: object
    show: Callable[[Console], None]
    missed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class Refusal(click.ClickException):
    """An error before the command itself has begun: shown, and counted, as those after."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        _message("error", self.message)


class Command(click.Command):
    """A click command whose function returns a Result. Adds --json, -q and -v, and takes what the settings say.

    Exit codes: 0 done, 1 a gate was missed, 2 a clear error or a part that failed, 130 interrupted, 143 terminated.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--json", "as_json"], is_flag=True, help="Print one JSON object on stdout; progress and messages on stderr."
            )
        )
        self.params += verbosity.options()

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        # Help and completion work, however wrong a settings file is.
        asked = not extra.get("resilient_parsing") and not {"-h", "--help"} & {*args}
        found = self._settings(info_name or "") if asked else {}
        defaults = {name: setting.value for name, setting in found.items()}
        try:
            ctx = super().make_context(info_name, args, parent, default_map=defaults, **extra)
        except click.BadParameter as error:
            # click names the option; a value that stands in a file or in the environment has to be found first.
            name = error.param.name if error.param else None
            if name in found and error.ctx and error.ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
                reason = f"{error.message} (set in {found[name].origin})"
                raise click.BadParameter(reason, ctx=error.ctx, param=error.param) from None
            raise
        for name, setting in found.items():
            verbosity.logger.info("%s is %r (set in %s)", name, setting.value, setting.origin)
        return ctx

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuses two flags for one parameter (--int8 --fp16), of which click would take the last."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        chosen: dict[str | None, str] = {}
        for flag in given:
            if isinstance(flag, click.Option) and flag.is_flag and not flag.is_bool_flag:
                other = chosen.setdefault(flag.name, flag.opts[0])
                if other != flag.opts[0]:
                    raise click.UsageError(f"{other} and {flag.opts[0]} exclude each other.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        as_json = ctx.meta[_AS_JSON] = bool(ctx.params.pop("as_json", False))
        try:
            with _warnings_as_messages(), streams.stdout_for_the_answer(ctx):
                result: Result = super().invoke(ctx)
            self._print(result, as_json)
        except AlexnetDeployError as error:
            _message("error", str(error))
            verbosity.logger.debug("where it came from", exc_info=error)
            if as_json:
                said = {"kind": type(error).__name__, "found": error.found, "expected": error.expected, "fix": error.fix}
                with streams.until_the_reader_leaves():
                    _print_json({"error": said})
            ctx.exit(error.exit_code)
        except OSError as error:
            # A full disk, a read-only folder: the system's own sentence is the clear one.
            _message("error", f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
            ctx.exit(2)
        ctx.exit(2 if result.failed else 1 if result.missed else 0)

    def _settings(self, name: str) -> dict[str, settings.Setting]:
        from alexnet_deploy.cli import COMMANDS

        try:
            return settings.settings_of(name, self.params, list(COMMANDS))
        except AlexnetDeployError as error:
            raise Refusal(str(error)) from error

    def _print(self, result: Result, as_json: bool) -> None:
        with streams.until_the_reader_leaves():
            if as_json:
                from alexnet_deploy.manifest import to_builtins

                data = to_builtins(result.data)
                _print_json({**data, "missed": list(result.missed)} if result.missed else data)
            else:
                result.show(_console())
        for sentence in result.missed:
            _message("missed", sentence)
        for sentence in result.failed:
            _message("error", sentence)


def _console() -> Console:
    """The console for results; rich's own ends the program with exit code 1 when the reader leaves."""
    from rich.console import Console

    class ResultConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = ResultConsole(highlight=False)
    if console.width < _NARROWEST:  # COLUMNS=0, as pseudo-terminals without a size have it: rich would print nothing
        console.width = 80
    return console


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """A Progress that draws bars on stderr, one a task; nothing with -q, or where stderr is no terminal.

    A bar that is done stays, with its time.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True, highlight=False)
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=console, disable=verbosity.quiet() or not console.is_terminal) as bars:

        def progress(task: str, done: int, total: int, note: str = "") -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total, note=note)
            bars.update(tasks[task], completed=done, total=total, note=note)

        yield progress


def models_folder() -> Path:
    """Where artifacts go, and are looked for, when no path is given: as the settings have it, or ./models."""
    return Path(settings.models() or "models")


def latest(suffix: str, precision: Precision | None, fix: str) -> Path:
    """The newest artifact with this suffix in the models folder, and of this precision where one is named.

    Raises:
        ArtifactMissing: there is none; `fix` names the command that makes one.
    """
    from alexnet_deploy.artifact import read_manifest
    from alexnet_deploy.errors import ManifestError

    def fits(path: Path) -> bool:
        try:
            return precision is None or read_manifest(path).precision == precision
        except ManifestError:
            return False

    folder = models_folder()
    found = [p for p in folder.glob(f"*{suffix}") if fits(p)] if folder.is_dir() else []
    if not found:
        kind = f"{precision} " if precision else ""
        raise ArtifactMissing(f"no {kind}*{suffix} in {folder}/", expected="a path, or an artifact made before", fix=fix)
    return max(found, key=lambda p: p.stat().st_mtime_ns)


def as_json() -> bool:
    """Whether this run was asked for one JSON object on stdout."""
    return bool(click.get_current_context().meta[_AS_JSON])


def note(text: str) -> None:
    """One line for a person, on stderr; nothing with -q."""
    if not verbosity.quiet():
        _message("note", text)


@contextlib.contextmanager
def _warnings_as_messages() -> Iterator[None]:
    """Our own warnings become one line on stderr; those of other libraries stay out of a user's sight."""
    from alexnet_deploy.errors import DeployWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DeployWarning)
        said: set[str] = set()  # Python's own memory of what was said is lost whenever a library changes its filters

        def show(message: Warning | str, *_: object, **__: object) -> None:
            if str(message) not in said:
                said.add(str(message))
                _message("warning", str(message))

        warnings.showwarning = show
        yield


def say_stopped(how: str) -> None:
    """What Ctrl-C and SIGTERM end with, wherever in a command they came."""
    _message("stopped", f"{how}; nothing half-written is left behind")


def unwritten(error: OSError) -> int:
    """The exit code where stdout did not take what was to be printed: a reader that had enough is no error, a full disk is."""
    streams.give_up()
    if isinstance(error, BrokenPipeError):
        return 0
    _message("error", error.strerror or str(error))
    return 2


def mistaken(ctx: click.Context) -> NoReturn:
    """What an error ends with that nobody foresaw: Python's own exit code, 1, would say that a gate was missed."""
    traceback.print_exc()
    _message("error", f"a mistake in alexnet-deploy {__version__} itself; the lines above say where")
    ctx.exit(2)


def _message(kind: str, text: str) -> None:
    colour = {"error": "red", "missed": "red", "warning": "yellow"}.get(kind, "cyan")
    styled = click.style(f"{kind}:", fg=colour, bold=True) if "NO_COLOR" not in os.environ else f"{kind}:"
    click.echo(f"{styled} {text}", err=True)


def _print_json(data: object) -> None:
    json.dump(data, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
