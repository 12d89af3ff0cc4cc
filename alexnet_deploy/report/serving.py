"""What a server did, once it has stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from alexnet_deploy.report.terminal import Show

if TYPE_CHECKING:
    from alexnet_deploy.serving.running import Summary

_WORDS = {"ok": "answered", "shed": "shed (503)", "refused": "refused (4xx)", "cancelled": "hung up", "error": "failed (5xx)"}


def served(summary: Summary) -> Show:
    def show(console: Console) -> None:
        counts = ", ".join(f"{count:,} {_WORDS[outcome]}" for outcome, count in summary.requests.items()) or "no requests"
        console.print(f"stopped after {summary.seconds:,.0f} s: {counts}")

    return show
