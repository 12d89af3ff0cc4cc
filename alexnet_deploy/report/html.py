"""One self-contained HTML page: no script, no network, light and dark, readable on a phone and by a screen reader.

`tag` builds every element and escapes every text that is not Markup already, so no file name or label can become HTML.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from alexnet_deploy import __version__
from alexnet_deploy.files import replacing
from alexnet_deploy.preprocess import Pixels

THUMBNAIL_PIXELS = 144
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(%|MB|kB|GiB|ms|s|dB|min)\b|%)")
_WITHIN_NAME = re.compile(r"(?<=[._/-])(?=\w)")
_VOID = {"meta", "link", "img", "wbr"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page, with its heading."""

    title: str
    body: Markup


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure worth reading first."""

    value: str
    label: str
    detail: str = ""


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. `class_` and `aria_label` become class and aria-label; an attribute that is None is left out."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{words}>")
    return Markup(f"<{name}{words}>{join(*children)}</{name}>")


def join(*parts: str) -> Markup:
    """The parts one after the other; text that is not Markup is escaped, and its numbers are kept beside their units."""
    return Markup("".join(part if isinstance(part, Markup) else _text(part) for part in parts))


def _text(text: str) -> str:
    return html.escape(_BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text))


def paragraph(text: str, class_: str | None = None) -> Markup:
    return tag("p", text, class_=class_)


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, key: int = 0) -> Markup:
    """A table that scrolls sideways by itself where it is too wide.

    Args:
        caption: for everybody; it is the table's name to a screen reader.
        columns: headings; one that starts with ">" is aligned to the right.
        rows: one cell a column; the first of each is the row's heading.
        key: the column that is read first (drawn bold), 0 for none but the heading.
    """

    def side(i: int) -> str | None:
        return "right" if columns[i].startswith(">") else None

    head = tag("tr", *(tag("th", name.removeprefix(">"), scope="col", class_=side(i)) for i, name in enumerate(columns)))
    body = [
        tag(
            "tr",
            tag("th", _name(row[0]), scope="row"),
            *(tag("td", cell, class_=" ".join(filter(None, (side(i), "key" if i == key else None))) or None)
              for i, cell in enumerate(row) if i),
        )
        for row in rows
    ]  # fmt: skip
    drawn = tag("table", tag("thead", head), tag("tbody", *body), aria_label=caption)
    # The caption stands outside of what scrolls, so that it wraps at the screen's edge and not at the table's.
    return join(paragraph(caption, "caption"), tag("div", drawn, class_="scroll", role="region", aria_label=caption, tabindex=0))


def _name(text: str) -> Markup:
    """A name that is broken at its dots and dashes before it is broken elsewhere."""
    first, *rest = _WITHIN_NAME.split(text)
    return join(first, *(join(tag("wbr"), part) for part in rest))


def figure(drawing: Markup, caption: str, legend: Markup | None = None) -> Markup:
    return tag("figure", tag("figcaption", caption), drawing, legend or Markup(""))


def figures(*each: Markup) -> Markup:
    """Side by side where there is room."""
    return tag("div", *each, class_="figures")


def tiles(each: Sequence[Tile]) -> Markup:
    return tag(
        "ul",
        *(
            tag(
                "li", tag("strong", tile.value), tag("span", tile.label), tag("small", tile.detail) if tile.detail else Markup("")
            )
            for tile in each
        ),
        class_="tiles",
    )


def notice(sentences: Sequence[str], kind: str = "note") -> Markup:
    """A box for what a reader must not miss; nothing when there is nothing. `kind`: "note", "bad" or "good"."""
    if not sentences:
        return Markup("")
    return tag("div", *(paragraph(sentence) for sentence in sentences), class_=f"notice {kind}", role="note")


def facts(pairs: Sequence[tuple[str, str]]) -> Markup:
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in pairs))


def details(summary: str, body: Markup, *, opened: bool = False) -> Markup:
    """What can be unfolded; `opened` where it is unfolded at first."""
    return tag("details", tag("summary", summary), body, open="" if opened else None)


def thumbnail(pixels: Pixels, description: str) -> Markup:
    """A picture inside the page: uint8 (H, W, 3), shrunk to THUMBNAIL_PIXELS where it is larger."""
    picture = Image.fromarray(pixels)
    small = max(picture.size) <= THUMBNAIL_PIXELS
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    kind, content = ("png", io.BytesIO()) if small else ("jpeg", io.BytesIO())
    picture.save(content, kind, **({} if small else {"quality": 82}))
    source = f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
    return tag("img", src=source, alt=description, width=picture.width, height=picture.height, class_="pixels" if small else None)


def page(title: str, lead: str, sections: Sequence[Section], *, opening: Markup | None = None, footer: str = "") -> str:
    """The whole document.

    Args:
        lead: one or two sentences under the title: what was found.
        opening: tiles and notices before the first section.
        footer: where and when it was measured.
    """
    anchors = [f"s{number}" for number in range(1, len(sections) + 1)]
    links = [tag("a", section.title, href=f"#{anchor}") for anchor, section in zip(anchors, sections, strict=True)]
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#main", class_="skip"),
        tag("header", tag("h1", title), paragraph(lead, "lead"), opening or Markup("")),
        tag("nav", *links, aria_label="Sections") if len(sections) > 2 else Markup(""),
        tag("main", *map(_section, anchors, sections), id="main"),
        tag("footer", paragraph(footer) if footer else Markup(""), paragraph(f"Written by alexnet-deploy {__version__}.")),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style("plots.css"), style("style.css")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def write(path: Path, document: str) -> None:
    """Writes the page whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(document, encoding="utf-8")


def _section(anchor: str, section: Section) -> Markup:
    title = f"{anchor}-title"
    return tag("section", tag("h2", section.title, id=title), section.body, id=anchor, aria_labelledby=title)


def style(name: str) -> Markup:
    """A style sheet of this folder."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))
