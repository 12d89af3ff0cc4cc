"""AlexNet, with the parameter names and shapes of torchvision's, so that its published weights load with strict=True.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014), arXiv:1404.5997: the single-column
AlexNet with 64-192-384-256-256 channels, without local response normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import msgspec
import torch
from torch import nn

from alexnet_deploy.errors import InputError, ModelError

SMALLEST_INPUT = 63  # pixels: what leaves the third pooling 1x1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What it takes to build the same network again; a manifest's `model`.

    Attributes:
        arch: the member of the family.
        classes: number of outputs.
        width: scales every channel count but the last, to multiples of 8. 1.0 is the published network.
        dropout: probability, in the classifier.
        input_size: height and width in pixels of the pictures it is trained on.

    Raises:
        InputError: a value outside its range.
    """

    arch: str = "alexnet"
    classes: int = 1000
    width: float = 1.0
    dropout: float = 0.5
    input_size: int = 224

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise InputError(f"there is no architecture {self.arch!r}", expected=f"one of {', '.join(ARCHITECTURES)}")
        if not 1 <= self.classes <= 1_000_000:
            raise InputError(f"{self.classes} classes", expected="1 to 1,000,000")
        if not 0.01 <= self.width <= 8:
            raise InputError(f"width {self.width}", expected="0.01 to 8, where 1 is the published network")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout {self.dropout}", expected="a probability from 0 to below 1")
        if not SMALLEST_INPUT <= self.input_size <= 4096:
            raise InputError(f"input size {self.input_size}", expected=f"{SMALLEST_INPUT} to 4096 pixels")

    def channels(self, published: int) -> int:
        """The published channel count, scaled by `width` to a multiple of 8, at least 8."""
        return max(8, round(published * self.width / 8) * 8)

    def to_dict(self) -> dict[str, str | int | float | bool]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The config that `to_dict` wrote. Raises InputError for missing or mistyped entries."""
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"a model description cannot be used: {error}", expected="what `train` writes there") from error


class PoolTo6x6(nn.Module):
    """nn.AdaptiveAvgPool2d((6, 6)), exported as one cheap operator where it only repeats pixels, or as none at 6x6.

    The exporter writes the general operator as Transpose, GatherND, Transpose and ReduceMean, which neither TensorRT nor
    the CPU runs well.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        height, width = maps.shape[-2:]
        if (height, width) == (6, 6):
            return maps
        if 6 % height == 0 and 6 % width == 0:
            return nn.functional.interpolate(maps, scale_factor=(6 // height, 6 // width), mode="nearest")
        return nn.functional.adaptive_avg_pool2d(maps, (6, 6))


class AlexNet(nn.Module):
    """float32 (N, 3, H, W), H and W at least 63, to logits (N, classes)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.features = nn.Sequential(
            nn.Conv2d(3, c(64), kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(c(64), c(192), kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(c(192), c(384), kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(c(384), c(256), kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(c(256), c(256), kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = PoolTo6x6()
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(c(256) * 6 * 6, c(4096)),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(c(4096), c(4096)),
            nn.ReLU(inplace=True),
            nn.Linear(c(4096), config.classes),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(pictures)), 1))
        return logits


ARCHITECTURES: dict[str, type[AlexNet]] = {"alexnet": AlexNet}


def build_model(config: ModelConfig) -> AlexNet:
    """A freshly initialised network, drawn from torch's current random state.

    Weights keep the variance of what flows through ReLUs (He et al. 2015, arXiv:1502.01852, equation 10); with PyTorch's own
    initialisation AlexNet spends its first epochs on a plateau. Biases start at zero.
    """
    model = ARCHITECTURES[config.arch](config)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def build_with_weights(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> AlexNet:
    """The network around existing weights, which it takes over; no time is spent on drawing any.

    Raises:
        ModelError: names, shapes or dtypes are not the architecture's.
    """
    with torch.device("meta"):
        model = ARCHITECTURES[config.arch](config)
    own = model.state_dict()
    misfits = sorted(set(own) ^ set(weights)) or [
        name for name, tensor in own.items() if (tensor.shape, tensor.dtype) != (weights[name].shape, weights[name].dtype)
    ]
    if misfits:
        raise ModelError(
            f"these are not the weights of {config.arch} at width {config.width:g} with {config.classes} classes: {misfits[0]}"
            + (f" and {len(misfits) - 1} more tensors differ" if misfits[1:] else " differs")
        )
    model.load_state_dict(weights, assign=True)
    return model
