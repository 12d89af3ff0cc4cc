"""Finds what there is to score, and cuts it into shards that are the same whenever, and wherever, they are cut.

photos/                        every picture below a folder
'photos/**/*.jpg'              a glob
photos.txt                     a list of files or URLs, one a line
photos.parquet, photos/        Parquet with a column of picture files (a folder of Parquet files too)
shards/, 'a-{00..99}.tar'      WebDataset shards, or other tars of pictures: a part each
s3://bucket/photos             all of these through fsspec, from wherever it can read
imagenet/, cifar-10/, demo     sets as they are distributed, packed or binary; all their pictures, or those of "cifar-10:test"
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from alexnet_deploy import datasets
from alexnet_deploy.datasets import cifar, idx, imagenet
from alexnet_deploy.datasets.shards import expand
from alexnet_deploy.errors import DataError
from alexnet_deploy.preprocess import SUFFIXES
from alexnet_deploy.score.places import filesystem, is_url, translated
from alexnet_deploy.score.shards import FileShard, RowGroupShard, Shard, TarShard, digest, set_shards, suffix

PICTURE_COLUMNS = ("image", "image_bytes", "jpg", "jpeg", "png", "picture", "bytes", "content")
NAME_COLUMNS = ("path", "file_name", "filename", "name", "id", "key", "url", "__key__")
_LIST_SUFFIXES = (".txt", ".lst")
_TARS = (".tar", ".tar.gz", ".tgz")
_PACKED = (imagenet.find, cifar.find, idx.find)  # layouts whose pictures may be no files of their own


@dataclass(frozen=True, slots=True)
class Work:
    """Everything there is to score.

    Attributes:
        source: as it was named.
        shards: in order; a shard's number is its place.
        digest: the same work has the same.
    """

    source: str
    shards: tuple[Shard, ...]
    digest: str


def find(source: str, *, shard_size: int, picture_column: str = "", name_column: str = "") -> Work:
    """Finds the pictures, and cuts them into shards.

    Args:
        source: a folder, glob, list of files, Parquet, tars, a set, or a URL; see above.
        shard_size: pictures a shard; Parquet is cut at its row groups, tars are a shard each.
        picture_column, name_column: of Parquet; found by their usual names when "".

    Raises:
        DataError: nothing is there, or it is no input of these kinds.
    """
    shards = _of_set(source, shard_size) if _is_a_set(source) else _of_files(source, shard_size, picture_column, name_column)
    if not shards:
        raise DataError(
            f"there are no pictures in {source}",
            expected=f"files ending in {', '.join(sorted(SUFFIXES))}, .parquet or .tar, or a set as in docs/howto/data.md",
        )
    return Work(source, tuple(shards), digest(shards))


def _is_a_set(source: str) -> bool:
    """Whether it can mean nothing else: the demo's pictures, or a part of a set."""
    if is_url(source) or Path(source).exists():
        return False
    return _is_demo(source) or bool(datasets.split_location(source)[1])


def _is_demo(source: str) -> bool:
    return source.partition(":")[0] == "demo"


def _of_set(source: str, shard_size: int) -> list[Shard]:
    """All pictures of a set, or of the part that is named."""
    locations = [source] if _is_demo(source) else datasets.locations_of_parts(source)
    return [shard for location in locations for shard in set_shards(location, shard_size)]


def _of_files(source: str, shard_size: int, picture_column: str, name_column: str) -> list[Shard]:
    kind, names = _names(source)
    tables = [name for name in names if suffix(name) == ".parquet"]
    if tables:
        return [shard for table in tables for shard in _row_groups(table, picture_column, name_column)]
    tars = [name for name in names if name.lower().endswith(_TARS)]
    pictures = names if kind == "list" and tars != names else [name for name in names if suffix(name) in SUFFIXES]
    if not pictures:
        is_packed = kind == "folder" and not is_url(source) and any(layout(Path(source)) for layout in _PACKED)
        return _of_set(source, shard_size) if is_packed else [TarShard(tar) for tar in tars]
    duplicates = len(pictures) - len(set(pictures))
    if duplicates:
        raise DataError(f"{source} names {duplicates:,} pictures twice", expected="each picture once")
    return [FileShard(tuple(pictures[i : i + shard_size])) for i in range(0, len(pictures), shard_size)]


def _names(source: str) -> tuple[str, list[str]]:
    """Whether a source is a "folder", "glob", "list" or "file", and the names that it stands for."""
    if "{" in source and source.endswith(_TARS):
        return "list", expand(source)
    files, path = filesystem(source)
    with translated(source):
        kind = _kind(files, path)
        content = files.cat_file(path) if kind == "list" else b""
        found = files.glob(path) if kind == "glob" else files.find(path) if kind == "folder" else [path]
    if kind != "list":
        return kind, sorted(files.unstrip_protocol(name) if is_url(source) else name for name in found)
    try:
        lines = [line.strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no list of files: {error}", expected="one path or URL a line, UTF-8") from error
    return kind, [line for line in lines if line and not line.startswith("#")]


def _kind(filesystem: Any, path: str) -> str:
    if any(sign in path for sign in "*?[") and not filesystem.exists(path):
        return "glob"
    if filesystem.isdir(path):
        return "folder"
    return "list" if path.endswith(_LIST_SUFFIXES) else "file"


def _row_groups(url: str, picture_column: str, name_column: str) -> list[Shard]:
    with translated(url), fsspec.open(url, "rb") as file:
        table = pyarrow.parquet.ParquetFile(file)
        rows = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        schema = table.schema_arrow
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
    starts = accumulate(rows, initial=0)
    counted = zip(rows, starts, strict=False)
    return [RowGroupShard(url, i, start, pictures, names) for i, (count, start) in enumerate(counted) if count]


def _holds_files(schema: Any, name: str) -> bool:
    kind = schema.field(name).type
    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))
