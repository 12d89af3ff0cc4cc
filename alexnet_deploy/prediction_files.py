"""Predictions as CSV or JSON lines, written while they come."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import replacing
from alexnet_deploy.predictions import PicturePrediction

FORMATS = ("csv", "jsonl")


def write_rows(out: TextIO, form: str, top: int, predictions: Iterable[PicturePrediction]) -> None:
    """One line a picture, in order.

    csv     name, label_1, probability_1, ..., error; the first line names the columns
    jsonl   {"name": ..., "predictions": [{"label": ..., "probability": ...}, ...], "error": ""}
    """
    write = _csv(out, top) if form == "csv" else _jsonl(out)
    for prediction in predictions:
        write(prediction)


def write_file(path: Path, top: int, predictions: Iterable[PicturePrediction]) -> None:
    """Like `write_rows`, into a file that appears when it is whole; its suffix says the form.

    Raises:
        InputError: another suffix than .csv or .jsonl.
    """
    form = path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise InputError(
            f"{path.name} ends in {path.suffix!r}", expected=".csv or .jsonl", fix="alexnet-deploy score, for Parquet"
        )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        write_rows(out, form, top, predictions)


def _csv(out: TextIO, top: int) -> Callable[[PicturePrediction], None]:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *(f"{what}_{rank}" for rank in range(1, top + 1) for what in ("label", "probability")), "error"])

    def write(picture: PicturePrediction) -> None:
        cells = [cell for label, probability in picture.predictions for cell in (label, f"{probability:.6g}")]
        writer.writerow([picture.name, *cells, *[""] * (2 * top - len(cells)), picture.error])

    return write


def _jsonl(out: TextIO) -> Callable[[PicturePrediction], None]:
    def write(picture: PicturePrediction) -> None:
        named = [prediction._asdict() for prediction in picture.predictions]
        json.dump({"name": picture.name, "predictions": named, "error": picture.error}, out, ensure_ascii=False)
        out.write("\n")

    return write
