"""Many pictures at once: decoded and fitted in parallel, in order, ahead of whoever asks for them, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from alexnet_deploy.errors import InputError, PictureError
from alexnet_deploy.machine import usable_cores
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.preprocess import Pixels, decode_fitted, fit

Source = str | Path | Pixels
Fitted = Pixels | PictureError | InputError
Given = TypeVar("Given")
Made = TypeVar("Made")


def fitted(
    sources: Iterable[Source], recipe: Preprocess, *, ahead: int = 64, workers: int | None = None
) -> Generator[Fitted, None, None]:
    """Each picture as `fit` gives it, or the error that it met; one broken picture does not stop the rest.

    Threads decode while the caller does other work with what it has: Pillow lets go of the interpreter's lock.

    Args:
        sources: files, or uint8 (H, W, 3) RGB arrays of any size; taken no sooner than they are needed.
        recipe: the size to fit them to.
        ahead: pictures that are decoded before they are asked for.
        workers: threads; one a core when None.

    Yields:
        uint8 (recipe.height, recipe.width, 3), in the order of `sources`.
    """
    return in_threads(partial(_one, recipe=recipe), sources, ahead=ahead, workers=workers)


def in_threads(
    function: Callable[[Given], Made], items: Iterable[Given], *, ahead: int = 64, workers: int | None = None
) -> Generator[Made, None, None]:
    """`map`, in order, by threads that are up to `ahead` items before whoever asks; `items` may be endless."""
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers or usable_cores(), "alexnet-deploy-decode")
    try:
        waiting: deque[Future[Made]] = deque()
        waiting.extend(pool.submit(function, item) for item in islice(remaining, ahead))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)


def _one(source: Source, recipe: Preprocess) -> Fitted:
    try:
        if isinstance(source, (str, Path)):
            return decode_fitted(source, recipe)
        if (
            not isinstance(source, np.ndarray)
            or source.dtype != np.uint8
            or source.ndim != 3
            or source.shape[-1] != 3
            or not source.size
        ):
            found = f"{source.dtype} {source.shape}" if isinstance(source, np.ndarray) else f"a {type(source).__name__}"
            return InputError(f"a picture is {found}", expected="a file, or uint8 (H, W, 3) RGB")
        return fit(np.ascontiguousarray(source), recipe)
    except PictureError as error:
        return error
