"""Timings, for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from alexnet_deploy.benchmark import BenchmarkReport, Timing
from alexnet_deploy.report import html, plots, terminal, words
from alexnet_deploy.report.html import Section, Tile
from alexnet_deploy.report.parity import colour
from alexnet_deploy.report.plots import Series
from alexnet_deploy.report.terminal import Show
from alexnet_deploy.types import GraphForm


def benchmark(of: BenchmarkReport) -> Show:
    """A table a batch size, a line an artifact."""

    def show(console: Console) -> None:
        several = len({t.ran.file for t in of.timings}) > 1
        for batch in dict.fromkeys(t.batch for t in of.timings):
            mine = [t for t in of.timings if t.batch == batch]
            terminal.table(
                console,
                [
                    "artifact",
                    "ran on",
                    ">p50 ms",
                    "?>p90 ms",
                    ">p99 ms",
                    ">images/s",
                    *([">speed-up", "?95 %"] if several else []),
                ],
                [
                    [
                        t.ran.file,
                        words.ran_on(t.ran),
                        words.milliseconds(t.p50_ms),
                        words.milliseconds(t.p90_ms),
                        words.milliseconds(t.p99_ms),
                        words.per_second(t.images_per_second),
                        *([words.times(t.speed_up), words.times_interval(t.speed_up_interval)] if several else []),
                    ]
                    for t in mine
                ],
                title=f"Batch {batch}, {min(t.runs for t in mine)} runs or more of each",
            )
        terminal.lines(console, words.ran_sentences(t.ran for t in of.timings), style="yellow")
        terminal.lines(console, words.warnings(of.warnings), style="yellow")
        terminal.lines(console, [words.machine(of.machine)], style="dim")

    return show


def benchmark_page(of: BenchmarkReport) -> str:
    """The HTML of `bench --html`."""
    files = list(dict.fromkeys(t.ran.file for t in of.timings))
    lead = f"{words.count(len(files), 'artifact')}, timed in turns so that drift hits all alike; milliseconds of one call."
    opening = html.join(
        html.tiles(tiles(of)),
        html.notice([*words.ran_sentences(t.ran for t in of.timings), *words.warnings(of.warnings)]),
    )
    return html.page("Benchmark", lead, sections(of), opening=opening, footer=words.machine(of.machine))


def tiles(of: BenchmarkReport) -> list[Tile]:
    """The quickest answer, the highest throughput, the largest speed-up."""
    quickest = min(of.timings, key=lambda t: t.p50_ms)
    busiest = max(of.timings, key=lambda t: t.images_per_second)
    gained = max(of.timings, key=lambda t: t.speed_up)
    found = [
        Tile(f"{words.milliseconds(quickest.p50_ms)} ms", f"median at batch {quickest.batch}", quickest.ran.file),
        Tile(words.per_second(busiest.images_per_second), f"images/s at batch {busiest.batch}", busiest.ran.file),
    ]
    if gained.speed_up > 1:
        found.append(Tile(words.times(gained.speed_up), f"of {of.timings[0].ran.file} at batch {gained.batch}", gained.ran.file))
    return found


def sections(of: BenchmarkReport) -> list[Section]:
    """Latency and its distribution, throughput over the batch size, and all figures."""
    first = min(t.batch for t in of.timings)
    # A plan's twin beside that twin is one measurement, and would be one line on top of the other.
    files = {t.ran.file for t in of.timings}
    drawn_once = [t for t in of.timings if t.ran.twin_of is None or t.ran.running not in files]
    latency = [
        Series(t.ran.file, t.latencies_ms, text=f"{words.milliseconds(t.p50_ms)} ms", colour=colour(t.ran))
        for t in drawn_once
        if t.batch == first
    ]
    drawn = [
        html.figure(
            plots.distributions(f"Latency at batch {first}", latency, tick="{:g} ms".format),
            f"Latency at batch {first}, milliseconds: every call, and its median",
        )
    ]
    if len({t.batch for t in of.timings}) > 1:
        lines = [_line([t for t in drawn_once if t.ran.file == file]) for file in dict.fromkeys(t.ran.file for t in drawn_once)]
        throughput = plots.lines("Throughput over the batch size", lines, x_label="batch size", tick="{:,.0f}".format)
        drawn.append(html.figure(throughput, "Throughput, images a second", plots.legend(lines)))
    tables = [_batch_table(of, batch) for batch in dict.fromkeys(t.batch for t in of.timings)]
    return [Section("Speed", html.join(html.figures(*drawn), *tables))]


def _line(each: Sequence[Timing]) -> Series:
    """Throughput of one artifact over its batch sizes."""
    ran = each[0].ran
    return Series(
        ran.file,
        [t.images_per_second for t in each],
        [t.batch for t in each],
        colour=colour(ran),
        dashed=ran.form is GraphForm.TENSORRT,
    )


def _batch_table(of: BenchmarkReport, batch: int) -> html.Markup:
    rows = [
        [
            t.ran.file,
            words.milliseconds(t.p50_ms),
            words.milliseconds(t.p90_ms),
            words.milliseconds(t.p99_ms),
            words.per_second(t.images_per_second),
            words.times(t.speed_up),
            words.times_interval(t.speed_up_interval),
            f"{t.runs:,}",
            words.ran_on(t.ran),
        ]
        for t in of.timings
        if t.batch == batch
    ]
    columns = ["artifact", ">p50 ms", ">p90 ms", ">p99 ms", ">images/s", ">speed-up", "95 %", ">runs", "ran on"]
    return html.table(f"Batch {batch}; speed-up against {of.timings[0].ran.file}.", columns, rows, key=1)
