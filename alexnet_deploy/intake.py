"""From a caller's batch to the rows that an engine takes: checked, prepared, contiguous, of the right dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import InputError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.preprocess import normalise, prepare
from alexnet_deploy.types import TensorSpec

_FLOAT32, _UINT8 = np.dtype(np.float32), np.dtype(np.uint8)
_FEW = 8192  # OpenBLAS takes one thread for so many, and otherwise several, which would spin beside the engine's


class Intake:
    """What one engine takes.

    Args:
        spec: the engine's input.
        smallest: the fewest rows that it takes.
        recipe: how pictures become that input; None where nobody knows.
        name: what errors call the artifact.
    """

    def __init__(self, spec: TensorSpec, smallest: int, recipe: Preprocess | None, name: str) -> None:
        self._spec = spec
        self._smallest = smallest
        self._recipe = recipe
        self._name = name
        self._dtype = np.dtype(spec.dtype)
        # Of what goes in as it is: the engine's own input, if it is float32, or pictures as somebody says that they are meant.
        own = self._dtype == _FLOAT32 or (self._dtype == _UINT8 and recipe is not None)
        self._own_dtype = self._dtype if own else None
        self._row_shape = spec.shape[1:]

    @property
    def recipe(self) -> Preprocess:
        """How pictures become input. Raises InputError for a file without a manifest that was opened without one."""
        if self._recipe is None:
            raise InputError(
                f"how {self._name} wants its pictures is not known: it has no manifest",
                expected=f"float32 batches of {self._spec}",
                fix="Runtime(..., preprocess=Preprocess(...)), or alexnet-deploy adopt",
            )
        return self._recipe

    def are_pictures(self, batch: npt.NDArray[Any]) -> bool:
        """Whether `batch` is pictures rather than the engine's own input. Raises InputError when it is neither."""
        expected = self._row_shape
        if batch.dtype is self._own_dtype and batch.shape[1:] == expected:
            return False  # nearly always: the rest finds out what is wrong, or pictures of another size
        if batch.dtype == _UINT8:
            if batch.ndim != 4 or batch.shape[-1] != 3 or 0 in batch.shape[1:3]:
                raise InputError(
                    f"pictures are uint8 {batch.shape}",
                    expected="uint8 (N, H, W, 3), RGB",
                    fix="batch[None] for a single picture" if batch.ndim == 3 else "",
                )
            return self.recipe is not None  # without a recipe that property raises
        if self._dtype == _UINT8 or batch.dtype != _FLOAT32:
            wanted = "uint8 (N, H, W, 3)" if self._dtype == _UINT8 else "float32, preprocessed, or uint8 (N, H, W, 3) pictures"
            raise InputError(f"the batch is {batch.dtype}", expected=wanted)
        if batch.ndim != 1 + len(expected) or any(e not in (None, n) for e, n in zip(expected, batch.shape[1:], strict=True)):
            wanted = ", ".join(["N", *("any" if e is None else str(e) for e in expected)])
            raise InputError(
                f"the batch is float32 {batch.shape}",
                expected=f"({wanted})",
                fix="batch[None] for a single picture" if batch.ndim == len(expected) else "",
            )
        return False

    def check(self, batch: npt.NDArray[Any], start: int = 0) -> None:
        """Raises InputError where a number is NaN or infinite, and counts rows from `start`. Pictures have nothing to check."""
        if batch.dtype is not _UINT8 and not all_finite(batch):
            row = int(np.flatnonzero(~np.isfinite(batch).all(axis=tuple(range(1, batch.ndim))))[0])
            raise InputError(f"picture {start + row} of the batch holds NaN or infinity", expected="finite numbers")

    def prepared(self, batch: npt.NDArray[Any], are_pictures: bool) -> npt.NDArray[Any]:
        """A batch as the engine takes it; rows of zeros fill it up to the engine's smallest batch."""
        rows = batch
        if are_pictures:
            rows = prepare(batch, self.recipe)
            if self._dtype != _UINT8:
                rows = normalise(rows, self.recipe)
        if rows.dtype != self._dtype or not rows.flags.c_contiguous:
            rows = np.ascontiguousarray(rows, self._dtype)
        missing = self._smallest - len(rows)
        return rows if missing <= 0 else np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])


def plain(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers of a subclass of numpy's arrays, such as memmap. Raises InputError where some of them are not meant."""
    if isinstance(batch, np.ma.MaskedArray):
        raise InputError("the batch is a masked array", expected="an array of which every element counts", fix="batch.filled(0)")
    return batch.view(np.ndarray)


def all_finite(numbers: npt.NDArray[np.float32]) -> bool:
    """Whether there is no NaN and no infinity.

    A sum that is finite has neither in it; one that is not may have overflowed, and all are looked at. Of few numbers, such as
    an answer, it is the sum of squares: BLAS has the least code to bring into cold caches, and warns of nothing. Of many,
    einsum reads memory once, takes a third of the time of np.sum, and uses no threads.
    """
    total = np.vdot(numbers, numbers) if numbers.size <= _FEW else np.einsum("i->", numbers.reshape(-1))
    return math.isfinite(total) or bool(np.isfinite(numbers).all())


def parts(count: int, largest: int) -> list[slice]:
    """Splits `count` rows into the fewest parts of at most `largest`, whose sizes differ by one at most."""
    several = -(-count // largest)
    return [slice(index * count // several, (index + 1) * count // several) for index in range(several)]
