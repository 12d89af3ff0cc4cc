"""What lies where in a tar: its files are read in place, without unpacking."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from alexnet_deploy.decoding import Packed
from alexnet_deploy.errors import DataError


def members(path: Path, start: int = 0, size: int | None = None) -> Iterator[Packed]:
    """The ordinary files in a tar, in its order; only headers are read.

    Args:
        path: of a tar that is not compressed.
        start, size: where the tar lies in the file, when it is itself a file of another tar.

    Raises:
        DataError: it is damaged, or no tar.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep all that it has met
                    if size is not None and member.offset_data + member.size > start + size:
                        raise tarfile.ReadError("it is cut off")
                    if member.isfile():
                        yield Packed(path, member.offset_data, member.size, f"{path.name}/{member.name}")
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile itself takes a cut tar for a whole one
                    raise tarfile.ReadError("it is cut off: its closing block is missing")
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} cannot be read as a tar ({error})", expected="a whole, uncompressed .tar") from error
