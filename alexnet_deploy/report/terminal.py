"""What commands print for a person: rich tables that stay readable in a narrow terminal and without colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Show = Callable[[Console], None]
Cell = str | Text
Side = Literal["left", "right"]

_GAP = 2
_NARROWEST = 12  # characters of a name on a line


def table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "") -> frozenset[str]:
    """Prints a table; one that is too wide is folded into several that repeat the first column.

    Args:
        columns: headings; one that starts with ">" is aligned to the right. Those with "?" before that are left out where
            there is no room for them, the last one first.
        rows: one cell a column.

    Returns:
        The headings for which there was room.
    """
    optional = [i for i, name in enumerate(columns) if name.startswith("?")]
    sides: list[Side] = ["right" if name.lstrip("?").startswith(">") else "left" for name in columns]
    names = [name.lstrip("?>") for name in columns]
    widths = [max([_width(names[i]), *(_width(row[i]) for row in rows)]) for i in range(len(names))]
    if title:
        heading(console, title)
    folds = _folds(widths, optional, console.width)
    for chosen in folds:
        fits = sum(widths[i] + _GAP for i in chosen) - _GAP <= console.width
        drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold")
        for i in chosen:
            # Where two columns are too wide together it is the first that is wrapped, for it has the names.
            whole = fits or (i != chosen[0] and widths[i] <= console.width - _GAP - _NARROWEST)
            drawn.add_column(Text(names[i]), justify=sides[i], overflow="fold", no_wrap=whole)
        for row in rows:
            drawn.add_row(*(_plain(row[i]) for i in chosen))
        _print(console, drawn)
        console.print()
    return frozenset(names[i] for chosen in folds for i in chosen)


def heading(console: Console, text: str) -> None:
    console.print(Text(text, style="bold"))


def lines(console: Console, sentences: Iterable[str], *, style: str = "") -> None:
    """Sentences, wrapped at words, each on a line of its own."""
    for sentence in sentences:
        for line in Text(sentence, style=style).wrap(console, console.width):
            line.rstrip()
            console.print(line, soft_wrap=True)


def facts(console: Console, pairs: Sequence[tuple[str, Cell]]) -> None:
    """Names and values, one a line."""
    drawn = Table.grid(padding=(0, _GAP, 0, 0))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs:
        drawn.add_row(Text(name), _plain(value))
    _print(console, drawn)


def verdict(console: Console, missed: Sequence[str], passed: str) -> None:
    """The last line: what was missed is printed by the command on stderr, so here only how many."""
    if missed:
        console.print(Text(f"{len(missed)} gate{'s' if len(missed) > 1 else ''} missed", style="bold red"))
    elif passed:
        console.print(Text(passed, style="bold green"))


def _print(console: Console, drawn: Table) -> None:
    """Without the blanks with which rich fills up every line: they are in the way of whoever copies or pipes it."""
    for line in console.render_lines(drawn, pad=False):
        text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        text.rstrip()
        console.print(text, soft_wrap=True)


def _plain(cell: Cell) -> Text:
    """A name may hold square brackets, which rich would take for markup in a str."""
    return cell if isinstance(cell, Text) else Text(cell)


def _width(cell: Cell) -> int:
    return cell.cell_len if isinstance(cell, Text) else max(cell_len(line) for line in cell.split("\n"))


def _folds(widths: Sequence[int], optional: Sequence[int], room: int) -> list[list[int]]:
    """Column numbers of each table: as many as fit, the first column in all of them."""
    kept = list(range(len(widths)))
    for i in reversed(optional):
        if sum(widths[k] + _GAP for k in kept) - _GAP <= room:
            break
        kept.remove(i)
    folds = [[kept[0]]]
    used = widths[kept[0]]
    for i in kept[1:]:
        if used + _GAP + widths[i] > room and len(folds[-1]) > 1:
            folds.append([kept[0]])
            used = widths[kept[0]]
        folds[-1].append(i)
        used += _GAP + widths[i]
    return folds
