"""What is scored: a folder of Parquet, one part a shard, each there in full or not at all.

OUTPUT/_score.json              which work and which model the parts are of
OUTPUT/part-00000042.parquet    picture, label, class, probability, model
OUTPUT/_rejects/part-...        picture, reason

Readers of Parquet folders (pyarrow, Spark, DuckDB) pass over names that begin with _, so that OUTPUT as a whole is one table.

A shard's rejects are written before its part, and the part is what counts: a process that dies between the two writes both
again, under the same names.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet

from alexnet_deploy.errors import ArtifactCorrupt, InputError
from alexnet_deploy.files import as_utf8, replacing
from alexnet_deploy.score.places import filesystem, is_object_store, translated

RECORD = "_score.json"
_PART = re.compile(r"part-(\d{8})\.parquet")
RESULTS = pyarrow.schema(
    [
        pyarrow.field("picture", pyarrow.string(), nullable=False),
        pyarrow.field("label", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), nullable=False),
        pyarrow.field("class", pyarrow.int32(), nullable=False),
        pyarrow.field("probability", pyarrow.float32(), nullable=False),
        pyarrow.field("model", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), nullable=False),
    ]
)
REJECTS = pyarrow.schema(
    [pyarrow.field("picture", pyarrow.string(), nullable=False), pyarrow.field("reason", pyarrow.string(), nullable=False)]
)


@dataclass(frozen=True, slots=True)
class Record:
    """What the parts in a folder are of.

    Attributes:
        source, digest, shards: of the work.
        model, model_sha256: the file that computes.
    """

    source: str
    digest: str
    shards: int
    model: str
    model_sha256: str


@dataclass(frozen=True, slots=True)
class Result:
    """One scored picture."""

    picture: str
    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Reject:
    """One picture that could not be scored, and why."""

    picture: str
    reason: str


class Output:
    """The folder that the parts go to: a path or a URL."""

    def __init__(self, location: str) -> None:
        """Raises DataError for a URL that fsspec does not know, AlexnetDeployError where the package for it is missing."""
        self.location = location
        self._filesystem, self._root = filesystem(location)
        self._local = type(self._filesystem).__name__ == "LocalFileSystem"

    def begin(self, record: Record) -> frozenset[int]:
        """Opens the folder for this work.

        Returns:
            Numbers of the shards that are done already.

        Raises:
            InputError: it holds the parts of other work, or of another model.
        """
        found = self.record()
        if found is None:
            if self._parts():
                raise InputError(
                    f"{self.location} holds parts without {RECORD}", expected="an empty folder, or one of an earlier run"
                )
            self._write(RECORD, json.dumps(msgspec.to_builtins(record), indent=2).encode())
            return frozenset()
        held = f"{self.location} holds results for"
        if found.model_sha256 != record.model_sha256:
            raise _other(f"{held} another model ({found.model})")
        if found.source != record.source:
            raise _other(f"{held} another input ({found.source})")
        if found.digest != record.digest:
            raise _other(f"the pictures in {record.source}, or their shards, have changed since {self.location} was begun")
        return self.done()

    def record(self) -> Record | None:
        """What is written in _score.json, or None. Raises ArtifactCorrupt."""
        with translated(self.location):
            try:
                content = self._filesystem.cat_file(self._path(RECORD))
            except FileNotFoundError:
                return None
        try:
            return msgspec.json.decode(content, type=Record)
        except msgspec.DecodeError as error:
            raise ArtifactCorrupt(
                f"{self.location}/{RECORD} is not what score writes: {error}", expected="an untouched one", fix="another OUTPUT"
            ) from error

    def done(self) -> frozenset[int]:
        """Numbers of the shards whose part exists."""
        return frozenset(int(match[1]) for name in self._parts() if (match := _PART.fullmatch(name)))

    def write(self, number: int, model_sha256: str, results: Sequence[Result], rejects: Sequence[Reject]) -> None:
        """Writes a shard's part, its rejects first."""
        if rejects:
            self._write(
                f"_rejects/{_name(number)}",
                _parquet(REJECTS, [[as_utf8(r.picture) for r in rejects], [as_utf8(r.reason) for r in rejects]]),
            )
        columns: list[list[Any]] = [
            [as_utf8(r.picture) for r in results],
            [r.label for r in results],
            [r.index for r in results],
            [r.probability for r in results],
            [model_sha256] * len(results),
        ]
        self._write(_name(number), _parquet(RESULTS, columns))

    def _parts(self) -> list[str]:
        with translated(self.location):
            try:
                names = self._filesystem.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        return [posixpath.basename(name) for name in names if name.endswith(".parquet")]

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        if self._local:
            with replacing(Path(path)) as temporary:
                temporary.write_bytes(content)
            return
        with translated(f"{self.location}/{name}"):
            if is_object_store(self.location):
                self._filesystem.pipe_file(path, content)  # shown once it is whole
                return
            self._filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
            unfinished = f"{path}.{os.urandom(4).hex()}.tmp"
            self._filesystem.pipe_file(unfinished, content)
            self._filesystem.mv(unfinished, path)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _other(found: str) -> InputError:
    return InputError(found, expected="the same input, model and shard size, to go on", fix="another OUTPUT")


def _name(number: int) -> str:
    return f"part-{number:08d}.parquet"


def _parquet(schema: Any, columns: list[list[Any]]) -> bytes:
    arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), file, compression="zstd")
    return file.getvalue()
