"""Makes the embedded data set from Debian's package dataset-fashion-mnist (or the four files of any mirror).

apt-get install dataset-fashion-mnist && python tools/make_demo_data.py
"""

from __future__ import annotations

import gzip
import lzma
import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

SOURCE = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parent.parent / "alexnet_deploy" / "demo_data"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(struct.unpack_from(f">{axes}I", raw, 4))


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 0x08, values.ndim, *values.shape)
    path.write_bytes(lzma.compress(header + values.tobytes(), preset=9 | lzma.PRESET_EXTREME))


for split, prefix, per_class in (("train", "train", 500), ("test", "t10k", 100)):
    images = read_idx(SOURCE / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(SOURCE / f"{prefix}-labels-idx1-ubyte.gz")
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(10)]))
    write_idx(TARGET / f"{split}-images.idx.xz", images[chosen])
    write_idx(TARGET / f"{split}-labels.idx.xz", labels[chosen])
    print(split, images[chosen].shape, np.bincount(labels[chosen]))
