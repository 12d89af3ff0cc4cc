"""Files that are whole or absent: written under another name and renamed when they are done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_deploy.errors import ArtifactMissing

_HASH_PIECE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_UTF8 = "backslashreplace"  # how bytes in a name that are no UTF-8 are written: by their numbers


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well, and removed when it does not.

    Raises:
        ArtifactMissing: it is a folder or a device, its folder cannot be written to, or the disk is full.
    """
    try:
        if path.is_dir():
            raise ArtifactMissing(f"{path} is a folder", expected="a file to write", fix="-o FOLDER/FILE")
        if path.exists() and not path.is_file():
            raise ArtifactMissing(f"{path} is a device or a pipe", expected="the name of a file to write", fix="-o FOLDER/FILE")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _closed(path.parent, error) from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ArtifactMissing(
            f"{path} could not be written: {error.strerror}", fix="make room, or take another folder with -o OTHER/FOLDER/FILE"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder beside `path`, removed when the block ends. Raises ArtifactMissing where none can be made."""
    import tempfile  # here: Runtime does without, and starts 3 ms sooner

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent)
    except OSError as error:
        raise _closed(path.parent, error) from error
    with folder as name:
        yield Path(name)


def _closed(folder: Path, error: OSError) -> ArtifactMissing:
    return ArtifactMissing(
        f"cannot write in {folder}: {error.strerror}", expected="a folder that can be written to", fix="-o OTHER/FOLDER/FILE"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits, read in pieces of 1 MiB."""
    import hashlib  # here: it takes 4 ms, which Runtime leaves to the thread that hashes beside the loading

    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_HASH_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def as_utf8(name: str) -> str:
    r"""A file's name as UTF-8 can hold it: bytes of it that are no UTF-8 by their numbers, \udcff for 255."""
    return name.encode(errors=NO_UTF8).decode()
