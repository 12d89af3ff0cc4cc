"""The checkpoint behind Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.base import Options
from alexnet_deploy.backends.pytorch import PyTorchBackend
from alexnet_deploy.errors import DeviceMissing
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange
from tests.conformance import Conformance
from training import checkpoint
from training.model import ModelConfig, build_model


def make_checkpoint(path: Path) -> Artifact:
    torch.manual_seed(0)
    model = build_model(ModelConfig(classes=7, width=0.05, input_size=63))
    return checkpoint.save(model, path, preprocess=Preprocess(height=63, width=63), batch=BatchRange(1, 4, 8))


class TestPyTorch(Conformance):
    backend = "pytorch"

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        return make_checkpoint(path_without_suffix.with_suffix(".safetensors"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_checkpoint(tmp_path_factory.mktemp("pytorch") / "m.safetensors")


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 63, 63), np.float32)


def test_it_answers_as_the_model_does(artifact: Artifact) -> None:
    model, _ = checkpoint.load(artifact.path)
    with torch.no_grad():
        expected = model(torch.from_numpy(rows(4))).numpy()
    with Runtime(artifact.path) as runtime:
        np.testing.assert_array_equal(runtime.logits(rows(4)), expected)


def test_the_number_of_threads_is_kept_to_and_given_back(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    asked = before + 1
    seen = []
    engine = PyTorchBackend.load(artifact, Options(threads=asked))
    engine._model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    engine.run(rows(1))
    assert seen == [asked]
    assert torch.get_num_threads() == before


def test_the_number_of_threads_is_given_back_after_a_failure(artifact: Artifact) -> None:
    from alexnet_deploy.errors import BackendError

    before = torch.get_num_threads()
    engine = PyTorchBackend.load(artifact, Options(threads=before + 1))
    with pytest.raises(BackendError):
        engine.run(np.zeros((1, 3, 3, 3), np.float32))  # too small to pool: Runtime never lets it through
    assert torch.get_num_threads() == before


def test_no_gradients_are_kept(artifact: Artifact) -> None:
    engine = PyTorchBackend.load(artifact, Options())
    engine.run(rows(1))
    assert all(p.grad is None for p in engine._model.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused(artifact: Artifact) -> None:
    with pytest.raises(DeviceMissing, match="sees no CUDA GPU"):
        PyTorchBackend.load(artifact, Options(device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_answers_as_the_cpu_does(artifact: Artifact) -> None:
    on_cpu = PyTorchBackend.load(artifact, Options()).run(rows(4))
    on_gpu = PyTorchBackend.load(artifact, Options(device="cuda")).run(rows(4))
    assert np.abs(on_gpu - on_cpu).max() <= 1e-4 * np.abs(on_cpu).max()
