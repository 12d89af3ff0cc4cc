"""What lies in a package, and under which name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import ArtifactCorrupt, ArtifactError

SUFFIX = ".zip"
FORMAT = "alexnet-deploy-package/1"
INDEX, LABELS, LICENCE, SUMS, SIGNATURE = "package.json", "labels.txt", "LICENSE", "SHA256SUMS", "SHA256SUMS.sig"
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Index:
    """package.json.

    Attributes:
        artifacts: file names, the one to run first.
    """

    artifacts: tuple[str, ...]
    format: str = FORMAT


def broken(path: Path, what: str, expected: str = "a package as `alexnet-deploy package` writes it") -> ArtifactError:
    return ArtifactCorrupt(f"{path} {what}", expected=expected, fix="get it again from where it was made")
