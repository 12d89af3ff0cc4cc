"""What benchmarks/runtime.py writes: the figures as JSON, and as Markdown with their plots."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rounds import Rounds

from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.report import plots
from alexnet_deploy.report.html import Markup

_MOST_LATENCIES = 200
_INTRODUCTION = """\
# Runtime on the CPU

Full-size AlexNet, 224 px. Contenders take turns in one process; *times as fast* is the median of the ratios within a round, with
its 95 % interval, and above 1 is faster than the row in bold. Rounds in which other processes kept more than 0.15 CPUs busy are
left out. `python benchmarks/runtime.py` makes all of it again; this is one run of {minutes:.1f} minutes.

{machine}
"""


@dataclass(frozen=True)
class Part:
    """One chapter of the report.

    Attributes:
        name, text: its title, and what is measured in it.
        tables: title -> what was measured, and the contender that the others are compared with.
    """

    name: str
    text: str
    tables: dict[str, tuple[Rounds, str]]


def write_report(folder: Path, parts: list[Part], tried: Path, seconds: float) -> None:
    """Writes runtime-cpu.json, runtime-cpu.md and runtime-*.svg into `folder`; `tried` is a TuneReport as JSON."""
    machine = to_builtins(Machine.here())
    tables = {part.name: {title: _table(*measured) for title, measured in part.tables.items()} for part in parts}
    tuning = json.loads(tried.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("runtime-*.svg"):
        old.unlink()
    kept = {"machine": machine, "seconds": seconds, "parts": tables, "tuning": tuning}
    (folder / "runtime-cpu.json").write_text(json.dumps(kept, indent=1) + "\n")
    text = [_INTRODUCTION.format(minutes=seconds / 60, machine=_machine(machine))]
    for part in parts:
        text += [f"## {part.name}", "", part.text, ""]
        if part.name == "tuned":
            text += [*_tried(tuning), ""]
        for title, table in tables[part.name].items():
            left_out = f", {table['left_out']} more left out" if table["left_out"] else ""
            text += [f"**{title}** ({table['rounds']} rounds{left_out}; others kept {table['foreign_cpus']:.2f} CPUs busy)", ""]
            text += [*_rows(part.name, table), ""]
        text += [line for drawn in _plots(folder, part.name, tables[part.name]) for line in (drawn, "")]
    (folder / "runtime-cpu.md").write_text("\n".join(text).rstrip() + "\n")


def _table(rounds: Rounds, base: str) -> dict[str, Any]:
    """What the report needs, and anybody who wants to look closer: percentiles, ratios, and some latencies of each."""
    rows = {}
    for label, samples in rounds.samples.items():
        low, middle, high = np.quantile(samples, (0.1, 0.5, 0.9))
        ratio, worst, best = rounds.ratio(base, label)
        rows[label] = {
            "median_ms": middle,
            "p10_ms": low,
            "p90_ms": high,
            "times_as_fast": ratio,
            "interval": [worst, best],
            "added_us": rounds.difference_us(label, base),
            "latencies_ms": np.round(samples.reshape(-1)[:_MOST_LATENCIES], 4).tolist(),
        }
    first = next(iter(rounds.samples.values()))
    return {"base": base, "rounds": len(first), "left_out": rounds.left_out, "foreign_cpus": rounds.foreign, "rows": rows}


def _rows(part: str, table: dict[str, Any]) -> list[str]:
    last = "added, us" if part == "overhead" else "times as fast"
    rows = [f"| | median, ms | p10 | p90 | {last} |", "| --- | ---: | ---: | ---: | ---: |"]
    for label, row in table["rows"].items():
        low, high = row["interval"]
        end = f"{row['added_us']:+.0f}" if part == "overhead" else f"{row['times_as_fast']:.2f} ({low:.2f} to {high:.2f})"
        named = f"**{label}**" if label == table["base"] else label
        rows.append(f"| {named} | {row['median_ms']:.3f} | {row['p10_ms']:.3f} | {row['p90_ms']:.3f} | {end} |")
    return rows


def _tried(report: dict[str, Any]) -> list[str]:
    """The table of `tune`: those that were compared with the reference, and how many more were slower."""
    compared = [trial for trial in report["trials"] if trial["agreement"] is not None]
    others = len(report["trials"]) - len(compared)
    rows = [
        f"What it tried ({report['pictures']:,} pictures, {report['machine']['measured'][:10]}; {others} slower ways left out):",
        "",
        "| form | backend | threads | ms | drop, points | same answers | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for trial in compared:
        drop = "" if trial["drop"] is None else f"{trial['drop']:.2f}"
        rows.append(
            f"| {trial['file']} ({trial['precision']}) | {trial['backend']} | {trial['threads']} | {trial['latency_ms']:.2f} "
            f"| {drop} | {100 * trial['agreement']:.1f} % | {trial['verdict']} |"
        )
    return rows


def _plots(folder: Path, part: str, tables: dict[str, Any]) -> list[str]:
    """Markdown of the plots of a part, which it writes."""
    if part in ("overhead", "cold"):
        return []
    drawn = []
    for title, table in tables.items():
        marks = [plots.Mark(k, f"{row['median_ms']:.2f} ms", row["median_ms"]) for k, row in table["rows"].items()]
        name = f"{part}-{title.replace(',', '').replace(' ', '-')}"
        drawn.append(_write(folder, name, f"{part}, {title}: median, ms", plots.bars(f"{part}, {title}", marks)))
    if part in ("peers", "tuned"):
        rows = tables["batch 1"]["rows"]
        latency = [plots.Series(name, row["latencies_ms"], colour=i + 1) for i, (name, row) in enumerate(rows.items())]
        drawn.append(
            _write(folder, f"{part}-latency", "Latency at batch 1, ms", plots.distributions("Latency at batch 1", latency))
        )
    if part == "peers":
        drawn.append(_throughput(folder, tables))
    return drawn


def _throughput(folder: Path, tables: dict[str, Any]) -> str:
    by_batch = {
        int(title.removeprefix("batch ")): t["rows"] for title, t in tables.items() if title.removeprefix("batch ").isdigit()
    }
    speed = [
        plots.Series(name, [1000 * b / rows[name]["median_ms"] for b, rows in by_batch.items()], list(by_batch), colour=i + 1)
        for i, name in enumerate(by_batch[1])
    ]
    drawing = plots.lines("Throughput, pictures a second", speed, x_label="batch size", tick="{:,.0f}".format)
    title = "Throughput over the batch size, pictures a second"
    return _write(folder, "peers-throughput", title, _with_key(drawing, speed))


def _with_key(drawing: Markup, each: list[plots.Series]) -> Markup:
    """The lines of a plot named below it, inside of the same SVG."""
    before, height = re.split(r'(?<=viewBox="0 0 )(\d+ )(\d+)', drawing, maxsplit=1)[1:3]
    rows = []
    for row, (key, name) in enumerate(re.findall(r"<li><svg(.*?</svg>)(.*?)</li>", str(plots.legend(each)))):
        y = int(height) + 20 * row
        rows.append(f'<svg x="52" y="{y}" width="22" height="12"{key}<text x="82" y="{y + 10}">{name}</text>')
    taller = f'viewBox="0 0 {before}{int(height) + 20 * len(rows)}"'
    longer = drawing.replace(f'viewBox="0 0 {before}{height}"', taller).removesuffix("</svg>")
    return Markup(f"{longer}{''.join(rows)}</svg>")


def _write(folder: Path, name: str, title: str, drawing: Markup) -> str:
    """Writes one plot as an SVG that a file viewer draws as well; returns the Markdown that shows it."""
    (folder / f"runtime-{name}.svg").write_text(plots.as_file(drawing))
    return f"![{title}](runtime-{name}.svg)"


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
    vnni = "VNNI" if machine["vnni"] else "no VNNI"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {vnni}, Python {machine['python']}; {packages}; {machine['measured'][:10]}."
    )
