"""How an accuracy budget was held, for a person."""

from __future__ import annotations

from rich.console import Console

from alexnet_deploy.budget import BudgetReport
from alexnet_deploy.report import html, plots, terminal, words
from alexnet_deploy.report.html import Section
from alexnet_deploy.report.plots import Mark
from alexnet_deploy.report.terminal import Show


def budget(of: BudgetReport) -> Show:
    """The sensitivity table, where one was needed, and what was measured with each number of layers given back."""

    def show(console: Console) -> None:
        if of.layers:
            terminal.heading(console, "Each layer quantised alone")
            terminal.table(
                console,
                ["layer", "operator", ">SQNR dB", ">agreement", ">top-1 points"],
                [
                    [row.layer, row.op, f"{row.sqnr_db:.1f}", words.percent(row.agreement), f"{row.top1_change or 0:+.2f}"]
                    for row in of.layers
                ],
            )
        terminal.heading(console, f"Accuracy budget: at most {of.max_drop:g} points, on {of.pictures:,} pictures")
        terminal.table(
            console,
            ["left in half precision", ">TensorRT form", ">CPU form", ">agreement"],
            [
                [
                    ", ".join(step.skipped) or "nothing",
                    *(_points(step.top1_change.get(form)) for form in ("tensorrt", "cpu")),
                    words.percent(min(step.agreement.values())),
                ]
                for step in of.steps
            ],
        )

    return show


def budget_section(of: BudgetReport) -> Section:
    """What holding the budget took: each measurement, and each layer's share of the noise."""
    steps = html.table(
        f"At most {of.max_drop:g} points, on {of.pictures:,} pictures",
        ["left in half precision", "TensorRT form", "CPU form", "agreement"],
        [
            [
                ", ".join(step.skipped) or "nothing",
                *(_points(step.top1_change.get(form)) for form in ("tensorrt", "cpu")),
                words.percent(min(step.agreement.values())),
            ]
            for step in of.steps
        ],
    )
    if not of.layers:
        return Section("Accuracy budget", steps)
    marks = [
        Mark(
            row.layer,
            f"{row.sqnr_db:.1f} dB, {row.top1_change or 0:+.2f} points",
            row.sqnr_db,
            colour=2 if row.layer in of.skipped else 1,
        )
        for row in of.layers
    ]
    drawn = html.figure(
        plots.bars("Signal over noise at the logits", marks),
        "Each layer quantised alone: signal over noise at the logits, in decibels. Short bars are the layers that cost most; "
        "those of the other colour were left in half precision.",
    )
    return Section("Accuracy budget", html.join(steps, drawn))


def _points(change: float | None) -> str:
    return "" if change is None else f"{change:+.2f} points"
