"""What training varies of a picture: where it is cropped, how it is turned and coloured, what is covered.

Everything is drawn from the generator that is passed in, one for each picture of each epoch, so that a picture is varied the
same way whatever batch, process or thread it is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from alexnet_deploy.preprocess import Pixels
from training.settings import TrainSettings

Box = tuple[float, float, float, float]

_GREY = (124, 116, 104)  # ImageNet's mean pixel: what comes in from outside a picture, and what covers it
_LOG_ASPECT = math.log(4 / 3)  # random crops are 3:4 to 4:3 (Szegedy et al. 2015, arXiv:1409.4842, section 6)
_ERASED = (0.02, 0.2)  # shares of the area

# Principal components of ImageNet's pixels in 0..1, and their spread (fb.resnet.torch, as torchvision's ancestors used them).
_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_SPREADS = np.array([0.2175, 0.0188, 0.0045])


def vary(wide: Pixels, size: int, settings: TrainSettings, generator: np.random.Generator) -> Pixels:
    """One picture as one epoch sees it.

    Args:
        wide: uint8 (S, S, 3), the input size with the margin that crops move in.
        size: of the result.
        settings: what is varied, and how much.
        generator: of this picture in this epoch.

    Returns:
        uint8 (size, size, 3); it may share memory with `wide`.
    """
    seen = _cropped(wide, size, settings, generator)
    if settings.policy == "trivial":
        seen = _trivial(seen, generator)
    if settings.colour:
        seen = _tinted(seen, settings.colour, generator)
    if settings.erase and generator.random() < settings.erase:
        seen = _erased(seen, generator)
    return seen


def _cropped(wide: Pixels, size: int, settings: TrainSettings, generator: np.random.Generator) -> Pixels:
    """A part of the picture, mirrored or not."""
    if settings.crop == 1:
        top, left = generator.integers(0, len(wide) - size + 1, 2)
        seen = wide[top : top + size, left : left + size]
        return seen[:, ::-1] if _mirrors(settings, generator) else seen
    area = generator.uniform(settings.crop, 1)
    aspect = math.exp(generator.uniform(-_LOG_ASPECT, _LOG_ASPECT))
    width, height = (len(wide) * min(1.0, math.sqrt(area * ratio)) for ratio in (aspect, 1 / aspect))
    left, top = generator.uniform(0, len(wide) - width), generator.uniform(0, len(wide) - height)
    box = (left, top, left + width, top + height)
    picture = Image.fromarray(wide).resize((size, size), Image.Resampling.BILINEAR, box=box)
    if _mirrors(settings, generator):
        picture = ImageOps.mirror(picture)  # a sixth of the time that numpy takes for three bytes a pixel
    return np.asarray(picture)


def _mirrors(settings: TrainSettings, generator: np.random.Generator) -> bool:
    return settings.flip and generator.random() < 0.5


def _trivial(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    change = _CHANGES[generator.integers(len(_CHANGES))]
    strength, sign = generator.random(), 1 if generator.random() < 0.5 else -1
    return np.asarray(change(Image.fromarray(np.ascontiguousarray(pixels)), strength, sign))


def _tinted(pixels: Pixels, deviation: float, generator: np.random.Generator) -> Pixels:
    light = 255 * _COMPONENTS @ (_SPREADS * generator.normal(0, deviation, 3))
    return np.clip(np.rint(pixels + light.astype(np.float32)), 0, 255).astype(np.uint8)


def _erased(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    side = round(len(pixels) * math.sqrt(generator.uniform(*_ERASED)))
    top, left = generator.integers(0, len(pixels) - side + 1, 2)
    out = pixels.copy()
    out[top : top + side, left : left + side] = _GREY
    return out


# TrivialAugment's changes: a picture, a strength of 0 to 1, and the direction for those that have two.
Change = Callable[[Image.Image, float, int], Image.Image]


def _moved(a: float = 1, b: float = 0, c: float = 0, d: float = 0, e: float = 1, f: float = 0) -> Callable[..., Image.Image]:
    def move(picture: Image.Image) -> Image.Image:
        return picture.transform(
            picture.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.NEAREST, fillcolor=_GREY
        )

    return move


def _enhanced(enhancer: Any) -> Change:
    return lambda picture, strength, sign: enhancer(picture).enhance(1 + sign * 0.99 * strength)


_CHANGES: tuple[Change, ...] = (
    lambda picture, strength, sign: picture,
    lambda picture, strength, sign: _moved(b=sign * 0.99 * strength)(picture),
    lambda picture, strength, sign: _moved(d=sign * 0.99 * strength)(picture),
    lambda picture, strength, sign: _moved(c=sign * strength * picture.width / 7)(picture),  # 32 of 224 pixels
    lambda picture, strength, sign: _moved(f=sign * strength * picture.height / 7)(picture),
    lambda picture, strength, sign: picture.rotate(sign * 135 * strength, Image.Resampling.NEAREST, fillcolor=_GREY),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Sharpness),
    lambda picture, strength, sign: ImageOps.posterize(picture, 8 - round(6 * strength)),
    lambda picture, strength, sign: ImageOps.solarize(picture, round(256 * (1 - strength))),
    lambda picture, strength, sign: ImageOps.autocontrast(picture),
    lambda picture, strength, sign: ImageOps.equalize(picture),
)
