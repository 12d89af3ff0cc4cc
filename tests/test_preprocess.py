from __future__ import annotations

import io
import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageOps

from alexnet_deploy.errors import InputError, PictureError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.preprocess import _silent_pillow, decode, fit, normalise, prepare

RECIPE = Preprocess(height=8, width=8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    rows = np.linspace(0, 255, 12 * 10 * 3).reshape(12, 10, 3).astype(np.uint8)
    return Image.fromarray(rows).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode: str) -> None:
    picture = Image.fromarray(np.full((12, 10), 32768, np.uint16)) if mode == "I;16" else gradient(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    pixels = decode(encoded(picture, kind))
    assert (pixels.shape, pixels.dtype) == ((12, 10, 3), np.uint8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0x8000, 0xFFFF]], np.uint16), [0, 0x80, 0xFF]),
        (np.array([[-1, 0x8000, 2**31 - 1]], np.int32), [0, 0x80, 0xFF]),
    ],
)
def test_16_bits_keep_their_brightness_and_more_are_cut_off(values: np.ndarray, expected: list[int]) -> None:
    assert decode(encoded(Image.fromarray(values), "TIFF"))[0].tolist() == [[value] * 3 for value in expected]


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    red = decode(encoded(Image.new("RGB", (16, 16), "red").convert("CMYK"), "JPEG"))
    assert red[..., 0].min() > 200
    assert red[..., 1:].max() < 60


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.all(decode(encoded(clear, "PNG")) == 255)


@pytest.mark.parametrize(
    ("mode", "kind", "clear"), [("P", "GIF", 7), ("P", "PNG", 7), ("L", "PNG", 7), ("RGB", "PNG", (7, 7, 7))]
)
def test_a_colour_that_stands_for_transparency_is_white(mode: str, kind: str, clear: object) -> None:
    picture = Image.fromarray(np.array([[7, 9]], np.uint8)).convert(mode)
    assert decode(encoded(picture, kind, transparency=clear))[0].tolist() == [[255] * 3, [9] * 3]


def test_one_level_of_16_bits_may_stand_for_transparency_too() -> None:
    picture = Image.fromarray(np.array([[30000, 30001]], np.uint16))
    assert decode(encoded(picture, "PNG", transparency=30000))[0].tolist() == [[255] * 3, [30001 >> 8] * 3]


def test_exif_rotation_is_applied() -> None:
    picture = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert decode(encoded(picture, "PNG", exif=exif)).shape == (10, 12, 3)


@pytest.mark.parametrize("broken", [b"", b"not a picture", encoded(gradient(), "PNG")[:100], encoded(gradient(), "JPEG")[:200]])
def test_a_broken_picture_is_a_clear_error(broken: bytes) -> None:
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        decode(broken)


def test_a_broken_picture_is_called_what_the_caller_calls_it() -> None:
    with pytest.raises(PictureError, match=r"^<13 bytes> cannot be read as a picture \(of no known format\)"):
        decode(b"not a picture")
    with pytest.raises(PictureError, match=r"^upload\.png cannot be read as a picture \(.*truncated"):
        decode(encoded(gradient().resize((90, 90)), "PNG")[:1000], name="upload.png")


def test_no_program_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For PostScript, Pillow runs Ghostscript where it is installed."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it is looked for anew
    with pytest.raises(PictureError, match="of no known format"):
        decode(encoded(gradient(), "EPS"))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF", "TIFF", "MPO"])
def test_every_format_that_is_named_is_read(kind: str) -> None:
    assert decode(encoded(gradient(), kind)).shape == (12, 10, 3)


def odd_exif() -> bytes:
    """A sound JPEG whose EXIF block announces more than it holds."""
    return encoded(gradient(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x01")


def test_what_pillow_warns_of_is_not_shown() -> None:
    with pytest.warns(UserWarning, match="EXIF"), Image.open(io.BytesIO(odd_exif())) as picture:
        picture.getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(odd_exif()).shape == (12, 10, 3)


def test_threads_that_decode_leave_the_warnings_of_the_application_alone() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        for pixels in threads.map(decode, [odd_exif()] * 400):
            assert pixels.shape == (12, 10, 3)
    assert warnings.filters == before


def test_while_pictures_are_decoded_other_warnings_are_shown() -> None:
    with pytest.warns(UserWarning, match="of the application's own"), _silent_pillow, _silent_pillow:
        warnings.warn("of the application's own", UserWarning, stacklevel=1)


def test_pillow_is_silent_until_the_last_thread_has_decoded() -> None:
    with warnings.catch_warnings(), _silent_pillow:
        warnings.simplefilter("error")
        silent = list(warnings.filters)
        with _silent_pillow:
            pass
        assert warnings.filters == silent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_process_decodes_although_a_thread_of_its_parent_did_so_just_then() -> None:
    with _silent_pillow._lock:
        child = os.fork()
        if not child:
            signal.alarm(10)
            os._exit(decode(odd_exif()).shape != (12, 10, 3))
    assert os.waitpid(child, 0)[1] == 0


def test_a_picture_of_floating_point_numbers_is_refused_by_its_name(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(PictureError, match=r"depth\.tif has floating-point pixels"):
        decode(tmp_path / "depth.tif")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"gone\.jpg does not exist"):
        decode(tmp_path / "gone.jpg")


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(Image.new("1", (10_500, 10_500)), "PNG")
    with pytest.raises(PictureError, match="10500x10500"):
        decode(bomb)


def test_a_fitted_picture_is_left_alone() -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    assert fit(pixels[0], RECIPE).base is pixels
    assert prepare(pixels, RECIPE) is pixels


def test_an_array_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="10000x10001 pixels"):
        fit(np.broadcast_to(np.zeros(3, np.uint8), (10_001, 10_000, 3)), RECIPE)


@given(height=st.integers(1, 40), width=st.integers(1, 40), resize=st.none() | st.integers(8, 20))
def test_fitting_always_gives_the_size_asked_for(height: int, width: int, resize: int | None) -> None:
    recipe = Preprocess(height=8, width=8, resize=resize)
    assert fit(np.full((height, width, 3), 7, np.uint8), recipe).tolist() == [[[7, 7, 7]] * 8] * 8


def test_the_crop_is_the_centre() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    assert np.all(fit(pixels, Preprocess(height=8, width=8, resize=8)) == 255)


@given(st.integers(9, 40), st.integers(9, 40), st.sampled_from([(8, 8), (5, 8), (8, 5)]), st.none() | st.integers(8, 20))
def test_the_crop_is_as_far_from_one_side_as_from_the_other(
    height: int, width: int, size: tuple[int, int], resize: int | None
) -> None:
    """What is turned or mirrored before it is fitted is what is turned or mirrored afterwards."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    recipe = Preprocess(height=size[0], width=size[1], resize=resize)
    turned = Preprocess(height=size[1], width=size[0], resize=resize)
    fitted = fit(pixels, recipe).astype(int)
    for other, back in (
        (fit(pixels[::-1], recipe)[::-1], "upside down"),
        (fit(pixels[:, ::-1], recipe)[:, ::-1], "in a mirror"),
        (fit(pixels.transpose(1, 0, 2), turned).transpose(1, 0, 2), "turned"),
    ):
        assert np.abs(fitted - other).max() <= 1, back


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_what_is_cropped_is_the_scaled_picture(interpolation: str) -> None:
    """Where scaling leaves whole pixels, it is Pillow's own resizing and cropping, to the last bit but one."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    recipe = Preprocess(height=16, width=10, resize=20, interpolation=interpolation)  # type: ignore[arg-type]
    scaled = Image.fromarray(pixels).resize((30, 20), Image.Resampling[interpolation.upper()])
    expected = np.asarray(scaled.crop((10, 2, 20, 18))).astype(int)
    assert np.abs(fit(pixels, recipe) - expected).max() <= 1


@given(
    values=st.lists(st.integers(0, 255), min_size=3, max_size=3),
    scale=st.sampled_from([1.0, 1 / 255]),
    order=st.sampled_from(["rgb", "bgr"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
)
def test_normalising_follows_its_formula(values: list[int], scale: float, order: str, layout: str) -> None:
    recipe = Preprocess(
        height=2, width=2, scale=scale, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), channel_order=order, layout=layout
    )  # type: ignore[arg-type]
    pixels = np.broadcast_to(np.array(values, np.uint8), (1, 2, 2, 3))
    channels = values if order == "rgb" else values[::-1]
    expected = (np.array(channels) * scale - recipe.mean) / recipe.std
    got = normalise(pixels, recipe)
    assert got.dtype == np.float32
    assert got.shape[1:] == recipe.input_shape
    np.testing.assert_allclose(got[0, :, 0, 0] if layout == "nchw" else got[0, 0, 0], expected, rtol=1e-4, atol=1e-5)


@given(value=st.integers(0, 255))
def test_a_grey_picture_keeps_its_values_on_the_way_to_one_channel(value: int) -> None:
    recipe = Preprocess(height=2, width=2, scale=1.0, mean=(0.0,), std=(1.0,), channel_order="grey")
    assert np.all(normalise(np.full((1, 2, 2, 3), value, np.uint8), recipe) == value)


def test_colours_become_grey_as_pillow_makes_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), np.uint8)
    recipe = Preprocess(height=300, width=300, scale=1.0, mean=(0.0,), std=(1.0,), channel_order="grey")
    np.testing.assert_array_equal(normalise(pixels, recipe)[0, 0], np.asarray(ImageOps.grayscale(Image.fromarray(pixels[0]))))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 8, 8, 3)),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
    ],
)
def test_pictures_of_the_wrong_form_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8"):
        prepare(wrong, RECIPE)


def test_pictures_of_any_size_are_fitted() -> None:
    assert prepare(np.zeros((3, 20, 30, 3), np.uint8), RECIPE).shape == (3, 8, 8, 3)
