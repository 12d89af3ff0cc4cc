"""Dropout by picture, and a batch that several threads share: the same result as in one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_photos import write_photos
from safetensors.torch import load_file
from torch import nn

from training import learner
from training.batches import Seen
from training.dropout import PictureDropout, drop_by_picture, give_keys, keys_of
from training.recipes import with_recipe
from training.replicas import Replicas
from training.settings import TrainSettings
from training.train import train


def dropped(p: float, keys: np.ndarray, values: torch.Tensor) -> torch.Tensor:
    model = nn.Sequential(nn.Dropout(p), nn.ReLU(), nn.Dropout(p)).train()
    drop_by_picture(model)
    give_keys(model, torch.from_numpy(keys))
    return model[0](values)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_dropout_leaves_out_its_share_and_keeps_the_mean(p: float) -> None:
    values = torch.ones(200, 1000)
    found = dropped(p, keys_of(0, 0, range(200)), values)
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert found.mean().item() == pytest.approx(1, abs=0.05)
    assert found.unique().tolist() == pytest.approx([0, 1 / (1 - p)])


def test_masks_of_pictures_units_layers_and_epochs_are_independent() -> None:
    values = torch.ones(64, 512)
    masks = [(dropped(0.5, keys_of(0, epoch, range(64)), values) > 0).float() for epoch in (0, 1)]
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).train()
    drop_by_picture(model)
    give_keys(model, torch.from_numpy(keys_of(0, 0, range(64))))
    masks.append((model[1](values) > 0).float())
    correlated = torch.corrcoef(torch.stack([mask.flatten() for mask in masks])) - torch.eye(3)
    assert correlated.abs().max() < 0.03
    between_pictures = torch.corrcoef(masks[0]) - torch.eye(64)
    between_units = torch.corrcoef(masks[0].T) - torch.eye(512)
    assert between_pictures.abs().max() < 0.25  # 5.6 deviations of 1 / sqrt(512), of 2,016 pairs
    assert between_units.abs().max() < 0.75  # 6 of 1 / sqrt(64), of 130,816


def test_a_pictures_mask_does_not_depend_on_its_batch_and_none_is_left_out_after_training() -> None:
    values = torch.ones(6, 4, 3, 3).to(memory_format=torch.channels_last)
    keys = keys_of(1, 2, [10, 11, 12, 13, 14, 15])
    whole = dropped(0.5, keys, values)
    torch.testing.assert_close(dropped(0.5, keys[4:], values[4:].contiguous()), whole[4:].contiguous())
    layer = PictureDropout(0.5, 0).eval()
    assert layer(values) is values


def test_parts_of_a_batch_are_the_whole() -> None:
    seen = Seen(np.zeros((5, 2, 2, 3), np.float32), np.arange(5), keys_of(0, 0, range(5)))
    parts = seen.parts(3)
    assert [len(part.labels) for part in parts] == [2, 2, 1]
    assert np.concatenate([part.labels for part in parts]).tolist() == [0, 1, 2, 3, 4]
    assert all(part.others is None for part in parts)


def test_replicas_share_weights_and_add_up_gradients() -> None:
    model = nn.Linear(3, 2)
    replicas = Replicas(model, 3)

    def backward(network: nn.Module, part: Seen) -> int:
        network(torch.from_numpy(part.pictures)).sum().backward()
        return torch.get_num_threads()

    before = torch.get_num_threads()
    seen = Seen(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.zeros(4, np.int64))
    assert replicas.each(backward, seen) == [1, 1, 1]
    replicas.gather_gradients()
    torch.testing.assert_close(model.weight.grad, torch.from_numpy(seen.pictures).sum(0).repeat(2, 1))
    with torch.no_grad():
        model.weight.zero_()
    bias = model.bias.detach()
    assert all(
        torch.equal(answer, bias.repeat(len(answer), 1))
        for answer in replicas.each(lambda n, p: n(torch.from_numpy(p.pictures)).detach(), seen)
    )
    assert len(replicas.each(backward, seen.parts(4)[0])) == 1  # fewer pictures than networks
    assert torch.get_num_threads() == before
    replicas.close()


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    """Everything that draws numbers is on."""
    folder = write_photos(tmp_path / "photos", train=8, val=4)
    settings = TrainSettings(data=str(folder), arch="alexnet-bn", width=0.05, input_size=63)
    settings = replace(with_recipe(settings, "modern"), policy="trivial", mixup=0.2, dropout=0.3, ema=0.9)
    return replace(settings, epochs=2, batch_size=12, lr=0.003)


def test_threads_that_share_a_batch_train_what_one_would(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within rounding: sums are added up in another order."""
    found = []
    for count in (1, 3):
        monkeypatch.setattr(learner, "worthwhile", lambda model, batch_size, count=count: count)
        found.append(load_file(train(replace(settings, arch="alexnet"), tmp_path / f"{count}.safetensors").checkpoint))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-3, atol=1e-4)


def test_threads_that_share_a_batch_repeat_themselves_and_resume_to_the_bit(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "worthwhile", lambda model, batch_size: 2)
    monkeypatch.setattr("training.train._SHOW_SECONDS", 0)
    whole = train(settings, tmp_path / "whole.safetensors").checkpoint.read_bytes()

    def stop(task: str, done: int, total: int, note: str = "") -> None:
        if done == 3:
            raise KeyboardInterrupt

    output = tmp_path / "halved.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(settings, output, save_seconds=0, progress=stop)
    assert train(settings, output, resume=True).checkpoint.read_bytes() == whole
