"""Calibrations kept from one run to the next, and used again only for the same graph, pictures and preprocessing.

The name of an entry is a hash over everything that the result depends on, so that a stale one cannot be found; what is inside
is checked against the same facts once more. An entry is an .npz of plain arrays: nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from alexnet_deploy import __version__
from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.files import replacing
from alexnet_deploy.folders import cache_folder
from alexnet_deploy.logs import logger
from alexnet_deploy.manifest import CalibrationRecord
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.fitness import check_pictures
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.refined import WeightRounder
from alexnet_deploy.quantization.trained import trained_calibration
from alexnet_deploy.types import Progress, silent

_FACTOR = "factor of "

log = logger(__name__)


def calibrate_once(
    model: Artifact,
    pictures: PictureSet,
    *,
    method: str = "auto",
    count: int = 512,
    seed: int = 0,
    shift: bool = True,
    progress: Progress = silent,
) -> Calibration:
    """`calibrate`, or the kept result of an earlier one on the same graph, pictures and preprocessing.

    A graph that was trained to be quantised has its ranges in its manifest; these are taken.
    """
    chosen = pictures.sample(count, seed)
    if trained := trained_calibration(model):
        log.info("the ranges are those that %s was trained with", model.path.name)
        return trained
    check_pictures(chosen)
    facts = (
        model.manifest.sha256,
        chosen.digest(),
        model.manifest.preprocess.digest(),
        method,
        str(seed),
        str(shift),
        __version__,
    )
    entry = cache_folder() / "calibration" / f"{hashlib.sha256(':'.join(facts).encode()).hexdigest()}.npz"
    kept = _load(entry, model, chosen)
    if kept is not None:
        log.info("calibration taken from %s", entry)
        return kept
    calibration = calibrate(model, chosen, method=method, count=count, seed=seed, shift=shift, progress=progress)
    try:
        _store(entry, calibration)
    except AlexnetDeployError as error:
        log.info("the calibration is not kept: %s", error.found)
    return calibration


def _store(entry: Path, calibration: Calibration) -> None:
    names = list(calibration.histograms)
    histograms = list(calibration.histograms.values())
    text = msgspec.json.encode({"record": calibration.record, "errors": calibration.errors, "tensors": names})
    factors: dict[str, Any] = {f"{_FACTOR}{name}": values for name, values in calibration.factors.items()}
    with replacing(entry) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            text=np.frombuffer(text, np.uint8),
            counts=np.stack([h.counts for h in histograms]),
            ends=np.array([(h.low, h.high) for h in histograms]),
            **factors,
        )


class _Text(msgspec.Struct):
    record: CalibrationRecord
    errors: dict[str, float]
    tensors: list[str]


def _load(entry: Path, model: Artifact, pictures: PictureSet) -> Calibration | None:
    """None where there is no entry that can be read, or one of something else: it is made again then."""
    try:
        with np.load(entry, allow_pickle=False) as stored:
            text = msgspec.json.decode(stored["text"].tobytes(), type=_Text)
            counts, ends = stored["counts"], stored["ends"]
            factors = {name: stored[f"{_FACTOR}{name}"] for name in text.record.balanced}
        if text.record.data.sha256 != pictures.digest():
            return None
        if text.record.preprocess_sha256 != model.manifest.preprocess.digest():
            return None
        histograms = {name: _histogram(counts[i], ends[i]) for i, name in enumerate(text.tensors)}
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        log.info("%s cannot be read (%s) and is made again", entry, error)
        return None
    weights = WeightRounder(model, pictures, factors)
    return Calibration(text.record, histograms, model.manifest.sha256, weights, text.errors, factors)


def _histogram(
    counts: np.ndarray[tuple[int], np.dtype[np.int64]], ends: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> Histogram:
    histogram = Histogram()
    histogram.counts = counts.astype(np.int64).reshape(histogram.counts.shape)
    histogram.low, histogram.high = float(ends[0]), float(ends[1])
    return histogram
