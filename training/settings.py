"""Everything that decides what comes out of a training, but for the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from alexnet_deploy.errors import InputError

Optimiser = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "step"]
Framing = Literal["centre", "whole"]
Policy = Literal["none", "trivial"]
Layout = Literal["nhwc", "nchw"]
Arithmetic = Literal["fp32", "bf16"]

_STEP_DECAYS = (1 / 3, 2 / 3, 8 / 9)  # shares of a training after which "step" divides: 30, 60 and 80 of 90 epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The data, the network, the recipe and the seed of a training.

    Attributes:
        data: "demo" or a folder; see `data.open_split`.
        validation: where held-out pictures are, when not beside the others; "" looks there.
        data_licence: of the pictures; for the model card.
        recipe: the name of the recipe that the rest began with, or ""; nothing is read from it.
        classes: how many the pictures must have; 0 takes what is there.
        arch, width, dropout, input_size: see `model.ModelConfig`.
        epochs: times that each picture is seen.
        patience: stop after so many epochs without a better validation accuracy, and keep the best epoch's weights; 0 trains
            all epochs and keeps the last. The validation accuracy is a choice's then, and a little too good.
        batch_size: pictures a step, of all processes together.
        optimiser: "sgd" or "adamw".
        lr: highest learning rate. A narrower network bears more, about in inverse proportion to its width.
        schedule: after the warm-up, "cosine" falls to zero along half a cosine; "step" divides by ten after a third, two thirds
            and eight ninths of the training, three times as in the paper of 2012.
        warmup: share of all steps spent warming up.
        momentum: of SGD; of AdamW's first moment.
        nesterov: SGD looks ahead along its momentum.
        weight_decay: share of each weight taken away, times the learning rate, in a step.
        label_smoothing: share of each target that is spread over all classes.
        mixup: alpha of the Beta distribution that pairs of pictures are mixed by (Zhang et al. 2018, arXiv:1710.09412); 0: never.
        ema: decay, a step, of the moving average of the weights that is measured and kept; 0 keeps the weights themselves.
        flip: mirror left and right, half of the time.
        shift: how far a crop may move each way, as a fraction of the input size.
        crop: the smallest share of a picture's area that a crop may keep, to be scaled to the input; 1: crops only move.
        policy: "trivial" changes each picture in one way of fourteen, by any strength (Müller and Hutter 2021, TrivialAugment,
            arXiv:2103.10158, its "wide" ranges); "none" in none.
        erase: how often a square of 2 to 20 % of the picture is covered (Zhong et al. 2017, arXiv:1708.04896).
        colour: deviation of the light added along the principal components of ImageNet's colours; 0.1 in the paper of 2012.
        framing: "centre" scales the shorter side and crops; "whole" scales both, for small pictures that fill their frame.
        weights: what to start from: "" (draw them), "imagenet", or a file; see `weights.read_weights`.
        features_lr: learning rate of the convolutions, as a share of the others'; 0 freezes them.
        layer_decay: the learning rate of each layer is this share of the next one's: the last layer learns fastest.
        layout: the order of pictures and weights in memory while the network trains; "nhwc" is PyTorch's channels_last.
        arithmetic: what the network computes in while it trains; weights and their updates are always float32.
        compiled: whether torch.compile makes the step.
        ten_crop: measure also with ten crops a picture when all is trained, as the paper of 2012 did.
        seed: of the weights, the order, the augmentation and the dropout.

    Raises:
        InputError: a value outside its range.
    """

    data: str = "demo"
    validation: str = ""
    data_licence: str = ""
    recipe: str = ""
    classes: int = 0
    arch: str = "alexnet"
    width: float = 1.0
    dropout: float = 0.5
    input_size: int = 224
    epochs: int = 30
    patience: int = 0
    batch_size: int = 128
    optimiser: Optimiser = "adamw"
    lr: float = 0.0003
    schedule: Schedule = "cosine"
    warmup: float = 0.15
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    flip: bool = True
    shift: float = 1 / 16
    crop: float = 1.0
    policy: Policy = "none"
    erase: float = 0.0
    colour: float = 0.0
    framing: Framing = "centre"
    weights: str = ""
    features_lr: float = 1.0
    layer_decay: float = 1.0
    layout: Layout = "nhwc"
    arithmetic: Arithmetic = "fp32"
    compiled: bool = False
    ten_crop: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{_words(name)} {getattr(self, name)!r}", expected=" or ".join(allowed))
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:  # NaN is in no range
                raise InputError(f"{_words(name)} {value}", expected=f"{least:,g} to {most:,g}")
        for name in _BELOW_ONE:
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{_words(name)} {getattr(self, name)}", expected="0 to below 1")
        if not 0 < self.lr <= 100:
            raise InputError(f"learning rate {self.lr}", expected="above 0, at most 100")
        if not 0 < self.crop <= 1 or not 0 < self.layer_decay <= 1:
            raise InputError(f"crop {self.crop}, layer decay {self.layer_decay}", expected="above 0, at most 1")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed}", expected="0 to 2**63 - 1")

    def learning_rate(self, step: int, steps: int) -> float:
        """Of step 0 .. steps - 1 of the whole training: linear warm-up, then as `schedule` says."""
        warm = round(self.warmup * steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "step":
            return self.lr * 0.1 ** sum(step >= share * steps for share in _STEP_DECAYS)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


_CHOICES = {
    "optimiser": get_args(Optimiser),
    "schedule": get_args(Schedule),
    "framing": get_args(Framing),
    "policy": get_args(Policy),
    "layout": get_args(Layout),
    "arithmetic": get_args(Arithmetic),
}
_RANGES = {
    "classes": (0, 1_000_000),
    "epochs": (1, 100_000),
    "patience": (0, 100_000),
    "batch_size": (1, 65_536),
    "weight_decay": (0, 1),
    "mixup": (0, 100),
    "shift": (0, 0.5),
    "erase": (0, 1),
    "colour": (0, 10),
    "features_lr": (0, 10),
}
_BELOW_ONE = ("warmup", "momentum", "label_smoothing", "ema")


def _words(name: str) -> str:
    return name.replace("_", " ")


def demo_settings(seed: int = 0) -> TrainSettings:
    """What `alexnet-deploy demo` trains with: a narrow AlexNet, about a minute on two cores. docs/decisions/0101 has the
    figures of what was tried.

    Nothing is mirrored: every shoe of the demo's pictures points left.
    """
    return TrainSettings(
        data="demo",
        framing="whole",
        width=0.25,
        input_size=96,
        dropout=0.2,
        epochs=12,
        batch_size=64,
        lr=0.001,
        weight_decay=0.01,
        flip=False,
        shift=0.03,
        seed=seed,
    )
