"""Writing packages."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import msgspec

from alexnet_deploy.artifact import Artifact, existing_file, manifest_path
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import file_sha256, replacing
from alexnet_deploy.package.layout import INDEX, LABELS, LICENCE, PIECE_BYTES, SIGNATURE, SUFFIX, SUMS, Index, is_plain
from alexnet_deploy.package.signature import signature

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same archive


@dataclass(frozen=True, slots=True)
class PackageReport:
    """What was packed.

    Attributes:
        path: of the package.
        files: name and size in bytes of each.
        size_bytes, sha256: of the package.
        signed: whether it carries a signature.
    """

    path: Path
    files: dict[str, int]
    size_bytes: int
    sha256: str
    signed: bool


def write_package(
    artifacts: Sequence[Artifact], output: Path, *, sign: Path | None = None, licence: Path | None = None
) -> PackageReport:
    """Packs artifacts, each with its manifest and its twin.

    Args:
        artifacts: the one to run first.
        output: ends in .zip.
        sign: an Ed25519 private key, PEM without a password.
        licence: a text for the models.

    Raises:
        InputError: nothing to pack, two different files of one name, a name that cannot be unpacked, or a key that is none.
        ArtifactError: a file has changed since its manifest was written.
    """
    if output.suffix != SUFFIX:
        raise InputError(f"{output} does not end in {SUFFIX}", expected=f"a name such as model{SUFFIX}", fix=f"-o model{SUFFIX}")
    if not artifacts:
        raise InputError("there is nothing to pack", expected="at least one artifact")
    sources: dict[str, Path] = {}
    for artifact in artifacts:
        twin = artifact.twin()
        for part in (artifact, *([twin] if twin else [])):
            part.check_hash()
            for path in (part.path, manifest_path(part.path)):
                if sources.setdefault(path.name, path).resolve() != path.resolve():
                    raise InputError(f"{sources[path.name]} and {path} have the same name", expected="a name of its own for each")
    for name in sources:
        if not is_plain(name):
            raise InputError(
                f"{name!r} is no name for a file in a package",
                expected="printable letters, none of them / \\ or :",
                fix="make the artifact again, under another name",
            )
    if licence is not None:
        sources[LICENCE] = existing_file(licence)
    own = {INDEX: msgspec.json.encode(Index(tuple(dict.fromkeys(a.path.name for a in artifacts))))}
    if artifacts[0].manifest.labels:
        own[LABELS] = "".join(f"{label}\n" for label in artifacts[0].manifest.labels).encode()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in own.items()}
    sums |= {name: file_sha256(path) for name, path in sources.items()}
    own[SUMS] = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
    if sign is not None:
        own[SIGNATURE] = signature(own[SUMS], sign)
    with replacing(output) as temporary, ZipFile(temporary, "w", ZIP_STORED, strict_timestamps=False) as archive:
        for name, content in own.items():
            archive.writestr(ZipInfo(name, _EPOCH), content)
        for name, path in sources.items():
            with path.open("rb") as file, archive.open(ZipInfo(name, _EPOCH), "w", force_zip64=True) as packed:
                shutil.copyfileobj(file, packed, PIECE_BYTES)
    with ZipFile(output) as archive:
        files = {entry.filename: entry.file_size for entry in archive.infolist()}
    return PackageReport(output, files, output.stat().st_size, file_sha256(output), sign is not None)
