"""What there is to score, cut into shards that are the same whenever, and wherever, they are cut.

photos/                        every picture below a folder
'photos/**/*.jpg'              a glob
photos.txt                     a list of files or URLs, one a line
photos.parquet, photos/        Parquet with a column of picture files (a folder of Parquet files too)
s3://bucket/photos             all of these through fsspec, from wherever it can read
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from alexnet_deploy.errors import DataError, PictureError
from alexnet_deploy.preprocess import SUFFIXES

PICTURE_COLUMNS = ("image", "image_bytes", "jpg", "jpeg", "png", "picture", "bytes", "content")
NAME_COLUMNS = ("path", "file_name", "filename", "name", "id", "key", "url", "__key__")
_ROWS_AT_ONCE = 64
_LIST_SUFFIXES = (".txt", ".lst")


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to score.

    Attributes:
        name: its URL or path, or what the Parquet row is called.
        content: the file's bytes; None where `name` is still to be read.
    """

    name: str
    content: bytes | None = None

    def read(self) -> bytes:
        """The file's bytes. Raises PictureError when they cannot be had."""
        if self.content is not None:
            return self.content
        try:
            with fsspec.open(self.name, "rb") as file:
                content: bytes = file.read()
                return content
        except OSError as error:
            raise PictureError(
                f"{self.name} cannot be read ({error.strerror or error})", expected="a JPEG or PNG file"
            ) from error
        except ValueError as error:  # an unknown protocol in a list of URLs
            raise PictureError(f"{self.name} cannot be read ({error})", expected="a path, or a URL that fsspec knows") from error


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
        with fsspec.open(self.url, "rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[self.row_group], columns=wanted):
                for line in batch.to_pylist():
                    cell = line[self.picture_column]
                    # Hugging Face datasets keep a picture as {"bytes": ..., "path": ...}.
                    content = cell.get("bytes") if isinstance(cell, dict) else cell
                    name = line.get(self.name_column) or (cell.get("path") if isinstance(cell, dict) else None)
                    yield Picture(str(name or f"{self.url}#{row}"), content or b"")
                    row += 1


Shard = FileShard | RowGroupShard


@dataclass(frozen=True, slots=True)
class Work:
    """Everything there is to score.

    Attributes:
        source: as it was named.
        shards: in order; a shard's number is its place.
        digest: SHA-256 over names (and, for Parquet, rows): the same work has the same digest.
    """

    source: str
    shards: tuple[Shard, ...]
    digest: str


def find(source: str, *, shard_size: int, picture_column: str = "", name_column: str = "") -> Work:
    """Finds the pictures, and cuts them into shards.

    Args:
        source: a folder, glob, list of files, Parquet file or folder of them; a path or a URL.
        shard_size: pictures a shard; Parquet is cut at its row groups.
        picture_column, name_column: of Parquet; found by their usual names when "".

    Raises:
        DataError: nothing is there, or it is no input of these kinds.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
        kind = _kind(filesystem, path)
        if kind == "list":
            names = [line.strip() for line in filesystem.cat_file(path).decode().splitlines()]
            names = [name for name in names if name and not name.startswith("#")]
        else:
            found = filesystem.glob(path) if kind == "glob" else filesystem.find(path) if kind == "folder" else [path]
            names = sorted(filesystem.unstrip_protocol(name) if "://" in source else name for name in found)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{source} cannot be read: {error}", expected="pictures: a folder, glob, list, Parquet, or a URL"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no list of files: {error}", expected="one path or URL a line, UTF-8") from error
    tables = [name for name in names if name.lower().endswith(".parquet")]
    pictures = names if kind == "list" else [name for name in names if _suffix(name) in SUFFIXES]
    shards: list[Shard] = []
    if tables:
        for table in tables:
            shards += _row_groups(table, picture_column, name_column)
    else:
        shards += [FileShard(tuple(pictures[i : i + shard_size])) for i in range(0, len(pictures), shard_size)]
    if not shards:
        raise DataError(
            f"there are no pictures in {source}", expected=f"files ending in {', '.join(sorted(SUFFIXES))}, or .parquet"
        )
    duplicates = len(pictures) - len(set(pictures))
    if duplicates and not tables:
        raise DataError(f"{source} names {duplicates:,} pictures twice", expected="each picture once")
    return Work(source, tuple(shards), _digest(shards))


def _kind(filesystem: Any, path: str) -> str:
    if any(sign in path for sign in "*?[") and not filesystem.exists(path):
        return "glob"
    if filesystem.isdir(path):
        return "folder"
    return "list" if path.endswith(_LIST_SUFFIXES) else "file"


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2].lower()


def _row_groups(url: str, picture_column: str, name_column: str) -> list[Shard]:
    try:
        with fsspec.open(url, "rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            rows = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            schema = table.schema_arrow
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{url} cannot be read as Parquet: {error}", expected="a whole Parquet file") from error
    pictures = picture_column or next(
        (name for name in PICTURE_COLUMNS if name in schema.names and _holds_files(schema, name)), ""
    )
    if pictures not in schema.names or not _holds_files(schema, pictures):
        raise DataError(
            f"{url} has no column {pictures!r} of picture files"
            if pictures
            else f"{url} has no column that looks like picture files",
            expected=f"binary, among {', '.join(schema.names)}",
            fix="--picture-column NAME",
        )
    names = name_column or next((name for name in NAME_COLUMNS if name in schema.names), "")
    if name_column and name_column not in schema.names:
        raise DataError(
            f"{url} has no column {name_column!r}", expected=f"one of {', '.join(schema.names)}", fix="--name-column NAME"
        )
    first = [sum(rows[:i]) for i in range(len(rows))]
    return [RowGroupShard(url, i, first[i], pictures, names) for i in range(len(rows)) if rows[i]]


def _holds_files(schema: Any, name: str) -> bool:
    kind = schema.field(name).type
    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _digest(shards: list[Shard]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(repr(shard).encode())
    return digest.hexdigest()
