"""The page, in a real browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_deploy.serving.server import Server
from tests.browser import CHROMIUM, Page, browser
from tests.serving import LABELS, ask, picture, serving, write_model

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

ROWS = "[...document.querySelectorAll('#answers li')].map(li => [...li.querySelectorAll('span')].map(s => s.textContent))"
FILLED = "document.querySelectorAll('#answers li').length === 5"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "shoes.onnx")
    write_model(folder / "hats.onnx")
    with serving(folder / "shoes.onnx", folder / "hats.onnx") as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(picture(0, size=(320, 240)))
    return path


def expected(server: Server, file: Path) -> list[list[str]]:
    predictions = ask(server, "POST", "/classify", file.read_bytes()).json["predictions"]
    return [[p["label"], f"{100 * p['probability']:.1f} %"] for p in predictions]


def test_a_chosen_picture_shows_its_five_most_probable_classes(page: Page, server: Server, file: Path) -> None:
    page.open(server.http_url)
    page.choose("#file", file)
    page.until(FILLED)
    assert page.value(ROWS) == expected(server, file)
    widths = page.value("[...document.querySelectorAll('#answers li')].map(li => li.firstChild.offsetWidth / li.clientWidth)")
    percents = [float(row[1].split()[0]) / 100 for row in expected(server, file)]
    assert widths == pytest.approx(percents, abs=0.005)
    assert page.value("document.querySelector('#picture').naturalWidth") == 320
    assert page.problems == []


def test_a_dropped_picture_is_classified(page: Page, server: Server, file: Path) -> None:
    page.open(server.http_url)
    page.until("document.querySelector('#model').options.length === 2")
    page.drop("#drop", file)
    page.until(FILLED)
    assert page.value(ROWS) == expected(server, file)


def test_a_file_that_is_no_picture_is_said(page: Page, server: Server, tmp_path: Path) -> None:
    wrong = tmp_path / "cat.jpg"
    wrong.write_text("meow")
    page.open(server.http_url)
    page.choose("#file", wrong)
    page.until("document.querySelector('#status.wrong') !== null")
    assert "cannot be read as a picture" in page.value("document.querySelector('#status').textContent")
    page.problems.clear()  # the browser logs the 400


def test_another_model_can_be_chosen(page: Page, server: Server, file: Path) -> None:
    page.open(server.http_url)
    page.until("document.querySelector('#model').options.length === 2")
    page.choose("#file", file)
    page.until(FILLED)
    other = page.value("document.querySelector('#model').options[1].text")
    page.value("(m => { m.selectedIndex = 1; m.dispatchEvent(new Event('change')); })(document.querySelector('#model'))")
    page.until(f"document.querySelector('#status').textContent.includes('says {other}')")


def test_everything_is_reached_by_the_keyboard(page: Page, server: Server) -> None:
    page.open(server.http_url)
    reached = []
    for _ in range(2):
        page.key("Tab")
        reached.append(page.value("document.activeElement.id"))
    assert reached == ["model", "file"]
    outline = page.value("getComputedStyle(document.querySelector('#drop')).outlineStyle")
    assert outline == "solid"


def test_what_a_screen_reader_says_stays_useful_when_a_picture_is_there(page: Page, server: Server, file: Path) -> None:
    def spoken() -> set[tuple[str, str]]:
        nodes = page.send("Accessibility.getFullAXTree")["nodes"]
        return {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")}

    page.open(server.http_url)
    page.until("document.querySelector('#model').options.length === 2")
    always = {("combobox", "Model"), ("button", "Choose a picture"), ("list", "The most probable classes")}
    assert always <= spoken()
    page.choose("#file", file)
    page.until(FILLED)
    best = expected(server, file)[0][0]
    assert always | {("image", "cat.png"), ("StaticText", best)} <= spoken()
    assert page.value("document.querySelector('#status').textContent").startswith(f"{best}, ")  # said aloud when it changes


def test_a_token_is_asked_for_and_used(page: Page, tmp_path: Path, file: Path) -> None:
    write_model(tmp_path / "shoes.onnx")
    with serving(tmp_path / "shoes.onnx", token="sesame") as server:
        page.open(server.http_url)
        page.until("!document.querySelector('#access').hidden")
        page.value("document.querySelector('#token').focus()")
        page.send("Input.insertText", text="sesame")
        page.key("Enter")
        page.until("document.querySelector('#model').options.length === 1")
        page.choose("#file", file)
        page.until(FILLED)
    page.problems.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page: Page, server: Server, file: Path, scheme: str) -> None:
    """Contrast of at least 4.5 : 1, WCAG 2.2 level AA, also on top of the bars."""
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.send("Emulation.setDeviceMetricsOverride", width=420, height=720, deviceScaleFactor=2, mobile=False)
    page.open(server.http_url)
    page.choose("#file", file)
    page.until(FILLED)
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(Path(folder) / f"page-{scheme}.png")

    def colour(name: str) -> list[float]:
        script = f"""(() => {{ const c = new OffscreenCanvas(1, 1).getContext('2d', {{willReadFrequently: true}});
            const e = document.createElement('i'); e.style.color = 'var(--{name})'; document.body.append(e);
            c.fillStyle = getComputedStyle(e).color; e.remove(); c.fillRect(0, 0, 1, 1);
            return JSON.stringify([...c.getImageData(0, 0, 1, 1).data]); }})()"""
        return [v / 255 for v in json.loads(page.value(script))[:3]]

    def luminance(rgb: list[float]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((luminance(colour(one)), luminance(colour(other))), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for text, ground in (("ink", "paper"), ("ink", "bar"), ("faint", "paper"), ("wrong", "paper"), ("focus", "paper")):
        assert contrast(text, ground) >= (3 if text == "focus" else 4.5), (text, ground)
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert {row[0] for row in page.value(ROWS)} <= set(LABELS)
