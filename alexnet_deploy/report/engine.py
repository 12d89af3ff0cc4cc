"""What building an engine made, for a person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from alexnet_deploy.budget import BudgetReport
from alexnet_deploy.engine import EngineReport
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import CalibrationRecord, Manifest, PlanRecord
from alexnet_deploy.quantization.calibration import Distribution
from alexnet_deploy.report import html, plots, terminal, words
from alexnet_deploy.report.budget import budget_section
from alexnet_deploy.report.html import Section
from alexnet_deploy.report.terminal import Show


def engine(of: EngineReport) -> Show:
    """A line for each file, then what the plan was built for and how its ranges were found."""

    def show(console: Console) -> None:
        terminal.table(
            console,
            ["file", "what", ">size"],
            [[a.path.name, _what(a.manifest), words.size(a.manifest.size_bytes)] for a in of.artifacts],
        )
        terminal.facts(console, _facts(of))

    return show


def _facts(of: EngineReport) -> list[tuple[str, str]]:
    plan = of.plan.manifest.plan
    pairs = [("folder", str(of.plan.path.parent))]
    if plan:
        pairs.append(("built by", _built_by(plan)))
    pairs.append(("batch", f"{of.batch.min} to {of.batch.max}, fastest at {of.batch.opt}"))
    if of.calibration:
        data = of.calibration.data
        kept = "the best of several on pictures held back" if of.calibration.chosen_by == "auto" else "as asked"
        pairs.append(("calibrated", f"{of.calibration.method} ({kept}), {data.count:,} pictures of {data.location}"))
    if of.skipped:
        pairs.append(("half precision", ", ".join(of.skipped)))
    if of.plan.manifest.twin:
        pairs.append(("without a GPU", f"{of.plan.manifest.twin.file} runs instead"))
    pairs.append(("took", ", ".join(f"{step} {words.seconds(seconds)}" for step, seconds in of.seconds.items())))
    if of.messages:
        pairs.append(("TensorRT", f"{words.count(len(of.messages), 'remark')}, which --json shows"))
    return pairs


def calibration_section(found: CalibrationRecord, activations: Sequence[Distribution]) -> Section:
    """Where the ranges came from, and what each cuts off."""
    chosen = "chosen as the best of several on pictures held back" if found.chosen_by == "auto" else "as asked"
    drawn = [
        html.figure(
            plots.histogram(
                f"Values of {each.tensor}",
                np.linspace(each.low, each.high, len(each.counts) + 1),
                np.array(each.counts),
                each.kept,
            ),
            f"{each.tensor}: {each.kept[0]:.3g} to {each.kept[1]:.3g}",
        )
        for each in activations
    ]
    about = html.facts(
        [
            ("method", f"{found.method}, {chosen}"),
            ("pictures", f"{words.count(found.data.count, 'picture')} of {found.data.location}, seed {found.seed}"),
        ]
    )
    how = html.paragraph(
        "How often each value occurs in what goes into the quantised layers (logarithmic), and between the two strokes the range "
        "that 8 bits keep. A narrow range has finer steps; what lies outside is clipped."
    )
    return Section("Calibration", html.join(about, how, html.figures(*drawn)))


def engine_page(of: EngineReport, held: BudgetReport | None) -> str:
    """The HTML of `build-engine --html`."""
    lead = f"{of.plan.path.name}, and the graphs that it was made from."
    files = html.table(
        "Files",
        ["file", "what", "size"],
        [[a.path.name, _what(a.manifest), words.size(a.manifest.size_bytes)] for a in of.artifacts],
    )
    sections = [Section("Engine", html.join(files, html.facts(_facts(of))))]
    if held is not None:
        sections.append(budget_section(held))
    if of.calibration and of.activations:
        sections.append(calibration_section(of.calibration, of.activations))
    return html.page("Engine", lead, sections, footer=words.machine(Machine.here()))


def _what(manifest: Manifest) -> str:
    if manifest.kind == "plan":
        return f"{manifest.precision} engine"
    return f"{manifest.precision} graph" + (f", {manifest.form} form" if manifest.form else "")


def _built_by(plan: PlanRecord) -> str:
    return f"{plan.flavour} {plan.version} for {', '.join(plan.capabilities)}"
