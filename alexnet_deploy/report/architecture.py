"""A network as a drawing: one block a layer, to scale, in a single SVG file that needs nothing else.

A map of features is a box as high and as deep as its pixels and as thick as its channels; a vector is a bar as high as it is
long, on a scale of its own. What keeps the shape (Relu, LRN, normalisation) is named under the layer that it follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alexnet_deploy.report.html import Markup, join, tag

if TYPE_CHECKING:
    from alexnet_deploy.onnx_graph.statistics import GraphStatistics, LayerStatistics

_COLUMN = 126  # units a block, at least; as wide as its words need
_ROOM = 190  # units for the height of the largest block
_WORDS = 92  # units for the lines under the blocks
_THICKEST, _THINNEST = 46, 3
_OBLIQUE = 0.32  # how far depth is drawn to the right and up, of its length
_MARGIN = 20
_LINE = 15
_PER_ROW = 12  # at most
_INVISIBLE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Shape", "Slice"})
_PREPROCESSING = "preprocess."

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #16191d; --soft: #57606a;
  --conv: #0b62b8; --pool: #0b8277; --dense: #c2410c; --other: #6b7480; }
@media (prefers-color-scheme: dark) { :root { --paper: #0e1116; --ink: #e6eaf0; --soft: #9aa6b4;
  --conv: #6cb6ff; --pool: #4fd1c5; --dense: #ff9f66; --other: #9aa6b4; } }
text { font: 12px system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; fill: var(--soft); text-anchor: middle; }
.name { font-weight: 600; fill: var(--ink); } .title { font-size: 16px; text-anchor: start; } .note { text-anchor: start; }
.front { fill-opacity: .55; } .top { fill-opacity: .3; } .side { fill-opacity: .75; } polygon, rect.front { stroke-width: .75; }
.paper { fill: var(--paper); }
.conv { fill: var(--conv); stroke: var(--conv); } .pool { fill: var(--pool); stroke: var(--pool); }
.dense { fill: var(--dense); stroke: var(--dense); } .other { fill: var(--other); stroke: var(--other); }
"""
_COLOURS = {"Conv": "conv", "ConvTranspose": "conv", "Gemm": "dense", "MatMul": "dense"}


@dataclass(frozen=True, slots=True)
class _Block:
    """What is drawn for one layer: its shape (C, H, W) or (n,), and the operators that keep it."""

    name: str
    op: str
    shape: tuple[int, ...]
    parameters: int = 0
    multiply_adds: int = 0
    then: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Scale:
    """Units a pixel, a channel and an element of a vector."""

    pixel: float
    channel: float
    element: float


def architecture(graph: GraphStatistics, title: str) -> str:
    """The whole network as the text of an SVG file."""
    blocks = _blocks(graph)
    scale = _scale(blocks)
    in_row = math.ceil(len(blocks) / math.ceil(len(blocks) / _PER_ROW))  # rows of one length
    rows = [blocks[start : start + in_row] for start in range(0, len(blocks), in_row)]
    width = 2 * _MARGIN + max(sum(_width(block, scale) for block in row) for row in rows)
    row_height = _ROOM + _WORDS
    height = 3 * _MARGIN + len(rows) * row_height + 2 * _LINE
    sums = f"{_short(graph.parameters)} parameters, {_short(graph.multiply_adds)} multiply-adds a picture"
    note = f"Boxes: {scale.pixel:.3g} units a pixel, {scale.channel:.3g} a channel. Bars: {scale.element:.3g} units an element."
    drawn = [
        tag("title", f"{title}: {sums}"),
        tag("style", Markup(_STYLE)),
        tag("rect", class_="paper", width="100%", height="100%"),
        _words(_MARGIN, _MARGIN + 4, f"{title}: {sums}", "name title"),
    ]
    for index, row in enumerate(rows):
        x, floor = float(_MARGIN), 2 * _MARGIN + index * row_height + _ROOM
        for block in row:
            drawn.append(_draw(block, x, floor, scale))
            x += _width(block, scale)
    drawn.append(_words(_MARGIN, height - _MARGIN, note, "note"))
    svg = tag(
        "svg",
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height}",
        width=f"{width:.0f}",
        height=height,
        role="img",
        aria_label=f"{title}: {sums}",
    )
    return f"{svg}\n"


def _blocks(graph: GraphStatistics) -> list[_Block]:
    """The input and every layer that computes or changes the shape; what keeps it goes to the block before."""
    pixels = tuple(n or 1 for n in graph.input.shape[1:])
    if pixels[-1] in (1, 3):  # channels last
        pixels = (pixels[-1], *pixels[:-1])
    blocks = [_Block("input", graph.input.dtype, pixels)]
    for layer in graph.layers:
        if layer.op in _INVISIBLE or layer.name.startswith(_PREPROCESSING) or not layer.shape:
            continue
        last = blocks[-1]
        if not layer.multiply_adds and _squeezed(layer.shape) == last.shape:
            blocks[-1] = replace(last, then=(*last.then, layer.op), parameters=last.parameters + layer.parameters)
        else:
            blocks.append(_block(layer))
    return blocks


def _block(layer: LayerStatistics) -> _Block:
    return _Block(layer.name, layer.op, _squeezed(layer.shape), layer.parameters, layer.multiply_adds)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(n, 1, 1) is a vector of n."""
    return shape[:1] if math.prod(shape[1:]) == 1 else shape


def _scale(blocks: Sequence[_Block]) -> _Scale:
    maps = [block.shape for block in blocks if len(block.shape) > 1]
    sides = [max(shape[1], shape[-1] * _OBLIQUE + shape[1]) for shape in maps]
    lengths = [block.shape[0] for block in blocks if len(block.shape) == 1]
    return _Scale(
        pixel=_ROOM / max(sides, default=1),
        channel=_THICKEST / max((shape[0] for shape in maps), default=1),
        element=_ROOM / max(lengths, default=1),
    )


def _size(block: _Block, scale: _Scale) -> tuple[float, float, float]:
    """Thickness, height and depth as drawn."""
    if len(block.shape) == 1:
        return 8.0, max(block.shape[0] * scale.element, 2.0), 0.0
    thickness = max(block.shape[0] * scale.channel, float(_THINNEST))
    return thickness, max(block.shape[1] * scale.pixel, 2.0), block.shape[-1] * scale.pixel * _OBLIQUE


def _width(block: _Block, scale: _Scale) -> float:
    thickness, _, depth = _size(block, scale)
    return max(_COLUMN, thickness + depth + 24)


def _draw(block: _Block, x: float, floor: float, scale: _Scale) -> Markup:
    """One block, standing on `floor`, with its words below."""
    thickness, height, depth = _size(block, scale)
    middle = x + _width(block, scale) / 2
    left = middle - (thickness + depth) / 2
    right, top = left + thickness, floor - height
    colour = "pool" if "Pool" in block.op else _COLOURS.get(block.op, "other")
    faces = [tag("rect", class_=f"front {colour}", x=_n(left), y=_n(top), width=_n(thickness), height=_n(height))]
    if depth:
        roof = [(left, top), (right, top), (right + depth, top - depth), (left + depth, top - depth)]
        side = [(right, top), (right + depth, top - depth), (right + depth, floor - depth), (right, floor)]
        faces += [_polygon(roof, f"top {colour}"), _polygon(side, f"side {colour}")]
    lines = [" ".join([block.op, *(f"+ {op}" for op in dict.fromkeys(block.then))])]
    lines.append(" x ".join(str(n) for n in block.shape))
    if block.parameters:
        lines.append(f"{_short(block.parameters)} parameters")
    if block.multiply_adds:
        lines.append(f"{_short(block.multiply_adds)} mult-adds")
    words = [_words(middle, floor + _LINE + 2, _fitting(block.name, 18), "name")]
    words += [_words(middle, floor + (2 + i) * _LINE + 2, _fitting(line, 22)) for i, line in enumerate(lines)]
    tooltip = tag("title", ", ".join([block.name, *lines]))
    return tag("g", tooltip, *faces, *words)


def _polygon(corners: Sequence[tuple[float, float]], class_: str) -> Markup:
    return tag("polygon", class_=class_, points=" ".join(f"{_n(x)},{_n(y)}" for x, y in corners))


def _words(x: float, y: float, text: str, class_: str | None = None) -> Markup:
    return tag("text", join(text), class_=class_, x=_n(x), y=_n(y))


def _fitting(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _short(number: int) -> str:
    """61,100,840 as "61.1 M"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _n(value: float) -> str:
    return f"{value:.1f}"
