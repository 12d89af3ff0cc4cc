"""Reading packages, which may come from anybody."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec

from alexnet_deploy.artifact import Artifact, existing_file
from alexnet_deploy.errors import AlexnetDeployError, InputError
from alexnet_deploy.files import file_sha256
from alexnet_deploy.folders import cache_folder
from alexnet_deploy.package.layout import FORMAT, INDEX, PIECE_BYTES, SIGNATURE, SUFFIX, SUMS, Index, broken, is_plain
from alexnet_deploy.package.signature import SIGNATURE_BYTES, check_signature

TRUST_VARIABLE = "ALEXNET_DEPLOY_TRUST"
_BEFORE_THE_BEGINNING = errno.EINVAL  # of a file: where an archive may say that something of it is
_MAX_LIST_BYTES = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\0\n]+)")


def open_package(path: str | Path, *, trust: str | Path | None = None, name: str = "") -> Artifact:
    """Checks a package, unpacks it into the cache, and opens an artifact of it.

    Args:
        trust: an Ed25519 public key, PEM, that must have signed it; $ALEXNET_DEPLOY_TRUST when None. Without either, the
            hashes are checked, which shows damage but no malice.
        name: an artifact of the package; its first when "".

    Raises:
        ArtifactMissing: there is no such file.
        ArtifactCorrupt: it is no package, is damaged, or the signature is missing or wrong.
        InputError: the cache cannot be written to, or is not this user's alone; or there is no such name.
    """
    path = existing_file(path)
    trust = trust or os.environ.get(TRUST_VARIABLE)
    with _reading(path), ZipFile(path) as archive:
        entries = _entries(path, archive)
        # Read once: what is trusted, what is checked and what names the folder are the same bytes, whoever writes meanwhile.
        sums = _sums(path, archive, entries)
        listed = _listed(path, sums, entries)
        if trust:
            whole = SIGNATURE in entries and entries[SIGNATURE].file_size == SIGNATURE_BYTES
            check_signature(path, sums, archive.read(SIGNATURE) if whole else None, Path(trust))
        with _writing(path):
            folder = _own_folder() / hashlib.sha256(sums).hexdigest()
            if not _is_whole(folder, listed):
                _unpack(path, archive, entries, listed, folder)
    index = _index(path, folder, listed)
    if name and name not in index.artifacts:
        raise InputError(f"{path} holds no artifact {name!r}", expected=f"one of {', '.join(index.artifacts)}")
    return Artifact.open(folder / (name or index.artifacts[0]))


def open_artifact(path: str | Path, *, check_hash: bool = True) -> Artifact:
    """`Artifact.open` for a file with its manifest beside it, `open_package` for a package."""
    if Path(path).suffix == SUFFIX:
        return open_package(path)
    return Artifact.open(path, check_hash=check_hash)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What zipfile raises for archives that are none, as ArtifactCorrupt."""
    try:
        yield
    except AlexnetDeployError:  # some of which are ValueErrors too
        raise
    except (BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError, struct.error) as error:
        raise broken(path, f"is no whole zip archive: {error}") from error
    except OSError as error:
        if error.errno != _BEFORE_THE_BEGINNING:
            raise
        raise broken(path, "is no whole zip archive: it points outside itself") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system says about the cache, as InputError."""
    try:
        yield
    except OSError as error:
        if error.errno == _BEFORE_THE_BEGINNING:
            raise
        raise InputError(
            f"{path} cannot be unpacked: {error.strerror} ({error.filename or cache_folder()})",
            expected="a folder that can be written to, with room for it",
            fix="ALEXNET_DEPLOY_CACHE=FOLDER",
        ) from error


def _entries(path: Path, archive: ZipFile) -> dict[str, ZipInfo]:
    """The archive's files. Raises ArtifactCorrupt for whatever `write_package` does not write."""
    entries: dict[str, ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        if not is_plain(name) or name in entries or entry.compress_type != ZIP_STORED or entry.flag_bits & 1:
            raise broken(path, f"holds {name[:64]!r}, which no package does")
        if entry.file_size != entry.compress_size:  # zipfile would read as much as the latter says
            raise broken(path, f"states a wrong size for {name[:64]!r}")
        entries[name] = entry
    # Entries that share their bytes would make much of little.
    if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
        raise broken(path, "states more bytes than it has")
    return entries


def _sums(path: Path, archive: ZipFile, entries: dict[str, ZipInfo]) -> bytes:
    if SUMS not in entries or entries[SUMS].file_size > _MAX_LIST_BYTES:
        raise broken(path, f"holds no {SUMS}")
    return archive.read(SUMS)


def _listed(path: Path, sums: bytes, entries: dict[str, ZipInfo]) -> dict[str, str]:
    """Name to SHA-256 of everything that the package must hold, and does."""
    matches = [_LINE.fullmatch(line) for line in sums.decode(errors="replace").splitlines()]
    listed = {match[2]: match[1] for match in matches if match}
    if len(listed) != len(matches) or set(entries) - {SUMS, SIGNATURE} != set(listed):
        raise broken(path, f"and its {SUMS} do not name the same files")
    return listed


def _own_folder() -> Path:
    """Where packages are unpacked. Raises InputError where another user could exchange what lies there after it was checked."""
    folder = cache_folder() / "packages"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise InputError(
            f"{folder} is not this user's alone",
            expected="a folder of this user's that nobody else may write to",
            fix=f"chmod 700 {folder}, or ALEXNET_DEPLOY_CACHE=FOLDER",
        )
    return folder


def _is_whole(folder: Path, listed: dict[str, str]) -> bool:
    return all((folder / name).is_file() and file_sha256(folder / name) == sha256 for name, sha256 in listed.items())


def _unpack(path: Path, archive: ZipFile, entries: dict[str, ZipInfo], listed: dict[str, str], folder: Path) -> None:
    """Writes everything into a new folder beside `folder`, checks it, and gives it that name."""
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    try:
        for name, sha256 in listed.items():
            with archive.open(entries[name]) as packed, (fresh / name).open("wb") as file:
                shutil.copyfileobj(packed, file, PIECE_BYTES)
            if file_sha256(fresh / name) != sha256:
                raise broken(path, f"is damaged: the SHA-256 of {name} is not the one that {SUMS} states")
        try:
            fresh.rename(folder)
        except OSError:
            if _is_whole(folder, listed):
                return  # another process has just been faster, and may be reading it already
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _index(path: Path, folder: Path, listed: Collection[str]) -> Index:
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=Index)
    except (OSError, msgspec.DecodeError) as error:
        raise broken(path, f"has no usable {INDEX}: {error}") from error
    if index.format != FORMAT or not index.artifacts or not set(index.artifacts) <= set(listed):
        raise broken(path, f"has a {INDEX} that does not fit it")
    return index
