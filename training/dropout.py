"""Dropout as a function of (seed, epoch, picture): the same whatever batch, process or thread a picture is in.

Each picture has a key, each unit of a layer a code; the two are scrambled together by MurmurHash3's finaliser into 32 bits, of
which a unit is left out or kept. That takes a fifth of the time of PyTorch's own generator, which draws one number after the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

_KEYS = 2  # tells these numbers from those that vary a picture and mix it
_GOLDEN = np.uint32(0x9E3779B9)

Keys = npt.NDArray[np.int32]


class PictureDropout(nn.Module):
    """nn.Dropout whose masks follow from `keys`, int32 (n,), one of each picture of the batch that comes next."""

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        self.p = p
        self.layer = layer
        self.keys = torch.zeros(0, dtype=torch.int32)
        self._codes: torch.Tensor | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p:
            return values
        keys = self.keys.view(-1, *[1] * (values.dim() - 1))
        drawn: torch.Tensor = _scrambled(keys ^ self._codes_of(values))
        kept = drawn >= round((self.p - 0.5) * 2**32)
        return values * (kept.to(values.dtype) * (1 / (1 - self.p)))

    def _codes_of(self, values: torch.Tensor) -> torch.Tensor:
        """One of each unit, in the memory order of the values."""
        if self._codes is None or self._codes.shape[1:] != values.shape[1:] or self._codes.device != values.device:
            units = torch.arange(values[0].numel(), dtype=torch.int32, device=values.device)
            codes = _scrambled(units + (self.layer << 24)).view(1, *values.shape[1:])
            self._codes = codes.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else codes
        return self._codes


def drop_by_picture(model: nn.Module) -> None:
    """Replaces every nn.Dropout of a model by its PictureDropout; no weight changes its name."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Dropout)
    ]
    for layer, (parent, name, child) in enumerate(found):
        setattr(parent, name, PictureDropout(child.p, layer))


def give_keys(network: nn.Module, keys: torch.Tensor) -> None:
    """Of the pictures that the network gets next."""
    for module in network.modules():
        if isinstance(module, PictureDropout):
            module.keys = keys


def keys_of(seed: int, epoch: int, pictures: Sequence[int] | npt.NDArray[np.int64]) -> Keys:
    """One for each picture of an epoch, by its place in the set."""
    base = np.random.SeedSequence([seed, epoch, _KEYS]).generate_state(1)
    return _scrambled(np.asarray(pictures, np.int64).astype(np.uint32) * _GOLDEN + base).view(np.int32)  # type: ignore[no-any-return]


def _scrambled(bits: Any) -> Any:
    """MurmurHash3's finaliser (Appleby 2011) of 32-bit integers, in place: each bit of theirs decides on all of the result's."""
    bits ^= (bits >> 16) & 0xFFFF
    bits *= _like(bits, 0x85EBCA6B)
    bits ^= (bits >> 13) & 0x7FFFF
    bits *= _like(bits, 0xC2B2AE35)
    bits ^= (bits >> 16) & 0xFFFF
    return bits


def _like(bits: Any, constant: int) -> Any:
    """A constant in the integers of `bits`: PyTorch's are signed."""
    return np.uint32(constant) if isinstance(bits, np.ndarray) else constant - 2**32
