"""The figures in a page's tables, read back as numbers: what a person would take them for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser

_UNITS = {"%": 0.01, "MB": 1e6, "kB": 1e3}


class Tables(HTMLParser):
    """Every table of a page: rows of {column: text}, the first column of which is called "name"."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self._rows: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(document)
        self.tables = [[dict(zip(["name", *header[1:]], row, strict=True)) for row in rows] for header, *rows in self._rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows.append([])
        elif tag == "tr":
            self._rows[-1].append([])
        elif tag in ("th", "td"):
            self._rows[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell &= tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._rows[-1][-1][-1] += data.replace("\xa0", " ").replace("−", "-")


@dataclass(frozen=True)
class Figure:
    """A number as it is written, and how much of it rounding may have taken."""

    value: float
    rounding: float

    def __eq__(self, measured: object) -> bool:
        return isinstance(measured, (int, float)) and abs(self.value - measured) <= self.rounding * (1 + 1e-6)

    __hash__ = None  # type: ignore[assignment]


def figures(text: str) -> list[Figure]:
    """The numbers in a cell: "0.00 (-1.50 to +1.50)" has three, "87.8 %" is 0.878, and "–" has none."""
    scale = _UNITS.get(text.rsplit(" ", 1)[-1], 1.0)
    found = []
    for digits, exponent in re.findall(r"([+-]?\d[\d,]*(?:\.\d+)?)(e[+-]\d+)?", text):
        unit = scale * float(f"1{exponent}")
        decimals = len(digits.partition(".")[2])
        rounding = 0.0 if digits == "0" else 0.5 * 10.0**-decimals * unit  # "0" is said of nothing at all
        found.append(Figure(float(digits.replace(",", "")) * unit, rounding))
    return found
