"""Calibration pictures: which of them are for what, and how a graph takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from alexnet_deploy.manifest import Manifest
from alexnet_deploy.onnx_graph.session import Array
from alexnet_deploy.pictures import PictureSet

_HELD_BACK_SHARE = 4  # one picture in four ...
_HELD_BACK_MOST = 128  # ... but no more than this many


def feeds(pictures: PictureSet, manifest: Manifest, batch_size: int) -> Iterator[tuple[Array, int]]:
    """Batches as the graph takes them, and how many rows of each are pictures: where the graph wants more, the last repeats."""
    batch = manifest.batch
    batch_size = min(max(batch_size, batch.min), batch.max)
    made = pictures.pixels if manifest.input.dtype == "uint8" else pictures.batches
    for values, labels in made(manifest.preprocess, batch_size):
        padding = [values[-1:]] * (batch.min - len(values))
        yield (np.concatenate([values, *padding]) if padding else values), len(labels)


def of_pictures(values: Array, rows: int, fed: int) -> Array:
    """What a tensor holds of the first `rows` of `fed` pictures, whose windows or tokens may lie along its first axis as well."""
    return values[: -(-len(values) * rows // fed)]


def split(pictures: PictureSet, hashes: Sequence[str]) -> tuple[PictureSet, PictureSet]:
    """(to observe, held back), by content: the same pictures in another order are split the same way."""
    order = np.argsort(np.array(hashes), kind="stable")
    held_back = min(len(pictures) // _HELD_BACK_SHARE, _HELD_BACK_MOST)
    return pictures.subset(np.sort(order[held_back:])), pictures.subset(np.sort(order[:held_back]))


def some(pictures: PictureSet, count: int) -> PictureSet:
    """`count` pictures, the same and in the same order however the set is ordered; none of those that `split` holds back."""
    observed, _ = split(pictures, pictures.content_hashes())
    return observed.subset(np.argsort(np.array(observed.content_hashes()), kind="stable")[::-1][:count])
