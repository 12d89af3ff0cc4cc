"""Are these pictures fit to calibrate on, and those fit to measure the result on?"""

from __future__ import annotations

import warnings

import numpy as np

from alexnet_deploy.errors import CalibrationError, DataWarning
from alexnet_deploy.manifest import CalibrationRecord
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import Pixels

MINIMUM_PICTURES = 32
_LOOKED_AT = 16
_BLANK = 1.0  # grey levels of standard deviation
_LEAST_LIKENESS = 0.3  # neighbouring pixels of photographs and drawings correlate with 0.8 and more, those of noise with 0


def check_pictures(pictures: PictureSet) -> list[str]:
    """The content hash of every picture, of a set that can be calibrated on.

    Raises:
        CalibrationError: there are fewer than 32 different ones.
    """
    hashes = pictures.content_hashes()
    different = len(set(hashes))
    if different < MINIMUM_PICTURES:
        repeated = f", and only {different} of them different" if different < len(hashes) else ""
        raise CalibrationError(
            f"{len(hashes)} calibration pictures in {pictures.location}{repeated}",
            expected=f"at least {MINIMUM_PICTURES} different ones, of the kind that the model will see",
            fix="--calib FOLDER with more pictures; a few hundred are best",
        )
    return hashes


def warn_of_noise(pictures: PictureSet) -> None:
    """Warns (DataWarning) where most pictures are of one colour or of random pixels: their ranges fit nothing else.

    Raises:
        PictureError: a picture cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(pictures) - 1, _LOOKED_AT).round().astype(int))
    likeness = [_likeness(pictures.picture(int(index))) for index in chosen]
    blank = sum(one is None for one in likeness)
    noise = sum(one is not None and one < _LEAST_LIKENESS for one in likeness)
    if 2 * max(blank, noise) > len(likeness):
        what = "of one colour" if blank > noise else "random noise"
        warnings.warn(f"most pictures in {pictures.location} are {what}: their ranges fit no others", DataWarning, stacklevel=3)


def warn_of_overlap(record: CalibrationRecord, evaluation: PictureSet) -> None:
    """Warns (DataWarning) where pictures of the calibration are evaluated on, which flatters the result."""
    shared = record.shared(evaluation.content_hashes())
    if shared:
        warnings.warn(
            f"{shared} of {len(evaluation)} evaluation pictures were calibrated on: the accuracy is flattered",
            DataWarning,
            stacklevel=3,
        )


def _likeness(picture: Pixels) -> float | None:
    """Correlation of each pixel with its right neighbour; None for a picture of one colour."""
    grey = picture.mean(axis=2)
    if grey.shape[1] < 2 or grey.std() < _BLANK:
        return None
    left, right = grey[:, :-1].ravel(), grey[:, 1:].ravel()
    spread = float(left.std() * right.std())
    return float(((left - left.mean()) * (right - right.mean())).mean()) / spread if spread else None
