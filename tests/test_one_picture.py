"""One picture, every way in: a network trained, calibrated, measured and served sees the same pixels, whoever decodes them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_artifact, tiny_graph

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.datasets.tars import members
from alexnet_deploy.decoding import InMemory, fitted_one
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import adopt
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.predictions import collect, predict_pictures
from alexnet_deploy.preprocess import decode_fitted, normalise, prepare
from alexnet_deploy.runtime import Runtime
from training.batches import Pictures

RECIPE = Preprocess(height=16, width=16, resize=20)


def saved(folder: Path, kind: str) -> Path:
    """A photograph of 203x151 as cameras, scanners and websites write one."""
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (20, 27, 3), np.uint8)).resize((203, 151), Image.Resampling.BICUBIC)
    path, exif = folder / f"photo.{kind.partition('.')[0]}", Image.Exif()
    exif[0x0112] = 6
    match kind:
        case "jpg.turned":
            photo.save(path, exif=exif)
        case "jpg.cmyk":
            photo.convert("CMYK").save(path)
        case "jpg.progressive":
            photo.convert("L").save(path, progressive=True)
        case "png.palette":
            photo.quantize(16).save(path, transparency=3)
        case "png.16":
            Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(path)
        case "webp.alpha":
            photo.putalpha(photo.convert("L"))
            photo.save(path, lossless=True)
        case "gif.animated":
            photo.save(path, save_all=True, append_images=[photo.rotate(180)])
        case "tif.turned":
            photo.save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """The same classifier of float32 input, and of pictures."""
    folder = tmp_path_factory.mktemp("artifacts")
    plain = tiny_artifact(folder / "plain.onnx", graph=tiny_graph())
    return adopt(plain.path, RECIPE, output=folder / "a.onnx"), adopt(
        plain.path, RECIPE, output=folder / "b.onnx", pixels_in=True
    )


@pytest.mark.parametrize(
    "kind",
    ["jpg.turned", "jpg.cmyk", "jpg.progressive", "png.palette", "png.16", "webp.alpha", "gif.animated", "tif.turned"],
)
def test_the_same_picture_is_the_same_whichever_way_it_comes_in(
    kind: str, artifacts: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    path = saved(tmp_path, kind)
    content = path.read_bytes()
    pictures = PictureSet.from_files([path])
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(path, path.name)
    (packed,) = members(tmp_path / "photos.tar")
    expected = decode_fitted(path, RECIPE)  # what `training`, `calibration` and `verify` take as well
    ways = {
        "a server's request": decode_fitted(content, RECIPE),
        "a file over the network": fitted_one(InMemory(path.name, content), RECIPE),
        "a set": next(pictures.pixels(RECIPE, 8))[0][0],
        "training": Pictures(pictures, RECIPE).read(0),
        "a shard": fitted_one(packed, RECIPE),
    }
    for way, pixels in ways.items():
        np.testing.assert_array_equal(pixels, expected, err_msg=way)
    with Runtime(artifacts[0].path) as floats, Runtime(artifacts[1].path) as bytes_in:
        wanted = floats.predict(normalise(expected[None], RECIPE))
        assert np.ptp(wanted) > 0.01
        (row,) = floats.classify([path], top=7)
        assert {answer.label: answer.probability for answer in row} == {f"class {i}": p for i, p in enumerate(wanted[0].tolist())}
        assert predict_pictures(floats, list(collect([str(path)])), top=7).pictures[0].predictions == tuple(row)
        np.testing.assert_array_equal(floats.predict(expected[None]), wanted)
        np.testing.assert_allclose(bytes_in.predict(expected[None]), wanted, rtol=1e-5)
        assert [answer.label for answer in bytes_in.classify([path], 7)[0]] == [answer.label for answer in row]


def test_a_picture_of_the_networks_size_is_left_as_it_is_file_or_not(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "fitted.png")
    np.testing.assert_array_equal(decode_fitted(tmp_path / "fitted.png", RECIPE), pixels)
    np.testing.assert_array_equal(prepare(pixels[None], RECIPE)[0], pixels)
