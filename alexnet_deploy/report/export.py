"""What `export` and `adopt` say when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.report import terminal, words

if TYPE_CHECKING:
    from rich.console import Console

    from alexnet_deploy.export import ExportReport


def exported(report: ExportReport) -> terminal.Show:
    def show(console: Console) -> None:
        terminal.facts(
            console,
            [
                *_artifact(report.artifact),
                (
                    "compared",
                    f"with PyTorch on {report.pictures} pictures of {report.location}: "
                    f"logits within {report.max_abs_error:.2g} of {report.largest_logit:.3g}, "
                    f"same best class on {words.percent(report.agreement)}",
                ),
                ("took", words.seconds(report.seconds)),
            ],
        )

    return show


def adopted(artifact: Artifact) -> terminal.Show:
    def show(console: Console) -> None:
        terminal.facts(console, [*_artifact(artifact), ("notes", artifact.manifest.notes)])

    return show


def _artifact(artifact: Artifact) -> list[tuple[str, terminal.Cell]]:
    manifest = artifact.manifest
    return [
        ("wrote", f"{artifact.path} ({words.size(manifest.size_bytes)})"),
        ("input", str(manifest.input)),
        ("output", f"{manifest.output}, {manifest.output_kind}"),
    ]
