"""Any classifier, not only ours: adopt, calibrate, quantise in both forms, build a real plan, verify."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from foreign_models import ACCEPTED, SIZE, save
from PIL import Image

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli import main
from alexnet_deploy.errors import FallbackWarning
from alexnet_deploy.onnx_graph import adopt, load_graph
from alexnet_deploy.parity import verify
from alexnet_deploy.parity_report import Gates
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import calibrate
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt.build import build
from alexnet_deploy.types import Flavour, GraphForm, Precision

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    """96 smooth coloured pictures: noise alone would average to the same answer for all."""
    random = np.random.default_rng(11)
    coarse = random.integers(0, 256, (96, 4, 4, 3)).astype(np.float32)
    fine = np.kron(coarse, np.ones((1, SIZE // 4, SIZE // 4, 1), np.float32)) + random.normal(0, 12, (96, SIZE, SIZE, 3))
    pixels = fine.clip(0, 255).astype(np.uint8)
    return PictureSet("made up", (), np.full(96, -1), tuple(pixels), [str(i) for i in range(96)])


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_foreign_model_goes_all_the_way(name: str, pictures: PictureSet, tmp_path: Path) -> None:
    foreign = ACCEPTED[name]()
    model = adopt(save(foreign.model, tmp_path / "model.onnx"), foreign.recipe, output=tmp_path / "adopted.onnx")
    learnt, others = pictures.subset(range(64)), pictures.subset(range(64, 96))
    calibration = calibrate(model, learnt, method="minmax")

    graphs: dict[str, Artifact] = {}
    for precision, form in (
        (Precision.FP16, GraphForm.TENSORRT),
        (Precision.INT8, GraphForm.TENSORRT),
        (Precision.INT8, GraphForm.CPU),
    ):
        path = tmp_path / f"{precision}.{form}.onnx"
        graphs[path.name] = quantize(model, path, precision, form=form, calibration=calibration)
    for name_of_graph in ("fp16.tensorrt.onnx", "int8.tensorrt.onnx"):
        plan = build(graphs[name_of_graph], tmp_path / f"{name_of_graph}.plan", flavour=Flavour.TENSORRT_RTX).artifact
        assert plan.path.read_bytes()[:4] == b"vtrt"

    quantised = [layer for layer in graphs["int8.tensorrt.onnx"].manifest.layers if layer.precision is Precision.INT8]
    assert len(quantised) == len(find_layers(load_graph(model.path)))
    with Runtime(model.path) as reference:
        for artifact in graphs.values():
            with Runtime(artifact.path) as candidate:
                report = verify(reference, candidate, others, Gates())
                most = 0.02 if artifact.manifest.precision is Precision.FP16 else 0.25
                assert report.error.relative <= most, artifact.path.name


def test_build_engine_and_verify_take_a_foreign_file_as_it_is(
    pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two commands that a person with an ONNX file and a folder of pictures types."""
    monkeypatch.setenv("ALEXNET_DEPLOY_MODELS", str(tmp_path / "models"))
    for index in range(len(pictures)):
        split = "calibration" if index < 64 else "validation"
        (tmp_path / split).mkdir(exist_ok=True)
        Image.fromarray(pictures.picture(index)).save(tmp_path / split / f"{index:03}.png")
    foreign = save(ACCEPTED["depthwise_convolutions"]().model, tmp_path / "foreign.onnx")
    recipe = ["--preset", "torchvision", "--resize", "36"]

    plan = tmp_path / "engine.plan"
    build = [
        "build-engine",
        foreign,
        "--int8",
        *recipe,
        "--calib",
        tmp_path / "calibration",
        "-o",
        plan,
        "--target",
        "tensorrt-rtx",
    ]
    result = CliRunner().invoke(main, [str(word) for word in build])
    assert result.exit_code == 0, result.output
    manifest = Artifact.open(plan).manifest
    assert manifest.preprocess.resize == 36
    assert {layer.precision for layer in manifest.layers} == {Precision.INT8}

    compare = ["verify", foreign, plan, *recipe, "--data", tmp_path / "validation", "--min-agreement", "50"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # no GPU here: the plan's twin runs
        result = CliRunner().invoke(main, [str(word) for word in compare])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["residual", "local_response_normalisation", "greyscale", "channels_last"])
def test_pixels_in_survive_every_precision(name: str, pictures: PictureSet, tmp_path: Path) -> None:
    """`--input uint8`: the same answers as the float path, through FP16 and INT8 in both forms and a real plan."""
    foreign = ACCEPTED[name]()
    path = save(foreign.model, tmp_path / "model.onnx")
    floats = adopt(path, foreign.recipe, output=tmp_path / "floats.onnx")
    pixels = adopt(path, foreign.recipe, output=tmp_path / "pixels.onnx", pixels_in=True)
    shown = np.stack([pictures.picture(i) for i in range(64, 96)])

    def logits(artifact: Artifact) -> np.ndarray:
        with Runtime(artifact.path) as runtime:
            return runtime.logits(shown)

    expected = logits(floats)
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(logits(pixels), expected, atol=1e-5 * largest)

    forms = [(Precision.FP16, GraphForm.TENSORRT), (Precision.INT8, GraphForm.TENSORRT), (Precision.INT8, GraphForm.CPU)]
    learnt = pictures.subset(range(64))
    for precision, form in forms:
        both = []
        for artifact in (floats, pixels):
            calibration = calibrate(artifact, learnt, method="minmax") if precision is Precision.INT8 else None
            output = tmp_path / f"{artifact.path.stem}.{precision}.{form}.onnx"
            both.append(quantize(artifact, output, precision, form=form, calibration=calibration))
        # Where a value falls on the edge between two steps, the last bit of its input decides: a step or so of difference.
        tolerance = 3e-3 if precision is Precision.FP16 else 3e-2
        np.testing.assert_allclose(logits(both[1]), logits(both[0]), atol=tolerance * largest)
        if form is GraphForm.TENSORRT:
            build(both[1], tmp_path / f"{precision}.plan", flavour=Flavour.TENSORRT_RTX)
