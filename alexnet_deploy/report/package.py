"""What is in a package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from alexnet_deploy.report.terminal import Show, facts, table

if TYPE_CHECKING:
    from alexnet_deploy.package import PackageReport


def packed(report: PackageReport) -> Show:
    def show(console: Console) -> None:
        table(console, ("file", ">bytes"), [(name, f"{size:,}") for name, size in report.files.items()])
        facts(
            console,
            [
                ("package", str(report.path)),
                ("bytes", f"{report.size_bytes:,}"),
                ("sha256", report.sha256),
                ("signed", "yes, Ed25519" if report.signed else "no"),
            ],
        )

    return show
