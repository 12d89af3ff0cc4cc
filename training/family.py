"""The AlexNet family: a function for each member, from its config to its convolutional and its classifying layers.

| name             | channels            | what sets it apart                                                              |
| alexnet          | 64-192-384-256-256  | torchvision's: "One weird trick" (Krizhevsky 2014, arXiv:1404.5997), no LRN      |
| alexnet-2012     | 96-256-384-384-256  | Krizhevsky, Sutskever, Hinton 2012: two groups, local response normalisation     |
| alexnet-caffe    | 96-256-384-384-256  | BVLC's CaffeNet: pools before it normalises; takes BGR pixels of 0..255          |
| alexnet-bvlc     | 96-256-384-384-256  | BVLC's AlexNet, also in the ONNX zoo: normalises, then pools; pixels as CaffeNet |
| alexnet-bn       | 64-192-384-256-256  | batch normalisation after every convolution; export folds it away                |
| alexnet-tutorial | 64-192-384-256-256  | max-pooling after every convolution, dropout also after the last two             |

All compute logits, which losses are of. Of alexnet-tutorial a softmax makes probabilities once it is trained, as its text has it;
for the others `Runtime.predict` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from training.model import ModelConfig

Layers = tuple[nn.Sequential, "PoolTo", nn.Sequential]


class PoolTo(nn.Module):
    """nn.AdaptiveAvgPool2d((size, size)), exported as one cheap operator where it only repeats pixels, or as none.

    The exporter writes the general operator as Transpose, GatherND, Transpose and ReduceMean, which neither TensorRT nor
    the CPU runs well.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        height, width = maps.shape[-2:]
        if (height, width) == (self.size, self.size):
            return maps
        if self.size % height == 0 and self.size % width == 0:
            times = (self.size // height, self.size // width)
            return nn.functional.interpolate(maps, scale_factor=times, mode="nearest")
        return nn.functional.adaptive_avg_pool2d(maps, (self.size, self.size))


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha / size * sum of a^2 over `size` neighbouring channels) ^ beta.

    Caffe, ONNX and PyTorch divide alpha by the size; the paper of 2012 (section 3.3) does not, so that its alpha of 1e-4 over
    five channels is 5e-4 here. Exported as ONNX's own LRN instead of the seven operators that the exporter makes of it.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            attributes: dict[str, Any] = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.k}
            return torch.onnx.ops.symbolic("LRN", (maps,), attributes, dtype=maps.dtype, shape=maps.shape)
        return nn.functional.local_response_norm(maps, self.size, self.alpha, self.beta, self.k)


def alexnet(config: ModelConfig) -> Layers:
    """Names and shapes as torchvision.models.alexnet has them."""
    c = config.channels
    features = nn.Sequential(
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
    classifier = nn.Sequential(
        nn.Dropout(config.dropout),
        nn.Linear(c(256) * 6 * 6, c(4096)),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(c(4096), c(4096)),
        nn.ReLU(inplace=True),
        nn.Linear(c(4096), config.classes),
    )
    return features, PoolTo(6), classifier


def alexnet_2012(config: ModelConfig) -> Layers:
    """The paper's: normalises, then pools. k 2, n 5, alpha 1e-4 (not divided by n), beta 0.75."""
    return _two_groups(config, lambda: [LocalResponseNorm(5, 5 * 1e-4, 0.75, 2.0), nn.MaxPool2d(kernel_size=3, stride=2)])


def alexnet_caffe(config: ModelConfig) -> Layers:
    """CaffeNet (bvlc_reference_caffenet): pools, then normalises. k 1, n 5, alpha 1e-4 (divided by n), beta 0.75."""
    return _two_groups(config, lambda: [nn.MaxPool2d(kernel_size=3, stride=2), LocalResponseNorm(5, 1e-4, 0.75, 1.0)])


def alexnet_bvlc(config: ModelConfig) -> Layers:
    """Caffe's bvlc_alexnet: normalises, then pools, as the paper, but with CaffeNet's constants."""
    return _two_groups(config, lambda: [LocalResponseNorm(5, 1e-4, 0.75, 1.0), nn.MaxPool2d(kernel_size=3, stride=2)])


def _two_groups(config: ModelConfig, normalise_and_pool: Callable[[], list[nn.Module]]) -> Layers:
    c = config.channels_of_groups
    features = nn.Sequential(
        nn.Conv2d(3, c(96), kernel_size=11, stride=4),
        nn.ReLU(inplace=True),
        *normalise_and_pool(),
        nn.Conv2d(c(96), c(256), kernel_size=5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        *normalise_and_pool(),
        nn.Conv2d(c(256), c(384), kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(c(384), c(384), kernel_size=3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(c(384), c(256), kernel_size=3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    return features, PoolTo(6), _paper_classifier(config, c(256) * 6 * 6)


def alexnet_bn(config: ModelConfig) -> Layers:
    """`alexnet` with BatchNorm between each convolution and its ReLU; a bias before it would have no effect."""
    features, pool, classifier = alexnet(config)
    layers: list[nn.Module] = []
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
            layers += [layer, nn.BatchNorm2d(layer.out_channels)]
        else:
            layers.append(layer)
    return nn.Sequential(*layers), pool, classifier


def alexnet_tutorial(config: ModelConfig) -> Layers:
    """Pooling is padded, so that five of them leave 2x2 of an input of 224 pixels."""
    c = config.channels
    layers: list[nn.Module] = []
    for conv, dropout in (
        (nn.Conv2d(3, c(64), kernel_size=11, stride=4, padding=2), 0.0),
        (nn.Conv2d(c(64), c(192), kernel_size=5, padding=2), 0.0),
        (nn.Conv2d(c(192), c(384), kernel_size=3, padding=1), 0.0),
        (nn.Conv2d(c(384), c(256), kernel_size=3, padding=1), config.dropout),
        (nn.Conv2d(c(256), c(256), kernel_size=3, padding=1), config.dropout),
    ):
        layers += [conv, nn.ReLU(inplace=True), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers), PoolTo(2), _paper_classifier(config, c(256) * 2 * 2)


def _paper_classifier(config: ModelConfig, inputs: int) -> nn.Sequential:
    """Dropout after the first two fully connected layers, as the paper of 2012 has it."""
    hidden = config.channels(4096)
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(hidden, config.classes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One architecture of the family.

    Attributes:
        layers: builds them.
        input_size: of the published network, in pixels.
        smallest_input: what leaves one pixel behind the last pooling (with padding, one would be left of anything).
        pixels_as: "imagenet" (RGB, ImageNet's mean and deviation) or "caffe" (BGR of 0..255, less its mean).
        softmax: it ends in probabilities.
    """

    layers: Callable[[ModelConfig], Layers]
    input_size: int = 224
    smallest_input: int = 63
    pixels_as: str = "imagenet"
    softmax: bool = False


FAMILY: dict[str, Member] = {
    "alexnet": Member(layers=alexnet),
    "alexnet-2012": Member(layers=alexnet_2012, input_size=227, smallest_input=67),
    "alexnet-caffe": Member(layers=alexnet_caffe, input_size=227, smallest_input=67, pixels_as="caffe"),
    "alexnet-bvlc": Member(layers=alexnet_bvlc, input_size=227, smallest_input=67, pixels_as="caffe"),
    "alexnet-bn": Member(layers=alexnet_bn),
    "alexnet-tutorial": Member(layers=alexnet_tutorial, softmax=True),
}
