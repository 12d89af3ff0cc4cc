"""A checkpoint to ONNX: the same answers, nothing of this machine inside, and nothing written when it fails."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import DataError, InputError, ModelError
from alexnet_deploy.export import ExportReport, export, to_onnx
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import edit, load_graph
from alexnet_deploy.onnx_graph.running import function
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import normalise
from alexnet_deploy.types import BatchRange, OutputKind
from training import checkpoint
from training.model import ModelConfig, build_model

SIDE = 112
RECIPE = Preprocess(height=SIDE, width=SIDE, resize=SIDE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=0.05, classes=10, input_size=SIDE))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return checkpoint.save(
        model, tmp_path_factory.mktemp("export") / "net.safetensors", preprocess=RECIPE, labels=tuple("abcdefghij")
    )


@pytest.fixture(scope="module")
def report(source: Artifact) -> ExportReport:
    return export(checkpoint.load_model(source), source, source.path.with_suffix(".onnx"), batch=BatchRange(1, 4, 16))


@pytest.fixture(scope="module")
def pixels_report(source: Artifact) -> ExportReport:
    path = source.path.with_name("net.uint8.onnx")
    return export(checkpoint.load_model(source), source, path, input_dtype="uint8")


def test_it_answers_as_pytorch_does_on_other_pictures(source: Artifact, report: ExportReport) -> None:
    pixels, _ = next(PictureSet.open("demo:test").sample(16, seed=9).pixels(RECIPE, 16))
    batch = normalise(pixels, RECIPE)
    with torch.inference_mode():
        expected = checkpoint.load_model(source)(torch.from_numpy(batch)).numpy()
    found = function(load_graph(report.artifact.path))(batch)
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(np.abs(expected).max()))
    assert report.max_abs_error <= 1e-4 * report.largest_logit
    assert (report.pictures, report.location, report.agreement) == (32, "demo:test", 1.0)


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_it_takes_any_batch(report: ExportReport, count: int) -> None:
    batch = np.random.default_rng(0).standard_normal((count, 3, SIDE, SIDE), np.float32)
    assert function(load_graph(report.artifact.path))(batch).shape == (count, 10)


def test_its_manifest_says_what_it_is(source: Artifact, report: ExportReport) -> None:
    manifest = Artifact.open(report.artifact.path).manifest
    assert manifest.output_kind is OutputKind.LOGITS
    assert manifest.input.shape == (None, 3, SIDE, SIDE)
    assert manifest.batch == BatchRange(1, 4, 16)
    assert manifest.labels == source.manifest.labels
    assert manifest.parents[0].sha256 == source.manifest.sha256
    assert manifest.preprocess == RECIPE


def test_layers_are_named_after_modules(report: ExportReport) -> None:
    names = [layer.layer for layer in report.artifact.manifest.layers]
    convolutions = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    assert names == [*convolutions, "classifier.1", "classifier.4", "classifier.6"]


def test_dropout_and_no_ops_are_gone(report: ExportReport) -> None:
    kinds = {node.op_type for node in load_graph(report.artifact.path).graph.node}
    assert kinds <= {"Conv", "Relu", "MaxPool", "Resize", "Reshape", "Flatten", "Gemm"}


def test_nothing_of_this_machine_is_inside(report: ExportReport) -> None:
    content = report.artifact.path.read_bytes()
    for word in (str(Path.cwd()), str(Path.home()), "site-packages", "training/model.py", "stack", ".py"):
        assert word.encode() not in content


def test_the_same_checkpoint_gives_the_same_file(source: Artifact, report: ExportReport, tmp_path: Path) -> None:
    again = export(checkpoint.load_model(source), source, tmp_path / "net.onnx")
    assert again.artifact.manifest.sha256 == report.artifact.manifest.sha256


def test_with_pixels_in_the_answers_are_the_same(report: ExportReport, pixels_report: ExportReport) -> None:
    manifest = pixels_report.artifact.manifest
    assert str(manifest.input) == f"pixels uint8 (N, {SIDE}, {SIDE}, 3)"
    assert manifest.preprocess.resize == RECIPE.resize
    pixels, _ = next(PictureSet.open("demo:test").sample(16, seed=4).pixels(RECIPE, 16))
    outside = function(load_graph(report.artifact.path))(normalise(pixels, RECIPE))
    inside = function(load_graph(pixels_report.artifact.path))(pixels)
    np.testing.assert_allclose(inside, outside, atol=1e-5 * float(np.abs(outside).max()))


class Wrong(nn.Module):
    """Answers otherwise when it is traced than when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(pictures.mean((2, 3)))
        return scores * 2 if torch.compiler.is_exporting() else scores


def test_a_graph_that_disagrees_with_pytorch_is_not_written(source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="away from PyTorch"):
        export(Wrong().eval(), source, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


class Untraceable(nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today")


def test_a_module_that_cannot_be_traced_is_one_clear_sentence(source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot export"):
        export(Untraceable().eval(), source, tmp_path / "never.onnx")
    assert not list(tmp_path.iterdir())


class WithNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Linear(8, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.features(pictures).mean((2, 3)))
        return scores


def test_batch_normalisation_is_folded_and_the_exporter_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = WithNorm()
    model(torch.randn(8, 3, SIDE, SIDE))  # moves the running statistics away from 0 and 1
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = to_onnx(model, (2, 3, SIDE, SIDE))
    assert capfd.readouterr() == ("", "")
    assert not list(edit.nodes_of(graph.graph, "BatchNormalization"))
    assert next(edit.nodes_of(graph.graph, "Conv")).name == "features.0"
    batch = torch.randn(3, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = model(batch).numpy()
    np.testing.assert_allclose(function(graph)(batch.numpy()), expected, atol=1e-4 * float(np.abs(expected).max()))


def test_an_opset_out_of_range_is_refused(source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 7"):
        export(checkpoint.load_model(source), source, tmp_path / "net.onnx", opset=7)


def test_an_empty_picture_set_is_refused(source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        export(checkpoint.load_model(source), source, tmp_path / "net.onnx", pictures=PictureSet.from_files([]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_one_clear_sentence(source: Artifact, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Exception, match="cannot write"):
        export(checkpoint.load_model(source), source, tmp_path / "net.onnx")
