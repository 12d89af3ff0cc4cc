"""Packages: a deployment in one file that can be moved, checked and run as it is.

    model.zip
      package.json       which artifacts it was made of, the one to run first
      engine.plan        each with its manifest, and a plan with its twin
      engine.plan.json
      labels.txt, LICENSE
      SHA256SUMS         of everything above, as sha256sum writes and checks it
      SHA256SUMS.sig     Ed25519, over the bytes of SHA256SUMS; only in a signed package

A plan is code that runs as soon as it is loaded: whoever opens packages of others should ask for a signature (`trust`).
Files are stored, not compressed: weights do not shrink, and nothing can be larger than the archive that it is in.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec

from alexnet_deploy.artifact import Artifact, existing_file, manifest_path
from alexnet_deploy.errors import AlexnetDeployError, ArtifactCorrupt, ArtifactError, InputError
from alexnet_deploy.extras import extra
from alexnet_deploy.files import file_sha256, replacing
from alexnet_deploy.folders import cache_folder

SUFFIX = ".zip"
TRUST_VARIABLE = "ALEXNET_DEPLOY_TRUST"
FORMAT = "alexnet-deploy-package/1"
INDEX, LABELS, LICENCE, SUMS, SIGNATURE = "package.json", "labels.txt", "LICENSE", "SHA256SUMS", "SHA256SUMS.sig"
_MAX_LIST_BYTES = 1 << 20
_MAX_NAME_BYTES = 255  # of a file system
_SIGNATURE_BYTES = 64
_PIECE_BYTES = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\0\n]+)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same archive


@dataclass(frozen=True, slots=True)
class Index:
    """package.json.

    Attributes:
        artifacts: file names, the one to run first.
    """

    artifacts: tuple[str, ...]
    format: str = FORMAT


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
        InputError: nothing to pack, two different files of one name, or a key that is none.
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
    if licence is not None:
        sources[LICENCE] = existing_file(licence)
    own = {INDEX: msgspec.json.encode(Index(tuple(dict.fromkeys(a.path.name for a in artifacts))))}
    if artifacts[0].manifest.labels:
        own[LABELS] = "".join(f"{label}\n" for label in artifacts[0].manifest.labels).encode()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in own.items()}
    sums |= {name: file_sha256(path) for name, path in sources.items()}
    own[SUMS] = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
    if sign is not None:
        own[SIGNATURE] = _signature(sign, own[SUMS])
    with replacing(output) as temporary, ZipFile(temporary, "w", ZIP_STORED, strict_timestamps=False) as archive:
        for name, content in own.items():
            archive.writestr(ZipInfo(name, _EPOCH), content)
        for name, path in sources.items():
            with path.open("rb") as file, archive.open(ZipInfo(name, _EPOCH), "w", force_zip64=True) as packed:
                shutil.copyfileobj(file, packed, _PIECE_BYTES)
    with ZipFile(output) as archive:
        files = {entry.filename: entry.file_size for entry in archive.infolist()}
    return PackageReport(output, files, output.stat().st_size, file_sha256(output), sign is not None)


def open_package(path: str | Path, *, trust: str | Path | None = None, name: str = "") -> Artifact:
    """Checks a package, unpacks it into the cache, and opens an artifact of it.

    Args:
        trust: an Ed25519 public key, PEM, that must have signed it; $ALEXNET_DEPLOY_TRUST when None. Without either, the
            hashes are checked, which shows damage but no malice.
        name: an artifact of the package; its first when "".

    Raises:
        ArtifactMissing: there is no such file.
        ArtifactCorrupt: it is no package, is damaged, or the signature is missing or wrong.
    """
    path = existing_file(path)
    trust = trust or os.environ.get(TRUST_VARIABLE)
    with _reading(path), ZipFile(path) as archive:
        entries = _entries(path, archive)
        # Read once: what is trusted, what is checked and what names the folder are the same bytes, whoever writes meanwhile.
        sums = _sums(path, archive, entries)
        listed = _listed(path, sums, entries)
        if trust:
            _check_signature(path, archive, entries, sums, Path(trust))
        folder = _own_folder() / hashlib.sha256(sums).hexdigest()
        if not _is_whole(folder, listed):
            _unpack(path, archive, entries, listed, folder)
    index = _index(path, folder, listed)
    if name and name not in index.artifacts:
        raise InputError(f"{path} holds no artifact {name!r}", expected=f"one of {', '.join(index.artifacts)}")
    return Artifact.open(folder / (name or index.artifacts[0]))


def open_artifact(path: str | Path, *, check_hash: bool = True, trust: str | Path | None = None) -> Artifact:
    """`Artifact.open` for a file with its manifest beside it, `open_package` for a package."""
    if Path(path).suffix == SUFFIX:
        return open_package(path, trust=trust)
    return Artifact.open(path, check_hash=check_hash)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What zipfile raises for archives that are none, as ArtifactCorrupt."""
    try:
        yield
    except AlexnetDeployError:  # some of which are ValueErrors too
        raise
    except (BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError, struct.error) as error:
        raise _broken(path, f"is no whole zip archive: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning, which the archive names
            raise
        raise _broken(path, "is no whole zip archive: it points outside itself") from error


def _entries(path: Path, archive: ZipFile) -> dict[str, ZipInfo]:
    """The archive's files. Raises ArtifactCorrupt for whatever `write_package` does not write."""
    entries: dict[str, ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        plain = name not in ("", ".", "..") and not set(name) & set("/\\\0\n:") and len(name.encode()) <= _MAX_NAME_BYTES
        if not plain or name in entries or entry.compress_type != ZIP_STORED or entry.flag_bits & 1:
            raise _broken(path, f"holds {name[:64]!r}, which no package does")
        if entry.file_size != entry.compress_size:
            raise _broken(path, f"states a wrong size for {name[:64]!r}")
        entries[name] = entry
    # Entries that share their bytes would make much of little.
    if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
        raise _broken(path, "states more bytes than it has")
    return entries


def _sums(path: Path, archive: ZipFile, entries: dict[str, ZipInfo]) -> bytes:
    if SUMS not in entries or entries[SUMS].file_size > _MAX_LIST_BYTES:
        raise _broken(path, f"holds no {SUMS}")
    return archive.read(SUMS)


def _listed(path: Path, sums: bytes, entries: dict[str, ZipInfo]) -> dict[str, str]:
    """Name to SHA-256 of everything that the package must hold, and does."""
    matches = [_LINE.fullmatch(line) for line in sums.decode(errors="replace").splitlines()]
    listed = {match[2]: match[1] for match in matches if match}
    if None in matches or len(listed) != len(matches) or set(entries) - {SUMS, SIGNATURE} != set(listed):
        raise _broken(path, f"and its {SUMS} do not name the same files")
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
                shutil.copyfileobj(packed, file, _PIECE_BYTES)
            if file_sha256(fresh / name) != sha256:
                raise _broken(path, f"is damaged: the SHA-256 of {name} is not the one that {SUMS} states")
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
        raise _broken(path, f"has no usable {INDEX}: {error}") from error
    if index.format != FORMAT or not index.artifacts or not set(index.artifacts) <= set(listed):
        raise _broken(path, f"has a {INDEX} that does not fit it")
    return index


def _signature(key_file: Path, content: bytes) -> bytes:
    with extra("sign", "signing a package"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(existing_file(key_file).read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise _no_key(key_file, "private", "openssl genpkey -algorithm ed25519 -out key.pem") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(key_file, "private", "openssl genpkey -algorithm ed25519 -out key.pem")
    return key.sign(content)


def _check_signature(path: Path, archive: ZipFile, entries: dict[str, ZipInfo], sums: bytes, trust: Path) -> None:
    with extra("sign", "checking a package's signature"):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    how = "openssl pkey -in key.pem -pubout -out trust.pem"
    try:
        key = load_pem_public_key(existing_file(trust).read_bytes())
    except (ValueError, TypeError) as error:
        raise _no_key(trust, "public", how) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(trust, "public", how)
    if SIGNATURE not in entries or entries[SIGNATURE].file_size != _SIGNATURE_BYTES:
        raise _broken(path, "is not signed", f"a signature by the key of {trust.name}")
    try:
        key.verify(archive.read(SIGNATURE), sums)
    except InvalidSignature as error:
        raise _broken(path, f"is not signed by the key of {trust.name}", "that signature, over an unchanged list") from error


def _no_key(path: Path, kind: str, how: str) -> InputError:
    return InputError(f"{path} is no Ed25519 {kind} key", expected="PEM without a password", fix=how)


def _broken(path: Path, what: str, expected: str = "a package as `alexnet-deploy package` writes it") -> ArtifactError:
    return ArtifactCorrupt(f"{path} {what}", expected=expected, fix="get it again from where it was made")
