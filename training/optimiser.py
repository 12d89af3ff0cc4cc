"""The optimiser over a model's layers, each with its share of the learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.model import AlexNet
from training.settings import TrainSettings


def build_optimiser(model: AlexNet, settings: TrainSettings) -> torch.optim.Optimizer:
    """Over all weights that are not frozen; each group has its `share` of the learning rate.

    Biases and BatchNorm's factors do not decay, as in Caffe's AlexNet and in today's recipes.
    `fused` updates all in one pass over the memory, where the plain loop takes a tenth of a step on a CPU.
    """
    model.features.requires_grad_(settings.features_lr > 0)
    layers = [(layer, part) for part in (model.features, model.classifier) for layer in part if list(layer.parameters())]
    groups: list[dict[str, Any]] = []
    for depth, (layer, part) in enumerate(reversed(layers)):
        share = settings.layer_decay**depth * (settings.features_lr if part is model.features else 1.0)
        if share:
            groups += _groups(layer, share, settings.weight_decay)
    common: dict[str, Any] = {"lr": settings.lr, "fused": True}
    if settings.optimiser == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=nesterov, **common)
    return torch.optim.AdamW(groups, betas=(settings.momentum, 0.999), **common)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]


def _groups(layer: nn.Module, share: float, weight_decay: float) -> list[dict[str, Any]]:
    kernels = [parameter for parameter in layer.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in layer.parameters() if parameter.ndim <= 1]
    return [
        {"params": parameters, "share": share, "weight_decay": decay}
        for parameters, decay in ((kernels, weight_decay), (others, 0.0))
        if parameters
    ]
