"""A network of the AlexNet family from its config: freshly drawn, or around existing weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import msgspec
import torch
from torch import nn

from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.manifest import Preprocess
from training.family import FAMILY

_CAFFE_MEAN = (104.00699, 116.66877, 122.67892)  # blue, green, red: of Caffe's ilsvrc_2012_mean.npy
_CAFFE_DEVIATION = 58.0  # of ImageNet's pixels, about that of every channel


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
        if self.arch not in FAMILY:
            raise InputError(f"there is no architecture {self.arch!r}", expected=f"one of {', '.join(FAMILY)}")
        if not 1 <= self.classes <= 1_000_000:
            raise InputError(f"{self.classes} classes", expected="1 to 1,000,000")
        if not 0.01 <= self.width <= 8:
            raise InputError(f"width {self.width}", expected="0.01 to 8, where 1 is the published network")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout {self.dropout}", expected="a probability from 0 to below 1")
        smallest = FAMILY[self.arch].smallest_input
        if not smallest <= self.input_size <= 4096:
            raise InputError(f"input size {self.input_size} for {self.arch}", expected=f"{smallest} to 4096 pixels")

    def channels(self, published: int) -> int:
        """The published channel count, scaled by `width` to a multiple of 8, at least 8."""
        return max(8, round(published * self.width / 8) * 8)

    def channels_of_groups(self, published: int) -> int:
        """The same for layers in two groups: to multiples of 16, at least 16."""
        return max(16, round(published * self.width / 16) * 16)

    def to_dict(self) -> dict[str, str | int | float | bool]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The config that `to_dict` wrote. Raises InputError for missing or mistyped entries."""
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"a model description cannot be used: {error}", expected="what `train` writes there") from error


class AlexNet(nn.Module):
    """float32 (N, 3, H, W) to logits (N, classes), for any member of the family; to probabilities after `end_in_softmax`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.features, self.avgpool, self.classifier = FAMILY[config.arch].layers(config)
        self.output: nn.Module = nn.Identity()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.output(self.classifier(torch.flatten(self.avgpool(self.features(pictures)), 1)))
        return answers

    def end_in_softmax(self) -> None:
        """For good: losses are computed from logits, so this is for networks that are trained."""
        self.output = nn.Softmax(dim=1)


def build_model(config: ModelConfig) -> AlexNet:
    """A freshly initialised network, drawn from torch's current random state.

    Weights keep the variance of what flows through ReLUs (He et al. 2015, arXiv:1502.01852, equation 10); with PyTorch's own
    initialisation AlexNet spends its first epochs on a plateau. Biases start at zero. Where pixels of 0..255 go in, the
    first layer's weights are smaller by that factor.
    """
    model = AlexNet(config)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if FAMILY[config.arch].pixels_as == "caffe":
        first = next(model.parameters())
        with torch.no_grad():
            first.div_(_CAFFE_DEVIATION)
    return model


def build_with_weights(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> AlexNet:
    """The network around existing weights, which it takes over; no time is spent on drawing any.

    Raises:
        ModelError: names, shapes or dtypes are not the architecture's.
    """
    with torch.device("meta"):
        model = AlexNet(config)
    own = model.state_dict()
    misfits = sorted(set(own) ^ set(weights)) or [
        name for name, tensor in own.items() if (tensor.shape, tensor.dtype) != (weights[name].shape, weights[name].dtype)
    ]
    if misfits:
        raise ModelError(
            f"these are not the weights of {config.arch} at width {config.width:g} with {config.classes} classes: {misfits[0]}"
            + (f" and {len(misfits) - 1} more tensors differ" if misfits[1:] else " differs"),
            fix="--arch, --width and --classes as the weights were trained with",
        )
    model.load_state_dict(weights, assign=True)
    return model


def preprocessing(config: ModelConfig, *, whole: bool = False) -> Preprocess:
    """How pictures become this network's input.

    Args:
        config: of the network.
        whole: scale the whole picture to the input; otherwise the middle 224 of 256 pixels, in proportion, are cropped.
    """
    size = config.input_size
    resize = None if whole else round(size * 256 / 224)
    if FAMILY[config.arch].pixels_as == "caffe":
        return Preprocess(
            height=size, width=size, resize=resize, scale=1.0, mean=_CAFFE_MEAN, std=(1.0, 1.0, 1.0), channel_order="bgr"
        )
    return Preprocess(height=size, width=size, resize=resize)
