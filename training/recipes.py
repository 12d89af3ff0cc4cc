"""Recipes by name: what belongs together of a training's settings. Options on the command line have the last word.

docs/decisions/0110 tells what was tried for `modern`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from training.settings import TrainSettings

# Krizhevsky, Sutskever, Hinton 2012, sections 4 and 5. Its learning rate fell when the validation error stood still, three
# times; ours falls at fixed shares of the training, as torchvision's reference does. Weights are drawn as everywhere here: from
# the paper's, of deviation 0.01, networks of another width do not get off the ground.
PAPER: dict[str, Any] = {
    "recipe": "paper",
    "optimiser": "sgd",
    "lr": 0.01,
    "schedule": "step",
    "warmup": 0.0,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "epochs": 90,
    "dropout": 0.5,
    "flip": True,
    "shift": 16 / 224,  # crops of 224 in 256 pixels
    "colour": 0.1,
    "ten_crop": True,
}

MODERN: dict[str, Any] = {
    "recipe": "modern",
    "optimiser": "adamw",
    "schedule": "cosine",
    "warmup": 0.1,
    "weight_decay": 0.05,
    "batch_size": 64,
    "dropout": 0.5,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "ema": 0.998,
    "flip": True,
    "shift": 16 / 224,
    "crop": 0.35,
    "policy": "trivial",
}

RECIPES = {"modern": MODERN, "paper": PAPER}


def with_recipe(settings: TrainSettings, name: str) -> TrainSettings:
    """The settings with everything that the recipe decides. Raises KeyError for no such recipe."""
    recipe = RECIPES[name]
    if name == "modern":
        recipe = recipe | {"lr": modern_learning_rate(settings.arch, settings.width)}
    return replace(settings, **recipe)


def modern_learning_rate(arch: str, width: float) -> float:
    """AdamW's peak: BatchNorm bears 0.001 at any width; without it, about in inverse proportion to the width."""
    return 0.001 if arch == "alexnet-bn" else min(0.001, 0.0003 / width)
