"""What a run of batch scoring did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from alexnet_deploy.report.terminal import Show, facts

if TYPE_CHECKING:
    from alexnet_deploy.score import ScoreReport


def scored(report: ScoreReport) -> Show:
    def show(console: Console) -> None:
        pairs = [
            ("scored", f"{report.scored:,} pictures by {report.ran.running} with {report.ran.backend} on {report.ran.device}"),
            ("speed", f"{report.pictures_per_s:,.0f} a second, {report.workers} at once, {report.seconds:,.1f} s in all"),
            (
                "results",
                f"{report.output}, {report.shards:,} parts"
                + (f", {report.resumed:,} of them from before" if report.resumed else ""),
            ),
        ]
        if report.rejected:
            pairs.append(("rejected", f"{report.rejected:,} pictures; the reasons are in {report.output.rstrip('/')}/_rejects"))
        facts(console, pairs)

    return show
