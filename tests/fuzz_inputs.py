"""Damaged pictures and absurd batches for Pillow's decoders and Runtime: run in a process of its own, which a crash would end.

python -m tests.fuzz_inputs pictures|batches SEED COUNT     prints how many ended in what, as JSON
"""

from __future__ import annotations

import io
import json
import random as randomness
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_deploy.errors import AlexnetDeployError, InputError, OutputNotFinite, PictureError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.preprocess import decode_fitted
from alexnet_deploy.runtime import Runtime
from tests.mutations import damaged
from tests.tiny import LABELS, SIZE, picture_batch, tiny_artifact

MOST_MEMORY_BYTES = 3 << 30
MOST_SECONDS = 30  # of CPU time, for one input; SIGPROF ends the process then
FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("BMP", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("GIF", {}),
    ("PPM", {}),
)
DTYPES = (
    "float32",
    "float32",
    "float32",
    "uint8",
    "uint8",
    "float64",
    "float16",
    "int8",
    "int64",
    "bool",
    "complex64",
    "U3",
    "O",
)


def fuzz_pictures(seeds: range) -> Counter[str]:
    """Each damaged file is a picture of the right size, or a PictureError of one line."""
    sound = []
    for seed, (name, options) in enumerate(FORMATS):
        file = io.BytesIO()
        Image.fromarray(picture_batch(1, 90, 120, seed=seed)[0]).save(file, name, **options)
        sound.append(file.getvalue())
    recipe = Preprocess(height=SIZE, width=SIZE, resize=SIZE + 4)
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        random = randomness.Random(seed)
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        try:
            pixels = decode_fitted(damaged(random.choice(sound), random), recipe)
            assert (pixels.dtype, pixels.shape) == (np.uint8, (SIZE, SIZE, 3)), f"seed {seed}"
            outcomes["a picture"] += 1
        except PictureError as error:
            _check_words(error, seed)
            outcomes["PictureError"] += 1
    return outcomes


def fuzz_batches(seeds: range) -> Counter[str]:
    """A batch that fits is answered as its plain copy is; all others are an InputError."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, Runtime(tiny_artifact(Path(folder) / "tiny.onnx").path, "cpu") as runtime:
        for seed in seeds:
            batch = absurd_batch(np.random.default_rng(seed))
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            try:
                answer = runtime.predict(batch)
            except AlexnetDeployError as error:
                _check_words(error, seed)
                _check_refusal(error, batch, seed)
                outcomes[type(error).__name__] += 1
                continue
            assert _fits(batch), f"seed {seed}"
            assert answer.shape == (len(batch), len(LABELS)), f"seed {seed}"
            assert np.array_equal(answer, runtime.predict(np.array(batch, order="C"))), f"seed {seed}"
            outcomes["answered"] += 1
    return outcomes


def absurd_batch(random: np.random.Generator) -> Any:
    """An array of any type, rank and strides, often nearly right; at times something else altogether."""
    if random.random() < 0.05:
        return random.choice(np.array([None, "batch", 3, b"x", [[1.0]], {}], object))
    dtype = str(random.choice(np.array(DTYPES)))
    right = [int(random.integers(0, 20)), *((3, SIZE, SIZE) if dtype != "uint8" else (int(random.integers(1, 40)), 24, 3))]
    if random.random() < 0.4:  # an axis more, less, or of another length
        place = int(random.integers(0, len(right)))
        match int(random.integers(0, 3)):
            case 0:
                right[place] = int(random.integers(0, 5))
            case 1:
                del right[place]
            case _:
                right.insert(place, int(random.integers(0, 3)))
    values = random.standard_normal([2 * n for n in right]) * 10.0 ** random.integers(-45, 39)
    with np.errstate(all="ignore"):
        batch = values.astype(dtype)
    batch = batch[tuple(slice(None, None, 2) if random.random() < 0.5 else slice(n) for n in right)]
    if random.random() < 0.2 and batch.dtype.kind == "f" and batch.size:
        batch.flat[int(random.integers(batch.size))] = random.choice([np.nan, np.inf, -np.inf])
    return batch[::-1] if random.random() < 0.2 and batch.ndim else batch


def _check_words(error: AlexnetDeployError, seed: int) -> None:
    assert "\n" not in str(error), f"seed {seed}"


def _check_refusal(error: AlexnetDeployError, batch: Any, seed: int) -> None:
    """Only what does not fit is refused; huge numbers may overflow on their way."""
    assert isinstance(error, OutputNotFinite) or (isinstance(error, InputError) and not _fits(batch)), f"seed {seed}"


def _fits(batch: Any) -> bool:
    if not isinstance(batch, np.ndarray) or batch.ndim != 4:
        return False
    if batch.dtype == np.uint8:
        return batch.shape[-1] == 3 and 0 not in batch.shape[1:3]
    return batch.dtype == np.float32 and batch.shape[1:] == (3, SIZE, SIZE) and bool(np.isfinite(batch).all())


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    what, first, count = sys.argv[1:]
    json.dump({"pictures": fuzz_pictures, "batches": fuzz_batches}[what](range(int(first), int(first) + int(count))), sys.stdout)
