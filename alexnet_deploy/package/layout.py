"""What lies in a package, and under which name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import ArtifactCorrupt, ArtifactError

SUFFIX = ".zip"
FORMAT = "alexnet-deploy-package/1"
INDEX, LABELS, LICENCE, SUMS, SIGNATURE = "package.json", "labels.txt", "LICENSE", "SHA256SUMS", "SHA256SUMS.sig"
PIECE_BYTES = 1 << 20
_MAX_NAME_BYTES = 255  # of a file system


@dataclass(frozen=True, slots=True)
class Index:
    """package.json.

    Attributes:
        artifacts: file names, the one to run first.
    """

    artifacts: tuple[str, ...]
    format: str = FORMAT


def is_plain(name: str) -> bool:
    """Whether a name means a file in the package's own folder, whichever system unpacks it, and stands on one line of a list."""
    named = name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\:")
    return named and len(name.encode()) <= _MAX_NAME_BYTES


def broken(path: Path, what: str, expected: str = "a package as `alexnet-deploy package` writes it") -> ArtifactError:
    return ArtifactCorrupt(f"{path} {what}", expected=expected, fix="get it again from where it was made")
