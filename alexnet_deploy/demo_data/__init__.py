"""The embedded data set: 5,000 training and 1,000 test pictures of Fashion-MNIST, 28x28 greyscale.

A subset of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747), MIT licence: see LICENSE in this folder. It holds
the first 500 pictures of every class of the original training set, and the first 100 of the test set, in their original
order. `tools/make_demo_data.py` made it. Each file is xz-compressed IDX, the format of the MNIST family.
"""

from __future__ import annotations

import lzma
import struct
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import DataError

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SPLITS = ("train", "test")
_UINT8 = 0x08  # IDX's code for unsigned bytes


def load(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The pictures of one split.

    Returns:
        Pixels, uint8 (N, 28, 28), dark background, and labels, uint8 (N,), indices into CLASSES.

    Raises:
        DataError: the split is neither "train" nor "test".
    """
    if split not in SPLITS:
        raise DataError(f"there is no demo:{split}", expected="demo:train or demo:test")
    return _read(f"{split}-images.idx.xz"), _read(f"{split}-labels.idx.xz")


def _read(name: str) -> npt.NDArray[np.uint8]:
    raw = lzma.decompress(files(__name__).joinpath(name).read_bytes())
    zero, dtype, axes = struct.unpack_from(">HBB", raw)
    if zero != 0 or dtype != _UINT8:
        raise DataError(f"{name} is damaged", expected="IDX of unsigned bytes", fix="install alexnet-deploy again")
    shape = struct.unpack_from(f">{axes}I", raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
