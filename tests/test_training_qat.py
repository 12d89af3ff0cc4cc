"""Training with rounding: what it computes is what the quantised graph computes, and the engine takes its ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from colour_photos import write_photos

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli.qat import ranges_of
from alexnet_deploy.cli.train import command
from alexnet_deploy.errors import InputError
from alexnet_deploy.export import export
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.cache import calibrate_once
from alexnet_deploy.quantization.comparison import logits
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.qdq import tensorrt_form
from alexnet_deploy.quantization.scales import int8_steps
from alexnet_deploy.quantization.weights import quantise_weight
from alexnet_deploy.types import Precision, silent
from training import checkpoint
from training.model import ModelConfig, build_model
from training.qat import Ranges, Rounded, round_weight
from training.settings import TrainSettings
from training.train import train


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), train=16, val=4)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with BatchNorm, whose folding must not change what rounding does."""
    settings = TrainSettings(data=str(photos), arch="alexnet-bn", width=0.05, input_size=63, epochs=2, batch_size=8, lr=0.003)
    return train(settings, tmp_path_factory.mktemp("trained") / "m.safetensors").checkpoint


@pytest.fixture(scope="module")
def rounded(trained: Path, photos: Path) -> Path:
    """The same, trained on by the command; a width in the settings is for new networks."""
    output = trained.with_name("qat.safetensors")
    options = ["--qat", "--weights", str(trained), "--data", str(photos), "--epochs", "2", "--batch-size", "8"]
    settings = {"ALEXNET_DEPLOY_TRAIN_WIDTH": "0.2"}
    ran = CliRunner().invoke(command, [*options, "-o", str(output)], prog_name="train", env=settings)
    assert ran.exit_code == 0, ran.output
    return output


def test_weights_are_rounded_as_the_engine_rounds_them() -> None:
    weight = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 8)[:, None, None, None]
    expected = quantise_weight(weight.numpy(), 0, Precision.INT8).dequantised()
    np.testing.assert_allclose(round_weight(weight).numpy(), expected, rtol=1e-6, atol=0)


def test_gradients_pass_through_rounding_but_not_where_values_are_clipped() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    network = Rounded(model, {"0": (1 / 127, 0)})
    given = torch.tensor([[0.503, 2.0]], requires_grad=True)
    network(given).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad[0, 0], round_weight(model[0].weight)[0, 0])
    assert given.grad[0, 1] == 0
    assert model[0].weight.grad is not None
    assert (model[0].weight.grad != 0).all()


def test_ranges_of_another_network_are_refused() -> None:
    with pytest.raises(InputError, match=r"features\.0"):
        Rounded(build_model(ModelConfig(width=0.05, input_size=63)), {"features.0": (1 / 127, 0)})


def test_the_command_goes_on_from_the_checkpoint_and_says_so(trained: Path, rounded: Path) -> None:
    before, after = Artifact.open(trained), Artifact.open(rounded)
    assert after.manifest.calibration is not None
    assert after.manifest.calibration.method.endswith("trained with")
    assert after.manifest.model == before.manifest.model
    assert [parent.sha256 for parent in after.manifest.parents] == [before.manifest.sha256]
    weights = [checkpoint.load(path)[0].state_dict() for path in (trained, rounded)]
    assert not torch.equal(weights[0]["classifier.6.weight"], weights[1]["classifier.6.weight"])
    assert torch.equal(weights[0]["features.1.running_mean"], weights[1]["features.1.running_mean"])


def test_the_quantised_graph_computes_what_training_computed(rounded: Path, photos: Path, tmp_path: Path) -> None:
    model, source = checkpoint.load(rounded)
    pictures = PictureSet.open(photos / "val")
    graph = export(model, source, tmp_path / "m.onnx").artifact
    calibration = calibrate_once(graph, PictureSet.open(photos / "train"))
    assert source.manifest.calibration is not None
    assert calibration.ranges == source.manifest.calibration.ranges
    onnx = load_graph(graph.path)
    layers = find_layers(onnx)
    weights = calibration.weights.quantised(onnx, layers, Precision.INT8)
    shifted = calibration.record.shifted
    assert shifted  # what is hardly ever negative uses all of int8
    answered = logits(tensorrt_form(onnx, layers, calibration.ranges, weights, shifted=shifted), graph.manifest, pictures)
    steps = {layer.name: int8_steps(calibration.ranges[layer.data], layer.data in shifted) for layer in layers}
    network = Rounded(model, steps).eval()
    ((batch, _),) = pictures.batches(source.manifest.preprocess, len(pictures))
    with torch.inference_mode():
        found = network(torch.from_numpy(batch)).numpy()
        unrounded = checkpoint.load(rounded)[0](torch.from_numpy(batch)).numpy()
    assert np.abs(unrounded - answered).max() > 0.01
    assert np.abs(found - answered).max() < 0.1 * np.abs(unrounded - answered).max()  # 1e-6, unless a value lies between steps


def test_an_interrupted_training_keeps_its_ranges(trained: Path, photos: Path, tmp_path: Path) -> None:
    settings = TrainSettings(
        data=str(photos), arch="alexnet-bn", width=0.05, input_size=63, epochs=2, batch_size=8, lr=1e-4, weights=str(trained)
    )
    ranges = ranges_of(str(trained), str(photos), silent)
    whole = train(settings, tmp_path / "whole.safetensors", ranges=ranges)

    def stop(task: str, done: int, total: int, note: str = "") -> None:
        if task == "train" and done:
            raise Killed

    with pytest.raises(Killed):
        train(settings, tmp_path / "m.safetensors", ranges=ranges, save_seconds=0, progress=stop)
    resumed = train(settings, tmp_path / "m.safetensors", resume=True)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert Artifact.open(resumed.checkpoint).manifest.calibration == ranges.record


class Killed(BaseException):
    pass


@pytest.mark.parametrize("weights", [[], ["--weights", "imagenet"]])
def test_there_must_be_a_checkpoint_to_go_on_from(weights: list[str]) -> None:
    ran = CliRunner().invoke(command, ["--qat", *weights])
    assert ran.exit_code == 2
    assert "--weights models/alexnet.safetensors" in ran.output


def test_ranges_name_every_layer_once(trained: Path, photos: Path) -> None:
    found = ranges_of(str(trained), str(photos), silent)
    assert isinstance(found, Ranges)
    model = checkpoint.load(trained)[0]
    assert set(found.layers) == {n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    assert all(scale > 0 and -128 <= zero <= 0 for scale, zero in found.layers.values())
    assert found.layers["features.0"][1] == 0  # pixels are of both signs
    assert found.record.data.count == 48
