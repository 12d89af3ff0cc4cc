"""Reports: readable in a narrow terminal, and one HTML file that needs nothing and hides nothing."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from tiny import tiny_artifact, tiny_graph
from tiny_pictures import picture_set

from alexnet_deploy.benchmark import BenchmarkReport, benchmark
from alexnet_deploy.manifest import TunedRecord
from alexnet_deploy.parity import verify_all
from alexnet_deploy.parity_report import Gates, OutputError, Verification
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.predictions import PicturePrediction, PredictionReport
from alexnet_deploy.report import html, inspection, parity, plots, terminal, words
from alexnet_deploy.report.benchmark import benchmark as show_benchmark
from alexnet_deploy.report.benchmark import benchmark_page
from alexnet_deploy.report.plots import Mark, Series
from alexnet_deploy.report.predictions import predictions
from alexnet_deploy.runtime import Prediction, Runtime
from alexnet_deploy.statistics import Interval, rate
from tests.browser import CHROMIUM, browser

VOID = {"meta", "link", "img", "wbr"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order. Collects what the tests ask about."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(document)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def printed(show: terminal.Show, width: int, *, colour: bool = False) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False))
    return out.getvalue()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Verification, BenchmarkReport, PictureSet]:
    folder = tmp_path_factory.mktemp("report")
    paths = [tiny_artifact(folder / name, graph=tiny_graph(bias=bias)).path for name, bias in NAMES.items()]
    pictures = picture_set(30)
    runtimes = [Runtime(path) for path in paths]
    found = verify_all(runtimes[0], runtimes[1:], pictures, Gates(max_error=0.01))
    return found, benchmark(runtimes, (1, 4), seconds=0.01), pictures


NAMES = {"alexnet.onnx": 0.0, "alexnet.int8.cpu.onnx": 0.5, "<b>&'evil\".onnx": 1.0}


@pytest.fixture(scope="module")
def document(measured: tuple[Verification, BenchmarkReport, PictureSet]) -> str:
    return parity.verification_page(measured[0], measured[2])


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(
    measured: tuple[Verification, BenchmarkReport, PictureSet], width: int
) -> None:
    for show in (parity.verification(measured[0], per_class=True), show_benchmark(measured[1])):
        text = printed(show, width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert "…" not in text
    text = printed(parity.verification(measured[0]), width)
    for report in measured[0].reports:
        assert words.error(report.error.relative) in text
        assert report.candidate.file in text


def test_an_error_that_nothing_was_measured_for_is_a_dash_and_not_identical(
    measured: tuple[Verification, BenchmarkReport, PictureSet],
) -> None:
    found, _, pictures = measured
    moved = replace(found.reports[0].moved[0], reference="", candidate="")
    lost = replace(found.reports[0], error=OutputError(not_finite=30, reference_not_finite=30), moved=(moved,))
    verification = replace(found, reports=(lost,))
    row = next(line for line in printed(parity.verification(verification), 200).splitlines() if lost.candidate.file in line)
    assert row.split()[-3:] == ["–", "–", "–"]
    page = Page(parity.verification_page(verification, pictures))
    assert "identical" not in page.text
    assert sum(text.startswith(("no answer", "→ no answer")) for text in page.text) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_no_page_is_wider_than_its_window_whatever_a_file_is_called(
    measured: tuple[Verification, BenchmarkReport, PictureSet], tmp_path: Path
) -> None:
    found, _, pictures = measured
    report = found.reports[0]
    called = replace(report, candidate=replace(report.candidate, file="x" * 120 + ".onnx"), missed=("x" * 120,))
    html.write(tmp_path / "page.html", parity.verification_page(replace(found, reports=(called,)), pictures))
    with browser(tmp_path / "profile") as page:
        for width in (1200, 400):
            page.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            page.open(f"{(tmp_path / 'page.html').as_uri()}?{width}")
            assert page.value("document.documentElement.scrollWidth") <= width
        assert page.problems == []


def test_a_name_in_a_table_is_broken_at_its_dots_first() -> None:
    assert ">alexnet.<wbr>int8.&lt;b&gt;.<wbr>onnx<" in html.table("", ["a", "b"], [["alexnet.int8.<b>.onnx", "1.5"]])


@given(st.floats(-3, 4), st.floats(0.1, 6))
def test_the_figures_of_an_axis_do_not_run_into_each_other(first: float, decades: float) -> None:
    samples = [10**first, 10 ** (first + decades)]
    drawn = ElementTree.fromstring(plots.distributions("a", [Series("b", samples * 50)], tick="{:g} ms".format))
    ends = -1e9
    for text in drawn.iter("text"):
        if (text.get("class") or "").startswith("soft"):
            x, width, side = (
                float(text.get("x", "")),
                7 * len(text.text or ""),
                text.get("class", "").removeprefix("soft").strip(),
            )
            left = {"": x, "middle": x - width / 2, "end": x - width}[side]
            assert left > ends + 7
            ends = left + width


@pytest.mark.parametrize("label", ["class", "a class of a very long name", "長い名前の犬のクラス", "犬"])
def test_a_label_keeps_to_its_room_in_any_script(label: str) -> None:
    shown = plots._shortened(label, 100)
    assert plots._width(shown) <= 100
    assert shown == label or (shown.endswith("…") and label.startswith(shown[:-1]))
    assert shown == label or plots._width(label) > 100


def test_without_colour_there_is_no_escape_sequence(measured: tuple[Verification, BenchmarkReport, PictureSet]) -> None:
    assert "\x1b" not in printed(parity.verification(measured[0]), 80)
    assert "\x1b[" in printed(parity.verification(measured[0]), 80, colour=True)


@given(st.integers(20, 90))
def test_no_line_ends_in_blanks(width: int) -> None:
    out = io.StringIO()
    terminal.lines(
        Console(file=out, width=width), ["alexnet.int8.onnx is written for TensorRT: onnxruntime imitates it, but slowly"]
    )
    assert all(line == line.rstrip() for line in out.getvalue().splitlines())


def test_a_narrow_terminal_does_not_tear_a_label_from_its_probability(
    measured: tuple[Verification, BenchmarkReport, PictureSet],
) -> None:
    labels = ("犬", "labrador_retriever", "goose")
    picture = PicturePrediction("0.jpg", tuple(Prediction(label, 0.3) for label in labels))
    of = PredictionReport(measured[0].reports[0].reference, (picture,), 1.0)
    for width in range(40, 90):
        text = printed(predictions(of), width)
        assert all(f"{label}   30.0 %" in text for label in labels)
        assert all(cell_len(line) <= width for line in text.splitlines())


def test_names_with_square_brackets_are_printed_as_they_are() -> None:
    text = printed(lambda console: terminal.table(console, ["a", ">b"], [["[red]x[/red]", "[/]"]], title="[bold]t"), 80)
    assert "[red]x[/red]" in text
    assert "[/]" in text
    assert "[bold]t" in text


def test_optional_columns_go_before_tables_are_folded() -> None:
    columns, row = ["name", ">one", "?>two"], ["n" * 20, "1" * 20, "2" * 30]
    assert "2" * 30 in printed(lambda console: terminal.table(console, columns, [row]), 80)
    narrow = printed(lambda console: terminal.table(console, columns, [row]), 60)
    assert "2" * 30 not in narrow
    assert narrow.count("n" * 20) == 1


def test_of_the_optional_columns_only_as_many_go_as_have_to() -> None:
    assert terminal._folds([20, 10, 10, 10], [1, 3], 44) == [[0, 1, 2]]
    assert terminal._folds([20, 10, 10, 10], [1, 3], 43) == [[0, 2]]


def test_the_tables_people_see_most_are_one_table_in_a_terminal_of_80_columns(
    measured: tuple[Verification, BenchmarkReport, PictureSet],
) -> None:
    assert "speed-up" in printed(show_benchmark(measured[1]), 80).splitlines()[1]
    assert "SQNR" in printed(parity.verification(measured[0]), 80).splitlines()[0]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(30, 80))
def test_a_cell_that_is_wider_than_its_room_is_wrapped_and_never_cut(widths: list[int], room: int) -> None:
    letters = "ABCD"[: len(widths)]
    row = [letter * width for letter, width in zip(letters, widths, strict=True)]
    text = printed(lambda console: terminal.table(console, ["-"] * len(row), [row]), room)
    for letter, width in zip(letters, widths, strict=True):
        assert text.count(letter) % width == 0  # the first stands in each table
        assert text.count(letter)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(20, 120))
def test_folding_shows_every_column_once_and_the_first_always(widths: list[int], room: int) -> None:
    folds = terminal._folds(widths, [], room)
    assert all(fold[0] == 0 for fold in folds)
    assert [i for fold in folds for i in fold[1:]] == list(range(1, len(widths)))


@given(st.just(0.0) | st.floats(1e-6, 1e12), st.integers(2, 8))
def test_an_axis_from_zero_ends_at_a_round_number_that_is_not_below_the_data(highest: float, about: int) -> None:
    ticks = plots._ticks_beyond(highest, about)
    assert ticks[0] == 0
    assert ticks[-2] <= highest <= ticks[-1] or highest == 0
    assert np.allclose(np.diff(ticks), ticks[1])


def test_the_page_is_well_formed_and_needs_no_network(document: str) -> None:
    page = Page(document)
    assert not page.all("script")
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", document)
    assert "url(" not in document
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_page_can_be_used_without_eyes_and_without_a_mouse(document: str) -> None:
    page = Page(document)
    assert page.all("html")[0]["lang"] == "en"
    assert next(tag for tag, _ in page.elements if tag in ("h1", "h2", "h3")) == "h1"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    for anchor in page.all("a"):
        assert (anchor["href"] or "").removeprefix("#") in ids
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and len(drawing["aria-label"] or "") > 20)
    for picture in page.all("img"):
        assert picture["alt"]
        assert picture["width"]
    for region in [a for _, a in page.elements if a.get("class") == "scroll"]:
        assert region["tabindex"] == "0", "a keyboard can scroll it"
        assert region["aria-label"]
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))


def test_no_name_becomes_html(document: str) -> None:
    assert "<b>&" not in document
    assert "".join(Page(document).text).count("<b>&'evil\".onnx") >= 5


def test_light_and_dark_have_the_same_colours_and_enough_contrast() -> None:
    css = html.style("plots.css")
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in css.split("prefers-color-scheme: dark"))
    assert set(light) == set(dark)
    for palette in (light, dark):
        for name in ("ink", "soft", "accent", "good", "bad"):
            assert contrast(palette[name], palette["card"]) >= 4.5, name
        for wash in ("good", "bad", "warn"):
            assert contrast(palette["ink"], palette[f"{wash}-wash"]) >= 4.5
        for number in range(plots.COLOURS):
            assert contrast(palette[f"c{number}"], palette["card"]) >= 3, f"c{number}"


def test_a_plot_is_an_svg_file_too_with_every_colour_that_it_names() -> None:
    text = plots.as_file(plots.bars("Size > 1 & more", [Mark("<a>", "1 MB", 1.0)]))
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= set(re.findall(r"--([\w-]+):", text))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_gates_that_were_missed_are_on_the_page_and_in_the_terminal(
    measured: tuple[Verification, BenchmarkReport, PictureSet], document: str
) -> None:
    text = "".join(Page(document).text).replace("\N{NO-BREAK SPACE}", " ")
    assert len(measured[0].missed) == 2
    for sentence in measured[0].missed:
        assert sentence in text
    assert "2 gates missed" in printed(parity.verification(measured[0]), 80)


def test_a_plan_whose_twin_ran_is_never_said_to_have_run(
    measured: tuple[Verification, BenchmarkReport, PictureSet],
) -> None:
    found, speed, pictures = measured
    report = found.reports[0]
    ran = replace(report.candidate, file="alexnet.int8.plan", kind="plan", twin_of="alexnet.int8.plan", running="twin.onnx")
    found = replace(found, reports=(replace(report, candidate=ran),))
    speed = replace(speed, timings=tuple(replace(timing, ran=ran) for timing in speed.timings))
    said = "alexnet.int8.plan did not run itself"
    for show in (parity.verification(found), show_benchmark(speed)):
        text = " ".join(printed(show, 80).split())
        assert said in text
        assert "onnxruntime (twin)" in text
    for page in (parity.verification_page(found, pictures), benchmark_page(speed)):
        assert said in page
        assert "onnxruntime (twin)" in page


def test_every_picture_that_moved_is_shown_with_both_answers(
    measured: tuple[Verification, BenchmarkReport, PictureSet],
) -> None:
    found, _, pictures = measured
    page = Page(parity.verification_page(found, pictures))
    assert len(page.all("img")) == sum(len(report.moved) for report in found.reports)
    for picture in page.all("img"):
        assert (picture["src"] or "").startswith("data:image/png;base64,")


def test_the_pages_of_training_and_tuning_keep_to_the_same_design() -> None:
    pytest.importorskip("torch")
    from alexnet_deploy.diagnosis import Diagnosis, Mistake
    from alexnet_deploy.machine import Machine
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.report.training import training_page
    from alexnet_deploy.report.tune import tune_page
    from alexnet_deploy.tune import Trial, TuneReport
    from training.records import EpochRecord, TrainReport
    from training.settings import TrainSettings

    history = tuple(EpochRecord(n, 0.1, 2 / n, 1 - 0.5 / n, 2 / n, 1 - 0.6 / n, 1.0, 100.0) for n in range(1, 61))
    trained = TrainReport(
        checkpoint=Path("<x>.safetensors"), parameters=1000, classes=("a", "b"), train_pictures=50, validation_pictures=10,
        history=history, seconds=60.0, unreadable=(), settings=TrainSettings(),
    )  # fmt: skip
    found = Diagnosis(
        location="<x>", classes=("a", "b"), top1=rate(8, 10), top5=rate(10, 10), confusion=((4, 1), (1, 4)),
        mistakes=(Mistake(0, "<x>", "a", "b", 0.9, 0.1),), unreadable=0,
    )  # fmt: skip
    pictures = PictureSet("<x>", ("a", "b"), np.zeros(1, np.int64), [np.zeros((8, 8, 3), np.uint8)], ["<x>"])
    trials = tuple(
        Trial(file="<x>.onnx", precision="fp32", backend="onnxruntime", device="cpu", threads=n, latency_ms=n, verdict="slower")
        for n in (1, 2)
    )
    tuned = TuneReport(
        machine=Machine.here(), reference="<x>.onnx", batch=1, pictures=0, max_latency_ms=None, max_drop=None,
        trials=trials, chosen=trials[0], path=Path("<x>.onnx"), missed=(),
    )  # fmt: skip
    for document in (training_page(trained, found, pictures), tune_page(tuned)):
        page = Page(document)
        assert not page.all("script")
        assert len(page.all("h1")) == len(page.all("main")) == 1
        assert all(drawing.get("aria-hidden") == "true" or drawing["aria-label"] for drawing in page.all("svg"))
        assert "<x>" not in document
        assert "<x>" in "".join(page.text)


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=8))
def test_bars_stay_inside_the_drawing(values: list[float]) -> None:
    root = ElementTree.fromstring(plots.bars("bars", [Mark(f"m{v}", "x", v) for v in values]))
    for bar in root.iter("rect"):
        left, width = float(bar.attrib["x"]), float(bar.attrib["width"])
        assert left >= 0
        assert left + width <= plots.WIDTH + 1
        assert width > 0


@given(st.lists(st.tuples(finite, st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=8))
def test_a_dot_lies_within_its_interval(values: list[tuple[float, float, float]]) -> None:
    marks = [Mark("m", "x", v, v - below, v + above) for v, below, above in values]
    root = ElementTree.fromstring(plots.intervals("dots", marks))
    lines = [line for line in root.iter("line") if line.get("stroke-linecap")]
    for dot, line in zip(root.iter("circle"), lines, strict=True):
        assert 0 <= float(line.attrib["x1"]) <= float(dot.attrib["cx"]) + 0.02
        assert float(dot.attrib["cx"]) <= float(line.attrib["x2"]) + 0.02 <= plots.WIDTH + 0.02


@given(st.lists(st.lists(st.floats(1e-4, 1e5), min_size=5, max_size=40), min_size=1, max_size=4))
def test_distributions_and_lines_are_sound_xml_for_any_samples(samples: list[list[float]]) -> None:
    each = [Series(f"s<{i}>", s, text=f"{s[0]:.2f} ms") for i, s in enumerate(samples)]
    ElementTree.fromstring(plots.distributions("d", each))
    lines = [Series(f"s&{i}", s[:3], [1, 8, 32]) for i, s in enumerate(samples)]
    ElementTree.fromstring(plots.lines("l", lines, x_label="epoch", logarithmic=False))
    root = ElementTree.fromstring(plots.lines("l", lines, x_label="batch"))
    assert len([path for path in root.iter("path") if path.get("fill") == "none"]) == len(samples)


@given(st.integers(2, 50).flatmap(lambda n: st.tuples(st.just(n), finite, st.floats(1e-3, 100))))
def test_a_histogram_shows_the_range_that_was_kept(case: tuple[int, float, float]) -> None:
    bins, low, width = case
    edges = np.linspace(low, low + width, bins + 1)
    counts = np.random.default_rng(bins).integers(0, 1000, bins).astype(np.float64)
    root = ElementTree.fromstring(plots.histogram("h", edges, counts, (low - width, low + width / 2)))
    kept = next(root.iter("rect"))
    assert float(kept.attrib["x"]) >= 0
    assert float(kept.attrib["x"]) + float(kept.attrib["width"]) <= plots.WIDTH


def test_a_matrix_names_every_pair() -> None:
    drawn = plots.matrix("m", ["a", "b", "c"], [[1, 0.9, 0.8], [0.9, 1, 0.7], [0.8, 0.7, 1]], text="{:.1f}".format)
    titles = [title.text for title in ElementTree.fromstring(drawn).iter("title")]
    assert "c and b: 0.7" in titles
    assert len(titles) == 1 + 9


def test_photos_are_shrunk_and_small_pictures_kept_exactly() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    assert 'width="144" height="108"' in html.thumbnail(photo, "a photo")
    assert len(html.thumbnail(photo, "a photo")) < 30_000
    assert "image/png" in html.thumbnail(photo[:28, :28], "small")


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    html.write(tmp_path / "new" / "page.html", "<p>")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.percent(0.8954), "89.5 %"),
        (words.percent(None), "–"),
        (words.rate(rate(995, 1000)), "99.5 %"),
        (words.rate(rate(9_998, 10_000)), "99.98 %"),
        (words.rate(rate(1, 50_000)), "0.002 %"),
        (words.rate(rate(10_000, 10_000)), "100.0 %"),
        (words.rate(rate(0, 3)), "0.0 %"),
        (words.points(-0.003), "−0.30"),
        (words.points(-1e-9), "0.00"),
        (words.interval(Interval(0.891, 0.927)), "89.1 to 92.7 %"),
        (words.size(61_100_840), "61.1 MB"),
        (words.size(1234), "1.2 kB"),
        (words.milliseconds(0.0234), "0.02"),
        (words.milliseconds(12.34), "12.3"),
        (words.milliseconds(123.4), "123"),
        (words.per_second(12345.6), "12,346"),
        (words.times(3.55), "3.5×"),
        (words.error(0.0), "0"),
        (words.error(1.234e-5), "1.2e-05"),
        (words.decibels(None), "identical"),
        (words.p_value(0.0001), "p < 0.001"),
        (words.seconds(75.25), "75.2 s"),
        (words.seconds(150), "2 min 30 s"),
        (words.seconds(119.6), "2 min 0 s"),
        (words.count(1, "picture"), "1 picture"),
        (words.count(1000, "class", "classes"), "1,000 classes"),
    ],
)
def test_figures_are_written_one_way(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(("threads", "said"), [(1, "1 thread:"), (2, "2 threads:"), (None, "its own choice of threads:")])
def test_an_inspection_counts_the_threads_that_were_tuned(threads: int | None, said: str, tmp_path: Path) -> None:
    record = TunedRecord(backend="onnxruntime", device="cpu", threads=threads, batch=1, latency_ms=2.0, cpu="a CPU", cores=2)
    tuned = dict(inspection._manifest(tiny_artifact(tmp_path / "a.onnx", tuned=record).manifest))["tuned"]
    assert tuned == f"onnxruntime on cpu, {said} 2.00 ms at batch 1 on a CPU"


def test_numbers_stay_beside_their_units() -> None:
    assert html.join("78.3 s, 32.0 % of 5 MB") == "78.3\N{NO-BREAK SPACE}s, 32.0\N{NO-BREAK SPACE}% of 5\N{NO-BREAK SPACE}MB"
    assert html.join("5 minutes, 2 models") == "5 minutes, 2 models"
