"""Recipes by name: what belongs together of a training's settings. Options on the command line have the last word.

docs/decisions/0110 tells what was tried for `modern`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet_deploy.artifact import read_manifest
from alexnet_deploy.errors import ManifestError
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
    "dropout": 0.2,
    "label_smoothing": 0.1,
    "ema": 0.998,
    "flip": True,
    "shift": 16 / 224,
    "crop": 0.35,
}

# What keeps a network from learning its pictures by heart. A short training does not get so far: there it only slows learning.
MODERN_LONG: dict[str, Any] = {"dropout": 0.5, "mixup": 0.2, "policy": "trivial"}
LONG_EPOCHS = 100

# For a network that has been trained already, and learns to be rounded.
ROUNDED: dict[str, Any] = {
    "recipe": "qat",
    "optimiser": "adamw",
    "lr": 5e-5,
    "schedule": "cosine",
    "warmup": 0.1,
    "weight_decay": 0.0,
    "batch_size": 64,
    "epochs": 5,
}

RECIPES = {"modern": MODERN, "paper": PAPER, "qat": ROUNDED}


def with_recipe(settings: TrainSettings, name: str) -> TrainSettings:
    """The settings with everything that the recipe decides, for their architecture, width and epochs.

    Raises KeyError for no such recipe.
    """
    recipe = RECIPES[name]
    if name == "modern":
        recipe = recipe | {"lr": modern_learning_rate(settings.arch, settings.width)}
        recipe |= MODERN_LONG if settings.epochs >= LONG_EPOCHS else {}
    return replace(settings, **recipe)


def modern_learning_rate(arch: str, width: float) -> float:
    """AdamW's peak: BatchNorm bears 0.001 at any width; without it, about in inverse proportion to the width."""
    return 0.001 if arch == "alexnet-bn" or width <= 0.3 else 0.0003 / width


def continued(weights: str) -> dict[str, Any]:
    """What a training that starts from one of our checkpoints takes over: the network, and how pictures become its input.

    {} for weights from elsewhere, which do not say.
    """
    if not weights.endswith(".safetensors"):
        return {}
    try:
        manifest = read_manifest(Path(weights))
    except ManifestError:
        return {}
    model = manifest.model or {}
    return {name: model[name] for name in ("arch", "width", "dropout", "input_size") if name in model} | {
        "framing": "whole" if manifest.preprocess.resize is None else "centre"
    }
