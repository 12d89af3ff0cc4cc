"""The artifact: a file and the manifest beside it, read together, checked together, written so that both are whole.

The file is written first, its manifest last, each to a temporary name and renamed: a manifest means a whole file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from alexnet_deploy import logs
from alexnet_deploy.errors import ArtifactCorrupt, ArtifactMissing, InputError, ManifestError
from alexnet_deploy.external_data import has_external_data
from alexnet_deploy.files import file_sha256, replacing
from alexnet_deploy.manifest import FORMAT, KIND_OF_SUFFIX, Lineage, Manifest

log = logs.logger(__name__)

MAX_MANIFEST_BYTES = 16 << 20


class Artifact(msgspec.Struct, frozen=True):
    """A file and its manifest, known to fit each other at the time of `open`."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, check_hash: bool = True) -> Artifact:
        """Reads the manifest beside `path` and checks that the file is the one it describes.

        Raises:
            ArtifactMissing: there is no such file.
            ManifestError: there is no manifest, or it is unreadable.
            ArtifactCorrupt: size or SHA-256 differ from the manifest's.
        """
        path = existing_file(path)
        manifest = read_manifest(path)
        artifact = cls(path, manifest)
        size_bytes = path.stat().st_size
        if size_bytes != manifest.size_bytes:
            raise ArtifactCorrupt(
                f"{path} has {size_bytes:,} bytes, its manifest says {manifest.size_bytes:,}",
                expected="the file that the manifest was written for",
                fix="make it again, or copy the file and its .json together",
            )
        if check_hash:
            artifact.check_hash()
        return artifact

    def check_hash(self) -> None:
        """Checks that the file's SHA-256 is the manifest's, and covers all of the artifact.

        Raises:
            ArtifactCorrupt: it is not, or weights are in other files.
            ArtifactMissing: the file cannot be read any more.
        """
        try:
            found = file_sha256(self.path)
            elsewhere = self.manifest.kind == "onnx" and has_external_data(self.path)
        except OSError as error:
            raise ArtifactMissing(f"{self.path} cannot be read: {error.strerror}", expected="a file that stays there") from error
        if found != self.manifest.sha256:
            raise ArtifactCorrupt(
                f"{self.path} has SHA-256 {found[:12]}…, its manifest says {self.manifest.sha256[:12]}…",
                expected="a file unchanged since it was made",
                fix="make it again, or copy the file and its .json together",
            )
        if elsewhere:
            raise ArtifactCorrupt(
                f"{self.path} keeps weights in other files, which the hash in its manifest says nothing about",
                expected="a graph in one file",
                fix="alexnet-deploy adopt, which puts them into one",
            )

    def twin(self, *, check_hash: bool = True) -> Artifact | None:
        """The twin graph beside a plan, checked, or None when the manifest names none.

        Raises:
            ArtifactError: the twin is missing or not the one that the manifest names.
        """
        if self.manifest.twin is None:
            return None
        twin = Artifact.open(self.path.parent / self.manifest.twin.file, check_hash=check_hash)
        if twin.manifest.sha256 != self.manifest.twin.sha256:
            raise ArtifactCorrupt(
                f"{twin.path} is not the twin that {self.path.name} was built with",
                expected=f"SHA-256 {self.manifest.twin.sha256[:12]}…, found {twin.manifest.sha256[:12]}…",
                fix="build the engine again: alexnet-deploy build-engine",
            )
        return twin

    def lineage(self) -> tuple[Lineage, ...]:
        """This artifact and its ancestors, as the `parents` of one that is made from it."""
        own = Lineage(kind=self.manifest.kind, file=self.path.name, sha256=self.manifest.sha256)
        return (own, *self.manifest.parents)


def manifest_path(path: Path) -> Path:
    """Where the manifest of the artifact at `path` is: `engine.plan` -> `engine.plan.json`."""
    return Path(f"{path}.json")


def existing_file(path: str | Path) -> Path:
    """`path` as a Path. Raises ArtifactMissing unless it is a readable, ordinary file."""
    path = Path(path)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise ArtifactMissing(f"{path} cannot be looked at: {error.strerror}", expected="an artifact file") from error
    if is_folder:
        raise ArtifactMissing(f"{path} is a folder", expected="an artifact file")
    if not is_file:
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in KIND_OF_SUFFIX)[:8] if path.parent.is_dir() else []
        raise ArtifactMissing(
            f"{path} does not exist",
            expected=f"one of {', '.join(near)}" if near else "",
            fix="" if near else "alexnet-deploy export, which makes alexnet.onnx; then alexnet-deploy build-engine",
        )
    if not os.access(path, os.R_OK):
        raise ArtifactMissing(f"{path} may not be read", expected="a file that you may read", fix=f"chmod +r {path}")
    return path


def read_manifest(path: Path) -> Manifest:
    """The manifest beside the artifact at `path`.

    Raises:
        ManifestError: it is missing, unreadable, too large, not JSON, or not of this schema.
    """
    where = manifest_path(path)
    if not where.is_file():
        raise ManifestError(
            f"{path} has no manifest ({where.name})",
            expected="the .json that is written beside every artifact",
            fix=f"alexnet-deploy adopt {path} --help, for a file from elsewhere"
            if path.suffix == ".onnx"
            else "copy it together with the file, or make the artifact again",
        )
    try:
        if where.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{where} is over {MAX_MANIFEST_BYTES >> 20} MB", expected="a manifest")
        manifest = msgspec.json.decode(where.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(
            f"{where} is no manifest: {short(str(error))}",
            expected=f"JSON as alexnet-deploy writes it, format {FORMAT}",
            fix="make the artifact again",
        ) from error
    except OSError as error:
        raise ManifestError(
            f"{where} cannot be read: {error.strerror}", expected="a file that you may read", fix=f"chmod +r {where}"
        ) from error
    if manifest.file != path.name:
        raise ManifestError(
            f"{where} describes {short(manifest.file)!r}, not {path.name!r}",
            expected="a manifest that was written for this file",
            fix="rename the file back, or make it again",
        )
    return manifest


def write_artifact(path: str | Path, manifest: Manifest, write: Callable[[Path], object] | bytes) -> Artifact:
    """Writes an artifact and its manifest so that no reader ever accepts half of it.

    Args:
        path: where it goes; its folder is made when it is missing.
        manifest: what is known about it; file, size_bytes, sha256 and created are filled in here.
        write: the content, or a function that writes the file at the temporary path it is given.

    Returns:
        The artifact, with the completed manifest.

    Raises:
        InputError: the manifest cannot hold the name.
        ArtifactMissing: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the name {path.name!r} is no UTF-8", expected="one that the manifest, which is JSON, can hold"
        ) from error
    with replacing(path) as temporary:
        if isinstance(write, bytes):
            temporary.write_bytes(write)
        else:
            write(temporary)
        manifest = structs.replace(
            manifest,
            file=path.name,
            size_bytes=temporary.stat().st_size,
            sha256=file_sha256(temporary),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    _write_manifest(path, manifest)
    log.info("wrote %s, %d bytes, sha256 %s", path, manifest.size_bytes, manifest.sha256)
    return Artifact(path, manifest)


def update_manifest(artifact: Artifact, **changes: Any) -> Artifact:
    """Replaces fields of an artifact's manifest on the disk; the artifact itself is not touched."""
    manifest = structs.replace(artifact.manifest, **changes)
    _write_manifest(artifact.path, manifest)
    return Artifact(artifact.path, manifest)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with replacing(manifest_path(path)) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def short(text: str) -> str:
    """What somebody else wrote, on one line of a message."""
    return " ".join(text[:200].split()) + ("…" if len(text) > 200 else "")
