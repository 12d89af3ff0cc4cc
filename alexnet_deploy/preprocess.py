"""Pictures to tensors: the only implementation, used by training, calibration, predict and serving.

decode(path)                -> (H, W, 3) uint8 RGB, whatever the file held
fit(pixels, recipe)         -> (height, width, 3) uint8 RGB: resized and cropped
decode_fitted(path, recipe) -> both; large JPEGs are decoded smaller at once
normalise(pixels, recipe)   -> float32 in the network's layout
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from msgspec import structs

from alexnet_deploy.errors import InputError, PictureError
from alexnet_deploy.manifest import Preprocess

# Pillow is imported by the functions that need it: an application that sends float batches starts without it.
if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Batch = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, right, bottom

MAX_PICTURE_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # EXIF's number for how a camera was held
# Pillow knows forty more, and runs Ghostscript for one of them: no program is started for what somebody has uploaded.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"})


def decode(source: str | Path | bytes, *, name: str = "") -> Pixels:
    """Reads a picture file (or its bytes) as 8-bit RGB, as a person sees it.

    EXIF rotation is applied, greyscale and CMYK become RGB, 16 bits become 8, transparency is laid on white.

    Args:
        source: the file.
        name: what errors call bytes.

    Returns:
        uint8 (H, W, 3).

    Raises:
        PictureError: missing, truncated, no picture, or over 100 million pixels (a decompression bomb).
    """
    return np.asarray(_read(source, None, name)[0])


def decode_fitted(source: str | Path | bytes, recipe: Preprocess, *, name: str = "") -> Pixels:
    """`decode`, then `fit`.

    A JPEG of more than four times the size that is wanted is decoded at a half, a quarter or an eighth, to twice that size
    or more: the filter that follows has the rest to average, so that values differ by less than 1 of 255 on average.

    Returns:
        uint8 (recipe.height, recipe.width, 3).

    Raises:
        PictureError: as `decode`.
    """
    wanted = max(recipe.height, recipe.width, recipe.resize or 0)
    exact = recipe.interpolation == "nearest"  # takes single pixels, which no smaller picture has
    # Pillow's own picture all the way: an array between would cost two copies, by a thread that lets no other run.
    picture, box = _read(source, None if exact else 2 * wanted, name)
    return np.asarray(_resized(picture, box, recipe))


def fit(pixels: Pixels, recipe: Preprocess) -> Pixels:
    """Resizes and crops one picture to what the network takes.

    Args:
        pixels: uint8 (H, W, 3) RGB, any size.
        recipe: the target size, and how to get there.

    Returns:
        uint8 (recipe.height, recipe.width, 3); the argument itself when it has that size already.

    Raises:
        InputError: over 100 million pixels.
    """
    if pixels.shape[:2] == (recipe.height, recipe.width):
        return pixels
    if pixels.shape[0] * pixels.shape[1] > MAX_PICTURE_PIXELS:
        raise InputError(f"a picture is {pixels.shape[1]}x{pixels.shape[0]} pixels", expected=f"at most {MAX_PICTURE_PIXELS:,}")
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(_resized(picture, (0, 0, *picture.size), recipe))


def normalise(pixels: Pixels, recipe: Preprocess) -> Batch:
    """Fitted pictures to the network's float input: value = (pixel * scale - mean) / std.

    Args:
        pixels: uint8 (N, recipe.height, recipe.width, 3) RGB.

    Returns:
        float32 (N, C, H, W), or (N, H, W, C) where the recipe's layout is nhwc; contiguous, owned by the caller.
    """
    if recipe.channel_order == "grey":
        # ITU-R 601 luma, as Pillow's convert("L") computes it: exact for pictures that were grey before.
        weights = np.array([19595, 38470, 7471], np.uint32)
        pixels = ((pixels @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]
    elif recipe.channel_order == "bgr":
        pixels = pixels[..., ::-1]
    gain = np.float32(recipe.scale) / np.asarray(recipe.std, np.float32)
    offset = -np.asarray(recipe.mean, np.float32) / np.asarray(recipe.std, np.float32)
    if recipe.layout == "nhwc":
        # A row of pixels at a time: numpy's inner loop over the three channels alone is eight times slower.
        rows = np.ascontiguousarray(pixels).reshape(len(pixels), recipe.height, recipe.width * recipe.channels)
        flat = np.multiply(rows, np.tile(gain, recipe.width))
        flat += np.tile(offset, recipe.width)
        return cast(Batch, flat.reshape(len(pixels), recipe.height, recipe.width, recipe.channels))
    out = np.empty((len(pixels), recipe.channels, recipe.height, recipe.width), np.float32)
    for channel in range(recipe.channels):
        plane = out[:, channel]
        np.multiply(pixels[..., channel], gain[channel], out=plane)
        plane += offset[channel]
    return out


def framing(recipe: Preprocess) -> Preprocess:
    """What is left of a recipe where the graph itself takes uint8 (N, H, W, 3) RGB: resize and crop."""
    pixels = {"scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "channel_order": "rgb", "layout": "nhwc"}
    return structs.replace(recipe, **pixels)


def prepare(pixels: Pixels, recipe: Preprocess) -> Pixels:
    """Checks uint8 pictures of any size and fits each of them.

    Args:
        pixels: uint8 (N, H, W, 3) RGB.

    Returns:
        uint8 (N, recipe.height, recipe.width, 3).

    Raises:
        InputError: wrong dtype or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape[1:3]:
        raise InputError(f"pictures are {pixels.dtype} {pixels.shape}", expected="uint8 (N, H, W, 3), RGB")
    if pixels.shape[1:3] == (recipe.height, recipe.width):
        return pixels
    out = np.empty((len(pixels), recipe.height, recipe.width, 3), np.uint8)
    for index, picture in enumerate(pixels):
        out[index] = fit(picture, recipe)
    return out


def _read(source: str | Path | bytes, at_least: int | None, name: str) -> tuple[Image.Image, Box]:
    """The picture in mode RGB, as `decode` describes it, and where in that it lies.

    Args:
        source, name: as `decode` takes them.
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as no side gets shorter than this.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = name or (str(source) if isinstance(source, (str, Path)) else f"<{len(source)} bytes>")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with _silent_pillow, Image.open(file, formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PICTURE_PIXELS:
                raise PictureError(
                    f"{name} has {picture.width}x{picture.height} pixels", expected=f"at most {MAX_PICTURE_PIXELS:,}"
                )
            box: Box | None = None
            if at_least is not None and (drafted := picture.draft(None, (at_least, at_least))):  # None for all but JPEGs
                box = _box(picture.size, drafted[1][2:], picture.getexif().get(_ORIENTATION))
            ImageOps.exif_transpose(picture, in_place=True)
            if picture.mode == "F":
                raise PictureError(f"{name} has floating-point pixels", expected="8 or 16 bits a channel")
            return _as_rgb(picture), box or (0, 0, *picture.size)
    except FileNotFoundError as error:
        raise PictureError(f"{name} does not exist", expected="a picture file") from error
    except IsADirectoryError as error:
        raise PictureError(f"{name} is a folder", expected="a picture file", fix=f"PictureSet.open({name!r}).sources") from error
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error and more for broken files
        # Pillow names an address in memory when it does not know the format of bytes.
        why = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise PictureError(
            f"{name} cannot be read as a picture ({why})", expected="a whole JPEG, PNG, WebP, BMP or TIFF"
        ) from error


def _box(size: tuple[int, int], length: tuple[float, float], orientation: object) -> Box:
    """Where the picture lies in what was decoded, once that is turned as EXIF says.

    A JPEG of 1001 pixels that is decoded at a half has 501, and its last one is half empty. Were it taken for a whole one, all
    others would lie up to a pixel of the file away from where they are.

    Args:
        size: decoded, (width, height), not turned yet.
        length: that of the picture itself, from the left and from the top.
        orientation: 1 to 8, or nonsense, which turns nothing.
    """
    spare = [whole - part for whole, part in zip(size, length, strict=True)]
    (width, height), (right, below) = (size[::-1], spare[::-1]) if orientation in (5, 6, 7, 8) else (size, spare)
    left = right if orientation in (2, 3, 6, 7) else 0
    top = below if orientation in (3, 4, 7, 8) else 0
    return left, top, left + width - right, top + height - below


def _resized(picture: Image.Image, box: Box, recipe: Preprocess) -> Image.Image:
    """What lies in `box`, resized and cropped to (recipe.width, recipe.height); the picture itself where that is all of it."""
    from PIL import Image

    wanted = recipe.width, recipe.height
    if picture.size == wanted:
        return picture
    if recipe.resize is not None:
        # The crop is taken through `box` too, so that only the pixels that stay are resampled.
        left, top, right, bottom = box
        scale = recipe.resize / min(bottom - top, right - left)
        beside, above = (right - left - recipe.width / scale) / 2, (bottom - top - recipe.height / scale) / 2
        beside, above = max(beside, 0.0), max(above, 0.0)  # which rounding may leave just below 0
        box = left + beside, top + above, right - beside, bottom - above
    return picture.resize(wanted, Image.Resampling[recipe.interpolation.upper()], box=box)


class _SilentPillow:
    """Pillow's warnings, of large pictures (whose size is checked here) and odd EXIF, are not shown while anyone decodes.

    Filters of warnings belong to the whole process. Were each thread to set them and put them back, the one that ends last
    would put back the silence it found, and the application would never be warned of anything again.
    """

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """In the child of a fork: threads that were decoding are in the parent only."""
        self._lock = threading.Lock()
        self._decoding = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._decoding += 1
            if self._decoding == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._decoding -= 1
            if not self._decoding:
                self._filters.__exit__(kind, error, trace)


_silent_pillow = _SilentPillow()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_silent_pillow.begin_anew)


def _as_rgb(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):  # 16-bit greyscale; "I" is how Pillow opens some of them
        wide = np.asarray(picture).astype(np.int64)
        wide[wide == picture.info.get("transparency")] = 0xFFFF  # a PNG may name one level that lets the white through
        return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # which would copy it
