"""Training that already rounds as the INT8 engine will, so that the weights learn to live with it.

Jacob et al. 2018, arXiv:1712.05877. Activations are rounded by the ranges that a calibration found, and these stay; weights by
the largest magnitude of each output channel, as `quantization.weights` does. Rounding has no slope of its own: gradients pass
through as if it were not there, but not where a value was clipped (Bengio et al. 2013, arXiv:1308.3432).

BatchNorm's statistics are frozen, and weights are rounded as export will have folded them: multiplied by its factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from alexnet_deploy.errors import InputError
from alexnet_deploy.manifest import CalibrationRecord

_LIMIT = 127
_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True, slots=True)
class Ranges:
    """What the activations of a network were found to span.

    Attributes:
        record: of the calibration, for the manifest; `build-engine` takes the ranges from there.
        layers: how what goes into each convolution and each fully connected layer is stored in int8, by the module's name: the
            size of a step, and the number that zero is stored as.
    """

    record: CalibrationRecord
    layers: dict[str, tuple[float, int]]


class Rounded(nn.Module):
    """A network whose layers compute with rounded inputs and rounded weights; its own weights stay as fine as they are."""

    def __init__(self, model: nn.Module, ranges: Mapping[str, tuple[float, int]]) -> None:
        super().__init__()
        self.model = model
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
        if layers.keys() != ranges.keys():
            raise InputError(
                f"ranges of {', '.join(sorted(ranges))}",
                expected=f"one for each of {', '.join(layers)}",
                fix="calibrate the network that is to be trained",
            )
        for name, layer in layers.items():
            scale, zero = ranges[name]
            layer.register_forward_pre_hook(partial(_round_input, scale=scale, zero=zero))
        self._layers = list(layers)
        self._norms = _norms(model)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        rounded = {f"{name}.weight": self._rounded_weight(name) for name in self._layers}
        logits: torch.Tensor = torch.func.functional_call(self.model, rounded, (pictures,))
        return logits

    def _rounded_weight(self, name: str) -> torch.Tensor:
        weight = self.model.get_parameter(f"{name}.weight")
        if name not in self._norms:
            return round_weight(weight)
        factor = _factor(self._norms[name]).view(-1, 1, 1, 1)
        return round_weight(weight * factor) / factor


def round_weight(weight: torch.Tensor) -> torch.Tensor:
    """To 255 steps, the largest magnitude of each output channel at the end of them; float32, same shape."""
    scale = _half_exact(weight.detach().flatten(1).abs().amax(1) / _LIMIT)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -_LIMIT, _LIMIT)


def freeze_statistics(model: nn.Module) -> None:
    """BatchNorm computes as it will after training, also in training mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.eval()


def _norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """For each convolution that one follows, its BatchNorm."""
    found = {}
    for path, parent in model.named_modules():
        children = list(parent.named_children()) if isinstance(parent, nn.Sequential) else []
        for (name, layer), (_, following) in pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                found[f"{path}.{name}"] = following
    return found


def _factor(norm: nn.BatchNorm2d) -> torch.Tensor:
    """What export multiplies each output channel's weights by; never zero."""
    assert norm.running_var is not None
    factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    return torch.where(factor == 0, 1.0, factor)


def _round_input(layer: nn.Module, given: tuple[Any, ...], scale: float, zero: int) -> tuple[torch.Tensor]:
    return (torch.fake_quantize_per_tensor_affine(given[0], scale, zero, -_LIMIT - 1, _LIMIT),)


def _half_exact(scale: torch.Tensor) -> torch.Tensor:
    """As `quantization.weights.half_exact`: what float16 can hold, and never zero."""
    return scale.half().float().clamp(min=_SMALLEST_HALF)
