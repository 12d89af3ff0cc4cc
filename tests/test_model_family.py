"""Every member of the family on its way: exported with its own preprocessing, rounded, and equal to PyTorch on real pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli import main
from alexnet_deploy.cli.family import ARCHITECTURES
from alexnet_deploy.export import export
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange, GraphForm, OutputKind, Precision
from training import checkpoint
from training.family import FAMILY
from training.model import AlexNet, ModelConfig, build_model, preprocessing

OPERATORS = {"Conv", "Relu", "MaxPool", "Gemm", "Reshape", "Resize"}
WITH_NORM = ("alexnet-2012", "alexnet-caffe", "alexnet-bvlc")
CLASSES = 10
# Root mean square error of the logits, relative to their own: what rounding costs a network of random weights, at most.
TOLERANCE = {Precision.FP16: 0.01, Precision.INT8: 0.2}


@dataclass(frozen=True)
class Made:
    checkpoint: Artifact
    graph: Artifact
    calibration: Calibration
    pictures: PictureSet


@pytest.fixture(scope="module", params=FAMILY)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A narrow network with other than the published classes and dropout, its graph, and ranges of its activations."""
    arch = request.param
    config = ModelConfig(arch=arch, classes=CLASSES, width=0.05, dropout=0.3, input_size=FAMILY[arch].smallest_input)
    torch.manual_seed(0)
    model = build_model(config)
    model.train()(torch.randn(8, 3, config.input_size, config.input_size))  # BatchNorm has statistics of its own then
    pictures = PictureSet.open("demo:test").sample(8)
    folder = tmp_path_factory.mktemp(arch)
    saved = checkpoint.save(model.eval(), folder / "m.safetensors", preprocess=preprocessing(config), labels=pictures.classes)
    exported = export(
        checkpoint.load_model(saved), saved, folder / "m.onnx", batch=BatchRange(1, 4, 8), pictures=pictures
    ).artifact
    calibration = calibrate(exported, PictureSet.open("demo:train").sample(32), method="minmax")
    return Made(saved, exported, calibration, pictures)


def logits(path: Path, pictures: PictureSet) -> np.ndarray:
    photos = np.stack([pictures.picture(i) for i in range(len(pictures))])
    with Runtime(path) as runtime:
        found = runtime.logits(photos)
        np.testing.assert_allclose(runtime.predict(photos).sum(axis=1), 1, rtol=1e-5)
    return found - found.mean(axis=1, keepdims=True)  # log-probabilities are logits up to a number a picture


def test_a_member_runs_in_onnxruntime_as_in_pytorch(made: Made) -> None:
    arch = made.checkpoint.manifest.model["arch"]  # type: ignore[index]
    operators = {node.op_type for node in onnx.load(made.graph.path).graph.node}
    assert operators <= OPERATORS | {"LRN", "Softmax"}
    assert ("LRN" in operators) == (arch in WITH_NORM)
    assert ("Softmax" in operators) == (arch == "alexnet-tutorial")
    expected = logits(made.checkpoint.path, made.pictures)
    assert np.abs(logits(made.graph.path, made.pictures) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0


@pytest.mark.parametrize(
    ("precision", "form"),
    [(Precision.FP16, GraphForm.TENSORRT), (Precision.INT8, GraphForm.TENSORRT), (Precision.INT8, GraphForm.CPU)],
)
def test_a_member_keeps_its_answers_in_fewer_bits(made: Made, tmp_path: Path, precision: Precision, form: GraphForm) -> None:
    calibration = made.calibration if precision is Precision.INT8 else None
    rounded = quantize(made.graph, tmp_path / "r.onnx", precision, form=form, calibration=calibration)
    weighted = sum(node.op_type in ("Conv", "Gemm") for node in onnx.load(made.graph.path).graph.node)
    assert [layer.precision for layer in rounded.manifest.layers] == [precision] * weighted
    assert weighted == 8
    expected, found = logits(made.graph.path, made.pictures), logits(rounded.path, made.pictures)
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert error <= TOLERANCE[precision]
    assert rounded.manifest.output_kind is made.graph.manifest.output_kind


def test_only_the_tutorials_network_ends_in_probabilities(made: Made) -> None:
    arch = made.checkpoint.manifest.model["arch"]  # type: ignore[index]
    kind = OutputKind.PROBABILITIES if arch == "alexnet-tutorial" else OutputKind.LOGITS
    assert made.checkpoint.manifest.output_kind is made.graph.manifest.output_kind is kind
    model = checkpoint.load_model(made.checkpoint)
    answer = model(torch.randn(2, *made.checkpoint.manifest.preprocess.input_shape)).detach().sum(dim=1).numpy()
    assert np.allclose(answer, 1) == (kind is OutputKind.PROBABILITIES)


def test_the_command_line_knows_the_family() -> None:
    assert tuple(FAMILY) == ARCHITECTURES


def test_a_member_is_inspected_before_it_is_trained(tmp_path: Path) -> None:
    drawing = tmp_path / "narrow.svg"
    options = ["--width", "0.05", "--classes", "7", "--input-size", "67", "--svg", str(drawing)]
    found = CliRunner().invoke(main, ["inspect", "alexnet-2012", *options, "--json"], catch_exceptions=False)
    with torch.device("meta"):
        model = AlexNet(ModelConfig("alexnet-2012", classes=7, width=0.05, input_size=67))
    answer = json.loads(found.stdout)
    assert answer["model"]["classes"] == 7
    counted = sum(layer["parameters"] for layer in answer["graph"]["layers"])
    assert counted == sum(weight.numel() for weight in model.parameters())
    assert "<svg" in drawing.read_text()
    refused = CliRunner().invoke(main, ["inspect", str(drawing), "--classes", "7"])
    assert refused.exit_code == 2
    assert "--classes with a file" in refused.output
