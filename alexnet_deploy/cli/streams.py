"""stdin, stdout and stderr, as commands may rely on them.

stdout is for the answer: what libraries print while a command works goes to stderr. The answer is printed after the work, or by
`answering` in the midst of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

import click

STDOUT, STDERR = 1, 2
_ANSWER = f"{__name__}.answer"  # where click's context keeps the descriptor that leads to the program's own stdout


class Unfailing(io.TextIOWrapper):
    """A stderr on a full disk, or whose reader has left: what was to be said is lost, and nothing else."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare() -> None:
    """Opens those that whoever started us had closed; what stdout's encoding cannot say is printed as its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (to the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be any bytes, and not all speak UTF-8
    if type(sys.stderr) is io.TextIOWrapper and _is_the_programs_own(sys.stderr, STDERR):
        taken = open(STDERR, "wb", closefd=False)  # noqa: SIM115 (to the end)
        sys.stderr = Unfailing(taken, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


@contextlib.contextmanager
def stdout_for_the_answer(ctx: click.Context) -> Iterator[None]:
    """While a command works, what libraries print goes to stderr: TensorRT's compiler warns on stdout, in the midst of --json."""
    try:
        kept = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
    except OSError:  # one of them was closed before we came
        yield
        return
    ctx.meta[_ANSWER] = kept
    try:
        yield
    finally:
        del ctx.meta[_ANSWER]
        ctypes.CDLL(None).fflush(None)  # C keeps its lines until it has many
        sys.stdout.flush()  # and so does Python
        os.dup2(kept, STDOUT)
        os.close(kept)


@contextlib.contextmanager
def answering() -> Iterator[TextIO]:
    """stdout, for a command that answers while it works; a reader that leaves (`| head`) ends the block."""
    kept = click.get_current_context().meta.get(_ANSWER)
    if kept is None or not _is_the_programs_own(sys.stdout, STDOUT):
        with until_the_reader_leaves():
            yield cast(TextIO, sys.stdout)
        return
    out = open(os.dup(kept), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, newline="")  # noqa: PTH123, SIM115
    try:
        yield out
        out.flush()
    except BrokenPipeError:
        pass
    finally:
        with contextlib.suppress(OSError):  # what could not be written was said before, or nobody waits for it
            out.close()


@contextlib.contextmanager
def until_the_reader_leaves() -> Iterator[None]:
    """`| head` closes stdout when it has enough: the rest goes nowhere, and the exit code stays that of the work."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        give_up()


def give_up() -> None:
    """What is still to come on stdout goes nowhere: Python's last attempt to write it, at the end, would change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_the_programs_own(stream: TextIO, number: int) -> bool:
    """Not so where somebody has put another in its place, as tests do."""
    try:
        return stream.fileno() == number
    except OSError:
        return False
