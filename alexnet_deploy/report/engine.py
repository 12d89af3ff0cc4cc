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
            [[a.path.name, _what(a.manifest), words.size(a.manifest.size_bytes)] for a in of.artifacts],
        )
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
            pairs.append(("half precision", f"{', '.join(of.skipped)} left as they were"))
        if of.plan.manifest.twin:
            pairs.append(("without a GPU", f"{of.plan.manifest.twin.file} runs instead"))
        pairs.append(("took", ", ".join(f"{step} {words.seconds(seconds)}" for step, seconds in of.seconds.items())))
        if of.messages:
            pairs.append(("TensorRT", f"{words.count(len(of.messages), 'remark')}, which --json shows"))
        terminal.facts(console, pairs)

    return show


def _what(manifest: Manifest) -> str:
    if manifest.kind == "plan":
        return f"{manifest.precision} engine"
    return f"{manifest.precision} graph" + (f", {manifest.form} form" if manifest.form else "")


def _built_by(plan: PlanRecord) -> str:
    return f"{plan.flavour} {plan.version} for {', '.join(plan.capabilities)}"
