"""Checkpoints: what was saved comes back, and what was damaged is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.errors import ArtifactCorrupt, ArtifactMissing, InputError, ManifestError
from alexnet_deploy.manifest import Preprocess
from training import checkpoint
from training.model import ModelConfig, build_model

RECIPE = Preprocess(height=64, width=64)
CONFIG = ModelConfig(classes=3, width=0.05, input_size=64)


def save(path: Path) -> Artifact:
    torch.manual_seed(1)
    return checkpoint.save(build_model(CONFIG), path, preprocess=RECIPE, labels=("ant", "bee", "cat"))


def test_a_model_comes_back_bit_for_bit_and_ready_to_use(tmp_path: Path) -> None:
    saved = save(tmp_path / "m.safetensors")
    model, artifact = checkpoint.load(tmp_path / "m.safetensors")
    torch.manual_seed(1)
    for name, tensor in build_model(CONFIG).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert not model.training
    assert artifact == saved
    assert model.config == CONFIG
    assert artifact.manifest.labels == ("ant", "bee", "cat")
    assert artifact.manifest.input.shape == (None, 3, 64, 64)


def test_the_same_weights_give_the_same_file(tmp_path: Path) -> None:
    assert save(tmp_path / "a.safetensors").manifest.sha256 == save(tmp_path / "b.safetensors").manifest.sha256


def test_whoever_may_read_other_files_may_read_a_checkpoint(tmp_path: Path) -> None:
    """A server runs as another user than a training."""
    artifact = save(tmp_path / "m.safetensors")
    (tmp_path / "other").touch()
    assert artifact.path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_missing_checkpoint_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        checkpoint.load(tmp_path / "none.safetensors")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safetensors"):
        save(tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())


def test_a_recipe_for_one_channel_is_refused(tmp_path: Path) -> None:
    grey = Preprocess(height=64, width=64, channel_order="grey", mean=(0.5,), std=(0.5,))
    with pytest.raises(InputError, match="channels"):
        checkpoint.save(build_model(CONFIG), tmp_path / "m.safetensors", preprocess=grey)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    artifact = save(tmp_path / "m.safetensors")
    wider = structs.replace(artifact.manifest, model=ModelConfig(classes=3, width=0.5, input_size=64).to_dict())
    write_artifact(artifact.path, wider, artifact.path.read_bytes())
    with pytest.raises(ArtifactCorrupt, match=r"width 0\.5"):
        checkpoint.load(artifact.path)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    artifact = save(tmp_path / "m.safetensors")
    weights = load_file(artifact.path)
    del weights["features.0.bias"]
    write_artifact(artifact.path, artifact.manifest, lambda path: save_file(weights, path))
    with pytest.raises(ArtifactCorrupt):
        checkpoint.load(artifact.path)


def test_a_file_that_is_no_safetensors_is_refused_though_its_hash_fits(tmp_path: Path) -> None:
    artifact = save(tmp_path / "m.safetensors")
    for content in (b"", b"\x80\x04N.", artifact.path.read_bytes()[:-4], b"\xff" * 64):
        write_artifact(artifact.path, artifact.manifest, content)
        with pytest.raises(ArtifactCorrupt, match="safetensors"):
            checkpoint.load(artifact.path)


def test_a_manifest_that_names_no_model_or_an_unknown_one_is_refused(tmp_path: Path) -> None:
    artifact = save(tmp_path / "m.safetensors")
    for model in (None, {"arch": 3}, {**CONFIG.to_dict(), "arch": "../evil"}):
        write_artifact(artifact.path, structs.replace(artifact.manifest, model=model), artifact.path.read_bytes())
        with pytest.raises(ManifestError):
            checkpoint.load(artifact.path)
