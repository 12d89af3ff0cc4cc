"""Small classifiers of other kinds than AlexNet, in plain PyTorch, to quantise: trained here and exported as anybody would.

    python benchmarks/quantization/networks.py mobilenet --data cifar10/train --out mobilenet.onnx

mobilenet    inverted residuals: depthwise convolutions, BatchNormalization, ReLU6, additions (MobileNetV2, arXiv:1801.04381)
squeezenet   fire modules: Concat, no normalisation, no fully connected layer (arXiv:1602.07360)
resnet       basic blocks: BatchNormalization, additions before the Relu (arXiv:1512.03385)
mobilenetv3  hard-swish, squeeze and excitation, depthwise convolutions of 3x3 and 5x5 (MobileNetV3, arXiv:1905.02244)
efficientnet the same blocks with SiLU (EfficientNet, arXiv:1905.11946)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import adopt
from alexnet_deploy.pictures import PictureSet

SIZE = 32
RECIPE = Preprocess(height=SIZE, width=SIZE)
BATCH = 128
_SHIFT = 3  # pixels, either way


def _conv(given: int, made: int, kernel: int, *, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Module:
    parts = [nn.Conv2d(given, made, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(made)]
    return nn.Sequential(*parts, *([act] if act else []))


class InvertedResidual(nn.Module):
    def __init__(self, given: int, made: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = given * expansion
        self.body = nn.Sequential(
            _conv(given, wide, 1, act=nn.ReLU6()),
            _conv(wide, wide, 3, stride=stride, groups=wide, act=nn.ReLU6()),
            _conv(wide, made, 1),
        )
        self.shortcut = stride == 1 and given == made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.shortcut else y


class SqueezeExcitation(nn.Module):
    """Scales every channel by what two small layers make of the means of all."""

    def __init__(self, channels: int, gate: type[nn.Module]) -> None:
        super().__init__()
        narrow = channels // 4
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, channels, 1), gate()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x * self.gate(x)
        return y


class ExcitedResidual(nn.Module):
    """An inverted residual with squeeze and excitation behind its depthwise convolution."""

    def __init__(self, given: int, made: int, stride: int, kernel: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        wide = 4 * given
        self.body = nn.Sequential(
            _conv(given, wide, 1, act=act()),
            _conv(wide, wide, kernel, stride=stride, groups=wide, act=act()),
            SqueezeExcitation(wide, gate),
            _conv(wide, made, 1),
        )
        self.shortcut = stride == 1 and given == made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.shortcut else y


class Fire(nn.Module):
    def __init__(self, given: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(given, narrow, 1)
        self.one = nn.Conv2d(narrow, wide, 1)
        self.three = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x).relu(), self.three(x).relu()], 1)


class BasicBlock(nn.Module):
    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(given, made, 3, stride=stride, act=nn.ReLU()), _conv(made, made, 3))
        self.shortcut = nn.Identity() if stride == 1 and given == made else _conv(given, made, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x) + self.shortcut(x)
        return y.relu()


def _head(features: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


def mobilenet(classes: int) -> nn.Module:
    """(N, 3, 32, 32) float32 -> (N, classes) logits."""
    plan = [(16, 24, 1), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 64, 2), (64, 64, 1)]
    blocks = [InvertedResidual(given, made, stride) for given, made, stride in plan]
    first, last = _conv(3, 16, 3, stride=1, act=nn.ReLU6()), _conv(64, 192, 1, act=nn.ReLU6())
    return nn.Sequential(first, nn.MaxPool2d(2), *blocks, last, *_head(192, classes))


def squeezenet(classes: int) -> nn.Module:
    """(N, 3, 32, 32) float32 -> (N, classes) logits."""
    fires = [Fire(48, 12, 48), Fire(96, 12, 48), nn.MaxPool2d(3, 2, 1), Fire(96, 24, 96), Fire(192, 24, 96)]
    first = [nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    last = [nn.MaxPool2d(3, 2, 1), Fire(192, 32, 128), nn.Conv2d(256, classes, 1)]
    return nn.Sequential(*first, *fires, *last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet(classes: int) -> nn.Module:
    """(N, 3, 32, 32) float32 -> (N, classes) logits."""
    blocks = [BasicBlock(24, 24, 1), BasicBlock(24, 48, 2), BasicBlock(48, 48, 1), BasicBlock(48, 96, 2), BasicBlock(96, 96, 1)]
    return nn.Sequential(_conv(3, 24, 3, act=nn.ReLU()), nn.MaxPool2d(2), *blocks, *_head(96, classes))


def _excited(classes: int, act: type[nn.Module], gate: type[nn.Module]) -> nn.Module:
    plan = [(16, 24, 1, 3), (24, 24, 1, 3), (24, 40, 2, 5), (40, 40, 1, 5), (40, 64, 2, 3), (64, 64, 1, 5)]
    blocks = [ExcitedResidual(given, made, stride, kernel, act, gate) for given, made, stride, kernel in plan]
    first, last = _conv(3, 16, 3, stride=2, act=act()), _conv(64, 192, 1, act=act())
    return nn.Sequential(first, *blocks, last, *_head(192, classes))


def mobilenetv3(classes: int) -> nn.Module:
    """(N, 3, 32, 32) float32 -> (N, classes) logits."""
    return _excited(classes, nn.Hardswish, nn.Hardsigmoid)


def efficientnet(classes: int) -> nn.Module:
    """(N, 3, 32, 32) float32 -> (N, classes) logits."""
    return _excited(classes, nn.SiLU, nn.Sigmoid)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    made.__name__: made for made in (mobilenet, squeezenet, resnet, mobilenetv3, efficientnet)
}


def train(name: str, pictures: PictureSet, epochs: int, seed: int = 0) -> nn.Module:
    """Trains a network on labelled pictures, mirrored and shifted at random; in evaluation mode."""
    torch.manual_seed(seed)
    pixels = torch.from_numpy(np.concatenate([batch for batch, _ in pictures.pixels(RECIPE, 512)])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(pictures.labels)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (RECIPE.mean, RECIPE.std))
    model = NETWORKS[name](len(pictures.classes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = len(pixels) // BATCH
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(len(pixels))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = ((pixels[chosen].float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            batch = torch.roll(batch, torch.randint(-_SHIFT, _SHIFT + 1, (2,)).tolist(), (2, 3))
            loss = nn.functional.cross_entropy(model(batch), labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"{name} epoch {epoch + 1}: loss {total / steps:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    return model.eval()


def export(model: nn.Module, output: Path, labels: tuple[str, ...]) -> Artifact:
    """PyTorch's own exporter, then `adopt`: the way of a model that somebody else made."""
    raw = output.with_suffix(".raw.onnx")
    torch.onnx.export(
        model.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        (torch.randn(2, 3, SIZE, SIZE),),
        str(raw),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
        external_data=False,
        input_names=["input"],
        output_names=["logits"],
    )
    artifact = adopt(raw, RECIPE, labels, output)
    raw.unlink()
    return artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(NETWORKS))
    parser.add_argument("--data", type=Path, required=True, help="training pictures, one subfolder a class")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX graph, with its manifest")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--count", type=int, default=50_000, help="pictures to train on")
    given = parser.parse_args()
    pictures = PictureSet.open(given.data).sample(given.count)
    print(export(train(given.name, pictures, given.epochs), given.out, pictures.classes).path)


if __name__ == "__main__":
    main()
