"""Options that are numbers, some with a unit: 2ms, 0.5s, 64MB."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_NUMBER_AND_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]*)", re.IGNORECASE)

# Pictures in a call: more than any engine is built for, and far from where the libraries' own integers end.
BATCH = click.IntRange(1, 1 << 16)


class Number(click.FloatRange):
    """A range of numbers; click's own takes nan for a number in any of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is no number", param, ctx) if math.isnan(number) else number


class WithUnit(click.ParamType):  # type: ignore[type-arg]
    """A number and a unit as one number."""

    def __init__(self, name: str, units: dict[str, float]) -> None:
        """`units`: what each is worth, in lower case; "" is a bare number."""
        self.name = name
        self._units = units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = _NUMBER_AND_UNIT.fullmatch(value.strip())
        if match is None or match[2].lower() not in self._units:
            self.fail(f"{value!r} is no {self.name}; a number with one of {', '.join(u for u in self._units if u)}", param, ctx)
        return float(match[1]) * self._units[match[2].lower()]


SECONDS = WithUnit("duration", {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0})
BYTES = WithUnit(
    "size", {"b": 1, "": 1, "kb": 1 << 10, "kib": 1 << 10, "mb": 1 << 20, "mib": 1 << 20, "gb": 1 << 30, "gib": 1 << 30}
)
