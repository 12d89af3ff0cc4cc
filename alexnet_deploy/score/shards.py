"""What there is to score, in shards: each is read alone, anywhere, and always gives the same pictures in the same order.

FileShard        some picture files
RowGroupShard    one row group of a Parquet file
TarShard         one tar, as WebDataset's are
SetShard         some pictures of a set in a layout that `datasets` reads: ImageNet as distributed, CIFAR, the MNIST family
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import fsspec
import pyarrow.parquet

from alexnet_deploy.decoding import InMemory, Source
from alexnet_deploy.errors import DataError, PictureError
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import SUFFIXES
from alexnet_deploy.score.places import translated

_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to score.

    Attributes:
        name: its URL or path, or what it is called where it lies.
        source: what it is decoded from; None where `name` is still to be read.
    """

    name: str
    source: Source | None = None

    def open(self) -> Source:
        """What it is decoded from. Raises PictureError when that cannot be had."""
        if self.source is not None:
            return self.source
        try:
            with translated(self.name), fsspec.open(self.name, "rb") as file:
                return InMemory(self.name, file.read())
        except DataError as error:  # one picture, not the whole run
            raise PictureError(error.found, expected="a JPEG or PNG file") from error


@dataclass(frozen=True, slots=True)
class FileShard:
    """Some picture files, in order."""

    names: tuple[str, ...]

    def pictures(self) -> Iterator[Picture]:
        return (Picture(name) for name in self.names)


@dataclass(frozen=True, slots=True)
class RowGroupShard:
    """One row group of a Parquet file: the unit that Parquet reads at once."""

    url: str
    row_group: int
    first_row: int
    picture_column: str
    name_column: str

    def pictures(self) -> Iterator[Picture]:
        wanted = [self.picture_column, *([self.name_column] if self.name_column else [])]
        row = self.first_row
        with translated(self.url), fsspec.open(self.url, "rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[self.row_group], columns=wanted):
                for line in batch.to_pylist():
                    cell = line[self.picture_column]
                    # Hugging Face datasets keep a picture as {"bytes": ..., "path": ...}.
                    content = cell.get("bytes") if isinstance(cell, dict) else cell
                    given = line.get(self.name_column)
                    if given in (None, ""):  # and not 0, which is a name
                        given = (cell.get("path") if isinstance(cell, dict) else "") or f"{self.url}#{row}"
                    name = str(given)
                    yield Picture(name, InMemory(name, content or b""))
                    row += 1


@dataclass(frozen=True, slots=True)
class TarShard:
    """The pictures in one tar, read as it comes; labels beside them are passed over."""

    url: str

    def pictures(self) -> Iterator[Picture]:
        try:
            with (
                translated(self.url),
                fsspec.open(self.url, "rb") as file,
                tarfile.open(fileobj=file, mode="r|*") as archive,
            ):
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep all that it has met
                    if member.isfile() and suffix(member.name) in SUFFIXES:
                        content = archive.extractfile(member)
                        assert content is not None  # of a file it never is
                        name = f"{self.url}/{member.name}"
                        yield Picture(name, InMemory(name, content.read()))
        except tarfile.TarError as error:
            raise DataError(f"{self.url} cannot be read as a tar ({error})", expected="a whole one") from error


@dataclass(frozen=True, slots=True)
class SetShard:
    """Pictures `start` to `stop` of a set; `names_sha256` is of all that it held when it was cut."""

    location: str
    start: int
    stop: int
    names_sha256: str

    def pictures(self) -> Iterator[Picture]:
        found = opened_set(self.location)
        return (Picture(found.names[i], found.sources[i]) for i in range(self.start, self.stop))


Shard = FileShard | RowGroupShard | TarShard | SetShard


@lru_cache(maxsize=2)
def opened_set(location: str) -> PictureSet:
    """A set, opened once for all its shards: finding what lies in ImageNet's tars takes longer than scoring a shard."""
    return PictureSet.open(location)


def set_shards(location: str, shard_size: int) -> list[Shard]:
    """A set, cut into shards. Raises DataError."""
    found = opened_set(location)
    names = hashlib.sha256("\0".join(found.names).encode()).hexdigest()
    starts = range(0, len(found), shard_size)
    return [SetShard(found.location, start, min(start + shard_size, len(found)), names) for start in starts]


def suffix(name: str) -> str:
    return Path(name).suffix.lower()


def digest(shards: Sequence[Shard]) -> str:
    """SHA-256 over names and, for Parquet, rows: the same work has the same digest."""
    sha256 = hashlib.sha256()
    for shard in shards:
        sha256.update(repr(shard).encode())
    return sha256.hexdigest()
