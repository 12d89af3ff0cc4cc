"""Plots as inline SVG: no library, no script, colours from the page's own variables.

Each is WIDTH units wide and scales with the page; labels stand above their marks, so that a phone can show them. Every
plot has a name for screen readers, and every mark its figures in a tooltip; the tables beside them say the same in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len, set_cell_size

from alexnet_deploy.report.html import Markup, join, style, tag

WIDTH = 480
_ROW = 40
_AXIS = 26
_EDGE = 8
_LINE_HEIGHT = 260
_CHARACTER = 7.2  # how wide one is, about
_DASHES = "5 4"
_MOST_LABELS, _MOST_MARKS = 16, 40  # along an axis, and on a line
COLOURS = 8

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of a plot.

    Attributes:
        label, text: what stands on the left and on the right above the mark.
        value: where the mark is.
        low, high: its interval; the value itself where there is none.
        colour: number of the palette.
    """

    label: str
    text: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 1


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot, or one row of a distribution: `x` positions and `y` values, or samples in `y` alone.

    Colour and dashes say what kind it is; lines of one kind differ by the shape of their marks.
    """

    label: str
    y: Sequence[float]
    x: Sequence[float] = ()
    text: str = ""
    colour: int = 1
    dashed: bool = False


def intervals(name: str, marks: Sequence[Mark], *, tick: Format = "{:g}".format) -> Markup:
    """A dot and its interval, a row each, on one axis that shows only the range they lie in."""
    lows = [m.value if m.low is None else m.low for m in marks]
    highs = [m.value if m.high is None else m.high for m in marks]
    scale = _Scale.linear(min(lows), max(highs), padded=True)

    def draw(mark: Mark, y: float, low: float, high: float) -> Markup:
        colour = f"var(--c{mark.colour % COLOURS})"
        line = tag("line", x1=scale(low), x2=scale(high), y1=y, y2=y, stroke=colour, stroke_width=3, stroke_linecap="round")
        dot = tag("circle", cx=scale(mark.value), cy=y, r=6, fill=colour, stroke="var(--card)", stroke_width=2)
        return join(line, dot)

    rows = [
        _row(mark.label, mark.text, number, draw(mark, _mark_y(number), lows[number], highs[number]))
        for number, mark in enumerate(marks)
    ]
    return _rows(name, rows, scale, tick, marks_text=_described(marks))


def bars(name: str, marks: Sequence[Mark], *, tick: Format = "{:g}".format) -> Markup:
    """A bar from zero, a row each."""
    scale = _Scale.linear(min(0.0, *(m.value for m in marks)), max(0.0, *(m.value for m in marks)))

    def draw(mark: Mark, y: float) -> Markup:
        left, right = sorted((scale(0), scale(mark.value)))
        return tag("rect", x=left, y=y - 6, width=max(right - left, 1), height=12, rx=3, fill=f"var(--c{mark.colour % COLOURS})")

    rows = [_row(mark.label, mark.text, number, draw(mark, _mark_y(number))) for number, mark in enumerate(marks)]
    return _rows(name, rows, scale, tick, marks_text=_described(marks))


def distributions(name: str, each: Sequence[Series], *, tick: Format = "{:g}".format) -> Markup:
    """The shape of each series of positive samples on a logarithmic axis, with a stroke at its median."""
    samples = [np.asarray(series.y, np.float64) for series in each]
    # The slowest hundredth of each would squeeze all the rest into a corner.
    scale = _Scale.logarithmic(min(float(s.min()) for s in samples), max(float(np.percentile(s, 99)) for s in samples))
    rows = []
    for number, (series, mine) in enumerate(zip(each, samples, strict=True)):
        base = number * _ROW + _ROW - 4
        colour = f"var(--c{series.colour % COLOURS})"
        median = scale(float(np.median(mine)))
        shape = tag("path", d=_hill(scale, mine, base, 18), fill=colour, fill_opacity=0.35, stroke=colour, stroke_width=1)
        stroke = tag("line", x1=median, x2=median, y1=base - 19, y2=base, stroke=colour, stroke_width=3)
        rows.append(_row(series.label, series.text, number, join(shape, stroke)))
    return _rows(name, rows, scale, tick, marks_text="; ".join(f"{s.label}: {s.text}" for s in each))


def lines(name: str, each: Sequence[Series], *, x_label: str, tick: Format = "{:g}".format, logarithmic: bool = True) -> Markup:
    """Lines over an x axis, logarithmic unless told (powers of two are evenly spaced then), y from zero."""
    xs = sorted({x for series in each for x in series.x})
    ticks = _ticks_beyond(max(max(series.y) for series in each), 5)
    top, bottom, left = 12, _LINE_HEIGHT - 40, max(52, max(_width(tick(value)) for value in ticks) + 8)
    make = _Scale.logarithmic if logarithmic else _Scale.linear
    across = make(xs[0], xs[-1], left=left, right=WIDTH - 14)
    up = _Scale(0, ticks[-1], bottom, top)
    parts = []
    for value in ticks:
        parts.append(tag("line", x1=left, x2=WIDTH - 6, y1=up(value), y2=up(value), class_="grid"))
        parts.append(tag("text", tick(value), x=left - 8, y=up(value) + 4, class_="soft end"))
    for x in xs[:: -(-len(xs) // _MOST_LABELS)]:
        parts.append(tag("text", f"{x:g}", x=across(x), y=bottom + 18, class_="soft middle"))
    parts.append(tag("text", x_label, x=(left + WIDTH) / 2, y=bottom + 36, class_="soft middle"))
    for number, series in enumerate(each):
        colour = f"var(--c{series.colour % COLOURS})"
        points = [(across(x), up(y)) for x, y in zip(series.x, series.y, strict=True)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dashes = _DASHES if series.dashed else None
        parts.append(
            tag("path", d=path, fill="none", stroke=colour, stroke_width=2.5, stroke_linejoin="round", stroke_dasharray=dashes)
        )
        for (x, y), value, at in zip(points, series.y, series.x, strict=True) if len(points) <= _MOST_MARKS else ():
            parts.append(_shape(number, x, y, colour, f"{series.label}, {at:g}: {tick(value)}"))
    summary = "; ".join(f"{s.label}: " + ", ".join(f"{tick(y)} at {x:g}" for x, y in zip(s.x, s.y, strict=True)) for s in each)
    return _svg(name, _LINE_HEIGHT, parts, summary)


def legend(each: Sequence[Series]) -> Markup:
    """The names of `lines`, each with its colour and its shape."""
    items = []
    for number, series in enumerate(each):
        colour = f"var(--c{series.colour % COLOURS})"
        dashes = _DASHES if series.dashed else None
        stroke = tag("line", x1=0, x2=22, y1=6, y2=6, stroke=colour, stroke_width=2.5, stroke_dasharray=dashes)
        key = [stroke, _shape(number, 11, 6, colour, "")]
        items.append(tag("li", tag("svg", *key, viewBox="0 0 22 12", aria_hidden="true"), series.label))
    return tag("ul", *items, class_="legend")


def as_file(drawing: Markup) -> str:
    """A plot as the text of an SVG file, with the colours and letters that it takes from the page otherwise."""
    opening, _, rest = drawing.partition(">")
    background = Markup("svg { background: var(--card); }")
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{tag("style", style("plots.css"), background)}{rest}\n'


def matrix(name: str, labels: Sequence[str], values: Sequence[Sequence[float]], *, text: Format) -> Markup:
    """A square of rates, each cell shaded by how far below 1 it is. Rows are named; columns carry the rows' numbers."""
    count = len(labels)
    left = min(200.0, max(_width(f"{count}  {label}") for label in labels) + 8)
    cell = (WIDTH - left - 4) / count
    height = min(cell, 40.0)
    lowest = min(min(row) for row in values)
    parts = []
    for i, label in enumerate(labels):
        parts.append(tag("text", _shortened(f"{i + 1}  {label}", left), x=0, y=24 + i * height + height / 2 + 4))
        parts.append(tag("text", f"{i + 1}", x=left + (i + 0.5) * cell, y=14, class_="soft middle"))
        for j, value in enumerate(values[i]):
            depth = 0.0 if lowest == 1 else (1 - value) / (1 - lowest)
            named = tag("title", f"{label} and {labels[j]}: {text(value)}")
            parts.append(tag("g", named, *_cell(left + j * cell, 24 + i * height, cell, height, depth, text(value))))
    summary = "; ".join(f"{labels[i]} and {labels[j]}: {text(values[i][j])}" for i in range(count) for j in range(i))
    return _svg(name, 28 + count * height, parts, summary)


def confusion(name: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """A square of counts: a row for each class, a column for what its pictures were taken for. Right answers have one colour,
    mistakes another, and each cell is shaded by its share of the row. Columns carry the rows' numbers."""
    count = len(labels)
    left = min(170.0, max(_width(f"{count}  {label}") for label in labels) + 8)
    cell = (WIDTH - left - 4) / count
    height = min(cell, 32.0)
    parts = []
    for i, label in enumerate(labels):
        total = max(1, sum(counts[i]))
        parts.append(tag("text", _shortened(f"{i + 1}  {label}", left), x=0, y=24 + i * height + height / 2 + 4))
        parts.append(tag("text", f"{i + 1}", x=left + (i + 0.5) * cell, y=14, class_="soft middle"))
        for j, value in enumerate(counts[i]):
            named = tag("title", f"{label}, taken for {labels[j]}: {value} of {total}")
            drawn = _cell(
                left + j * cell, 24 + i * height, cell, height, value / total, f"{value or ''}", colour=1 if i == j else 3
            )
            parts.append(tag("g", named, *drawn))
    wrong = ((i, j) for i in range(count) for j in range(count) if i != j and counts[i][j])
    summary = "; ".join(f"{labels[i]} taken for {labels[j]}: {counts[i][j]}" for i, j in wrong) or "no mistakes"
    return _svg(name, 28 + count * height, parts, summary)


def histogram(
    name: str, edges: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], chosen: tuple[float, float], *, colour: int = 1
) -> Markup:
    """How often each value occurs (logarithmic), and the range that was chosen; what lies outside it is clipped."""
    top, bottom = 6, 92
    scale = _Scale(float(edges[0]), float(edges[-1]), _EDGE, WIDTH - _EDGE)
    counts = np.asarray(counts, np.float64)
    heights = np.log1p(counts / max(float(counts[counts > 0].min(initial=1.0)), 1e-6))
    tallest = max(float(heights.max()), 1e-12)
    path = f"M{scale(float(edges[0])):.1f} {bottom}"
    for height, left, right in zip(heights / tallest, edges[:-1], edges[1:], strict=True):
        y = bottom - (bottom - top) * float(height)
        path += f"L{scale(float(left)):.1f} {y:.1f}L{scale(float(right)):.1f} {y:.1f}"
    path += f"L{scale(float(edges[-1])):.1f} {bottom}Z"
    low, high = (min(max(scale(value), _EDGE), WIDTH - _EDGE) for value in chosen)
    parts = [
        tag("rect", x=low, y=top, width=max(high - low, 1), height=bottom - top, fill=f"var(--c{colour})", fill_opacity=0.12),
        tag("path", d=path, fill=f"var(--c{colour})", fill_opacity=0.75),
        *(tag("line", x1=x, x2=x, y1=top, y2=bottom, stroke="var(--ink)", stroke_width=1.5) for x in (low, high)),
        tag("line", x1=_EDGE, x2=WIDTH - _EDGE, y1=bottom, y2=bottom, class_="axis"),
    ]
    for value in _nice_ticks(float(edges[0]), float(edges[-1]), 5):
        parts.append(tag("text", f"{value:g}", x=scale(value), y=bottom + 17, class_="soft middle"))
    return _svg(
        name, bottom + 24, parts, f"values from {edges[0]:.3g} to {edges[-1]:.3g}, kept {chosen[0]:.3g} to {chosen[1]:.3g}"
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values to units of the drawing, linear or logarithmic."""

    low: float
    high: float
    left: float = _EDGE
    right: float = WIDTH - _EDGE
    log: bool = False

    @classmethod
    def linear(
        cls, low: float, high: float, *, left: float = _EDGE, right: float = WIDTH - _EDGE, padded: bool = False
    ) -> _Scale:
        if high - low <= max(1e-30, 1e-9 * max(abs(low), abs(high))):  # nothing to tell apart
            high = low + (abs(low) if abs(low) > 1e-20 else 1.0)
        if padded:
            low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
        return cls(low, high, left, right)

    @classmethod
    def logarithmic(cls, low: float, high: float, *, left: float = _EDGE, right: float = WIDTH - _EDGE) -> _Scale:
        return cls(low, high if high > low * 1.0001 else low * 2, left, right, log=True)

    def __call__(self, value: float) -> float:
        low, high, at = (log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        share = (at - low) / (high - low)
        return round(self.left + share * (self.right - self.left), 2)

    def ticks(self) -> list[float]:
        if not self.log:
            return _nice_ticks(self.low, self.high, 5)
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        fine = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        inside = [v for v in fine if self.low <= v <= self.high]
        return inside if len(inside) > 1 else _nice_ticks(self.low, self.high, 4)


def _nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within [low, high], about so many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, floor(high / step + 1e-9) + 1)]


def _ticks_beyond(highest: float, about: int) -> list[float]:
    """Round numbers from 0 to the first that is not below `highest`, about so many."""
    ticks = _nice_ticks(0, highest if highest > 0 else 1, about)
    return ticks if ticks[-1] >= highest else [*ticks, round(ticks[-1] + ticks[1], 12)]


def _mark_y(number: int) -> float:
    return number * _ROW + 28


def _row(label: str, text: str, number: int, drawing: Markup) -> Markup:
    y = number * _ROW + 14
    room = WIDTH - _width(text) - 24
    return tag(
        "g",
        tag("title", f"{label}: {text}"),
        tag("text", _shortened(label, room), x=_EDGE, y=y),
        tag("text", text, x=WIDTH - _EDGE, y=y, class_="end"),
        drawing,
    )


def _rows(name: str, rows: Sequence[Markup], scale: _Scale, tick: Format, *, marks_text: str) -> Markup:
    bottom = len(rows) * _ROW + 2
    parts = []
    taken = -1e9
    for value in scale.ticks():
        x, text = scale(value), tick(value)
        parts.append(tag("line", x1=x, x2=x, y1=2, y2=bottom, class_="grid"))
        width = _width(text)
        left, side = (x, "soft") if x < 24 else (x - width, "soft end") if x > WIDTH - 24 else (x - width / 2, "soft middle")
        if left > taken + 2 * _CHARACTER:  # labels must not run into each other
            parts.append(tag("text", text, x=x, y=bottom + 17, class_=side))
            taken = left + width
    return _svg(name, bottom + _AXIS, [*parts, *rows], marks_text)


def _svg(name: str, height: float, parts: Sequence[Markup], summary: str) -> Markup:
    return tag(
        "svg", tag("title", name), *parts, viewBox=f"0 0 {WIDTH} {height:.0f}", role="img", aria_label=f"{name}. {summary}"
    )


def _described(marks: Sequence[Mark]) -> str:
    return "; ".join(f"{mark.label}: {mark.text}" for mark in marks)


def _hill(scale: _Scale, samples: npt.NDArray[np.float64], base: float, height: float) -> str:
    """The density of samples along a scale, as a closed path: a histogram in 96 steps, smoothed by a narrow Gaussian."""
    steps = 96
    positions = np.array([scale(min(max(float(s), scale.low), scale.high)) for s in samples])
    counts, edges = np.histogram(positions, bins=steps, range=(scale.left, scale.right))
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
    density = np.convolve(counts, kernel, mode="same")
    density = density / density.max()
    middle = (edges[:-1] + edges[1:]) / 2
    points = "L".join(f"{x:.1f} {base - height * d:.1f}" for x, d in zip(middle, density, strict=True) if d > 0.005)
    inside = middle[density > 0.005]
    return f"M{inside[0]:.1f} {base:.1f}L{points}L{inside[-1]:.1f} {base:.1f}Z"


def _shape(number: int, x: float, y: float, colour: str, title: str) -> Markup:
    """A circle, square, diamond or triangle: lines can be told apart without their colours."""
    named = [tag("title", title)] if title else []
    attributes = {"fill": colour, "stroke": "var(--card)"}
    match number % 4:
        case 0:
            return tag("circle", *named, cx=x, cy=y, r=4.5, **attributes)
        case 1:
            return tag("rect", *named, x=x - 4, y=y - 4, width=8, height=8, **attributes)
        case 2:
            return tag("path", *named, d=f"M{x} {y - 6}L{x + 6} {y}L{x} {y + 6}L{x - 6} {y}Z", **attributes)
        case _:
            return tag("path", *named, d=f"M{x} {y - 5.5}L{x + 5.5} {y + 4.5}L{x - 5.5} {y + 4.5}Z", **attributes)


def _cell(x: float, y: float, width: float, height: float, depth: float, text: str, *, colour: int = 3) -> tuple[Markup, Markup]:
    """A shaded rectangle with a text in its middle."""
    shade = tag(
        "rect",
        x=x + 1,
        y=y + 1,
        width=width - 2,
        height=height - 2,
        rx=4,
        fill=f"var(--c{colour})",
        fill_opacity=0.05 + 0.5 * depth,
    )
    size = round(min(13.0, max(7.0, (width - 6) / (0.58 * max(1, len(text))))), 1)
    words = tag("text", text, x=x + width / 2, y=y + height / 2 + 4, class_="middle", style=f"font-size:{size}px")
    return shade, words


def _width(text: str) -> float:
    """About; letters of East Asia are as wide as two."""
    return _CHARACTER * cell_len(text)


def _shortened(label: str, room: float) -> str:
    most = max(4, int(room / _CHARACTER))
    return label if cell_len(label) <= most else set_cell_size(label, most - 1).rstrip() + "…"
