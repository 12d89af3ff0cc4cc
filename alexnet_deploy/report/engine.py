"""What building an engine made, for a person."""

from __future__ import annotations

from rich.console import Console

from alexnet_deploy.engine import EngineReport
from alexnet_deploy.manifest import Manifest, PlanRecord
from alexnet_deploy.report import terminal, words
from alexnet_deploy.report.terminal import Show


def engine(of: EngineReport) -> Show:
    """A line for each file, then what the plan was built for and how its ranges were found."""

    def show(console: Console) -> None:
        terminal.table(
            console,
            ["file", "what", ">size"],
            [[str(a.path), _what(a.manifest), words.size(a.manifest.size_bytes)] for a in of.artifacts],
        )
        plan = of.plan.manifest.plan
        pairs = [("built by", _built_by(plan))] if plan else []
        pairs.append(("batch", f"{of.batch.min} to {of.batch.max}, fastest at {of.batch.opt}"))
        if of.calibration:
            data = of.calibration.data
            kept = "the best of several on pictures held back" if of.calibration.chosen_by == "auto" else "as asked"
            pairs.append(("calibrated", f"{of.calibration.method} ({kept}), {data.count:,} pictures of {data.location}"))
        if of.plan.manifest.twin:
            pairs.append(("without a GPU", f"{of.plan.manifest.twin.file} runs instead"))
        pairs.append(("took", ", ".join(f"{step} {words.seconds(seconds)}" for step, seconds in of.seconds.items())))
        terminal.facts(console, pairs)
        terminal.lines(console, [f"TensorRT remarks: {message}" for message in of.messages], style="dim")

    return show


def _what(manifest: Manifest) -> str:
    if manifest.kind == "plan":
        return f"{manifest.precision} engine"
    return f"{manifest.precision} graph" + (f", {manifest.form} form" if manifest.form else "")


def _built_by(plan: PlanRecord) -> str:
    return f"{plan.flavour} {plan.version} for {', '.join(plan.capabilities)}"
