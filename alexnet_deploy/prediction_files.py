"""Predictions as CSV, JSON lines or Parquet, written while they come."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from alexnet_deploy.errors import InputError
from alexnet_deploy.extras import extra
from alexnet_deploy.files import NO_UTF8, as_utf8, replacing
from alexnet_deploy.predictions import PicturePrediction

FORMATS = ("csv", "jsonl", "parquet")
_ROWS_AT_ONCE = 4096


def as_object(picture: PicturePrediction) -> dict[str, Any]:
    """{"name": ..., "predictions": [{"label": ..., "probability": ...}, ...], "error": ""}, wherever there is JSON."""
    named = [prediction._asdict() for prediction in picture.predictions]
    return {"name": picture.name, "predictions": named, "error": picture.error}


def write_rows(out: TextIO, form: str, top: int, predictions: Iterable[PicturePrediction]) -> None:
    """One line a picture, in order.

    csv     name, label_1, probability_1, ..., error; the first line names the columns
    jsonl   one `as_object` a line
    """
    write = _csv(out, top) if form == "csv" else _jsonl(out)
    for prediction in predictions:
        write(prediction)


def write_file(path: Path, top: int, predictions: Iterable[PicturePrediction]) -> None:
    """Like `write_rows`, into a file that appears when it is whole; its suffix says the form.

    Parquet has the columns of CSV: strings, float32 probabilities, and null where there is nothing.

    Raises:
        InputError: another suffix than .csv, .jsonl or .parquet.
        AlexnetDeployError: Parquet is wanted, and pyarrow is not installed.
    """
    form = path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise InputError(f"{path.name} ends in {path.suffix!r}", expected=".csv, .jsonl or .parquet", fix=f"-o {path.stem}.csv")
    with replacing(path) as temporary:
        if form == "parquet":
            _write_parquet(temporary, top, iter(predictions))
            return
        # Of names that are no UTF-8; in JSON their escapes mean the name itself.
        with temporary.open("w", encoding="utf-8", errors=NO_UTF8, newline="") as out:
            write_rows(out, form, top, predictions)


def _columns(top: int) -> list[str]:
    return ["name", *(f"{what}_{rank}" for rank in range(1, top + 1) for what in ("label", "probability")), "error"]


def _write_parquet(path: Path, top: int, predictions: Iterator[PicturePrediction]) -> None:
    with extra("score", "Parquet"):
        import pyarrow
        import pyarrow.parquet
    types = [pyarrow.float32() if name.startswith("probability_") else pyarrow.string() for name in _columns(top)]
    schema = pyarrow.schema(list(zip(_columns(top), types, strict=True)))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while pictures := list(islice(predictions, _ROWS_AT_ONCE)):
            rows = [dict(zip(_columns(top), map(_as_text, _cells(picture, top)), strict=True)) for picture in pictures]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _as_text(cell: str | float | None) -> str | float | None:
    return as_utf8(cell) if isinstance(cell, str) else cell


def _cells(picture: PicturePrediction, top: int) -> list[str | float | None]:
    """A row: fewer classes than `top` leave the rest empty."""
    found = [cell for prediction in picture.predictions for cell in prediction]
    return [picture.name, *found, *[None] * (2 * top - len(found)), picture.error or None]


def _csv(out: TextIO, top: int) -> Callable[[PicturePrediction], None]:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_columns(top))

    def write(picture: PicturePrediction) -> None:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in _cells(picture, top)])

    return write


def _jsonl(out: TextIO) -> Callable[[PicturePrediction], None]:
    def write(picture: PicturePrediction) -> None:
        json.dump(as_object(picture), out, ensure_ascii=False)
        out.write("\n")

    return write
