"""The training loop: it learns, it repeats itself to the bit, and it goes on after being killed."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_photos import write_photos
from PIL import Image
from safetensors.torch import load_file, save_file

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli import train as cli_train
from alexnet_deploy.errors import ArtifactCorrupt, ArtifactMissing, DataError, DeviceMissing, InputError
from training import checkpoint
from training.average import Average
from training.model import ModelConfig, build_model
from training.optimiser import build_optimiser
from training.recipes import RECIPES, with_recipe
from training.records import EpochRecord, TrainReport
from training.settings import TrainSettings, demo_settings
from training.state import read, state_path
from training.train import train

SECONDS_TO_WAIT = 120


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures a class to train on and 4 to measure on."""
    return write_photos(tmp_path_factory.mktemp("photos"), train=16, val=4)


@pytest.fixture(scope="module")
def settings(photos: Path) -> TrainSettings:
    return TrainSettings(data=str(photos), width=0.05, input_size=63, epochs=6, batch_size=8, lr=0.003, dropout=0.3)


@pytest.fixture(scope="module")
def trained(settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    return train(settings, tmp_path_factory.mktemp("trained") / "m.safetensors")


def test_it_learns_what_can_be_learned(trained: TrainReport) -> None:
    assert trained.history[-1].validation_accuracy == 1.0
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_the_checkpoint_says_how_it_was_made(trained: TrainReport, settings: TrainSettings) -> None:
    model, artifact = checkpoint.load(trained.checkpoint)
    manifest = artifact.manifest
    assert manifest.labels == ("blue", "green", "red")
    assert manifest.training is not None
    assert manifest.training.epochs_done == 6
    assert manifest.training.settings["lr"] == settings.lr
    assert manifest.training.figures["validation_accuracy"] == trained.history[-1].validation_accuracy
    assert manifest.pictures is not None
    assert manifest.pictures.location == str(Path(settings.data) / "train")
    assert manifest.pictures.count == 48
    assert (manifest.preprocess.height, manifest.preprocess.resize) == (63, 72)
    assert not state_path(trained.checkpoint).exists()
    assert model.config.classes == 3


def test_the_report_counts_what_it_saw(trained: TrainReport) -> None:
    assert [record.epoch for record in trained.history] == [1, 2, 3, 4, 5, 6]
    assert (trained.train_pictures, trained.validation_pictures) == (48, 12)
    assert trained.parameters == sum(t.numel() for t in load_file(trained.checkpoint).values())


def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    trained: TrainReport, settings: TrainSettings, tmp_path: Path
) -> None:
    again = train(settings, tmp_path / "again.safetensors")
    other = train(replace(settings, seed=1), tmp_path / "other.safetensors")
    assert again.checkpoint.read_bytes() == trained.checkpoint.read_bytes()
    assert other.checkpoint.read_bytes() != trained.checkpoint.read_bytes()


def test_training_leaves_the_process_as_it_was(settings: TrainSettings, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = (torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    generator = np.random.get_state()[1].copy()
    train(replace(settings, epochs=1), tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before[2:]
    np.testing.assert_array_equal(np.random.get_state()[1], generator)
    assert not torch.backends.cudnn.deterministic


class Killed(BaseException):
    """Stands for the end of the process, in the tests that need not really end one."""


def stop_after(updates: int) -> object:
    """A Progress that ends the process at its n-th call: training has no say in it."""
    count = 0

    def progress(task: str, done: int, total: int, note: str = "") -> None:
        nonlocal count
        count += 1
        if count == updates:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def whole(trained: TrainReport, settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainReport]:
    """For each way to train, a training that was never stopped."""
    others = {way: in_way(settings, way) for way in ("sgd", "modern")}
    folder = tmp_path_factory.mktemp("whole")
    return {"adamw": trained} | {way: train(other, folder / f"{way}.safetensors") for way, other in others.items()}


def in_way(settings: TrainSettings, way: str) -> TrainSettings:
    if way == "modern":
        chosen = with_recipe(settings, "modern")
        kept = {name: getattr(settings, name) for name in ("epochs", "batch_size", "lr", "dropout")}
        return replace(chosen, **kept, policy="trivial", mixup=0.2)  # everything that draws numbers
    return replace(settings, optimiser=way)


@pytest.mark.parametrize(("way", "steps"), [("adamw", 1), ("adamw", 7), ("adamw", 16), ("sgd", 7), ("modern", 8)])
def test_resuming_from_any_step_equals_never_having_stopped(
    settings: TrainSettings,
    whole: dict[str, TrainReport],
    tmp_path: Path,
    way: str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.train._SHOW_SECONDS", 0)
    chosen = in_way(settings, way)
    halved = tmp_path / "halved.safetensors"
    with pytest.raises(Killed):
        train(chosen, halved, save_seconds=0, progress=stop_after(steps))
    resumed = train(chosen, halved, resume=True)
    assert halved.read_bytes() == whole[way].checkpoint.read_bytes()
    figures = [replace(r, seconds=0, pictures_per_second=0) for r in whole[way].history]
    assert [replace(r, seconds=0, pictures_per_second=0) for r in resumed.history] == figures
    assert not state_path(halved).exists()


@pytest.mark.parametrize(("sign", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_training_between_two_steps_with_its_state_saved(
    settings: TrainSettings, tmp_path: Path, sign: signal.Signals, end: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.train._SHOW_SECONDS", 0)
    output = tmp_path / "m.safetensors"

    def interrupt(task: str, done: int, total: int, note: str = "") -> None:
        if done == 8:
            os.kill(os.getpid(), sign)

    with pytest.raises(end) as caught:
        train(settings, output, save_seconds=1e9, progress=interrupt)
    assert (read(output).epoch, read(output).step) == (1, 3)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 143


def run_train(output: Path, settings: TrainSettings, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from alexnet_deploy.cli import main; main()", "train", "-o", str(output)]
    if "--resume" not in options:
        for name in ("data", "width", "input_size", "epochs", "batch_size", "lr", "dropout", "mixup"):
            command += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
        command += ["--augment", settings.policy]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on how they are split
    return subprocess.Popen(
        [*command, "--save-seconds", "0", *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def wait_for_step(output: Path, process: subprocess.Popen[str], epoch: int, step: int) -> None:
    """Until the state on disk has come so far."""
    until = time.monotonic() + SECONDS_TO_WAIT
    while time.monotonic() < until:
        assert process.poll() is None, f"training ended by itself: {process.communicate()}"
        if state_path(output).is_file():
            state = read(output)
            if (state.epoch, state.step) >= (epoch, step):
                return
        time.sleep(0.005)
    raise AssertionError("training does not come on")


@pytest.mark.slow
def test_a_training_that_was_really_killed_goes_on_to_the_bit(settings: TrainSettings, tmp_path: Path) -> None:
    """SIGKILL, then SIGTERM, each somewhere within an epoch, and then let be."""
    chosen = replace(in_way(settings, "modern"), epochs=8)
    whole = train(chosen, tmp_path / "whole.safetensors")
    output = tmp_path / "killed.safetensors"
    process = run_train(output, chosen)
    wait_for_step(output, process, 2, 1)
    process.kill()
    assert process.wait(SECONDS_TO_WAIT) == -signal.SIGKILL
    process = run_train(output, chosen, "--resume")
    wait_for_step(output, process, read(output).epoch + 2, 1)
    process.terminate()
    _, messages = process.communicate(timeout=SECONDS_TO_WAIT)
    assert process.returncode == 143
    assert "Traceback" not in messages
    assert f"train --resume -o {output}" in messages
    assert read(output).epoch < chosen.epochs
    assert Artifact.open(output).manifest.training is not None
    assert len(train(chosen, output, resume=True).history) == chosen.epochs
    assert output.read_bytes() == whole.checkpoint.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".resume", ".tmp")]


@pytest.fixture
def interrupted(settings: TrainSettings, tmp_path: Path) -> Path:
    output = tmp_path / "m.safetensors"
    with pytest.raises(Killed):
        train(settings, output, save_seconds=0, progress=stop_after(1))
    return output


def test_there_is_something_to_resume_from_before_the_first_step(settings: TrainSettings, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(Killed):
        train(settings, output, save_seconds=1e9, progress=stop_after(1))
    assert (read(output).epoch, read(output).step) == (0, 0)


def test_resuming_nothing_is_refused(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="no interrupted training"):
        train(settings, tmp_path / "m.safetensors", resume=True)


def test_resuming_with_other_settings_is_refused(settings: TrainSettings, interrupted: Path) -> None:
    with pytest.raises(InputError, match="epochs 6, not 4"):
        train(replace(settings, epochs=4), interrupted, resume=True)


def test_resuming_on_other_pictures_is_refused(settings: TrainSettings, interrupted: Path, photos: Path) -> None:
    extra = photos / "train" / "red" / "extra.png"
    Image.new("RGB", (48, 48)).save(extra)
    try:
        with pytest.raises(DataError, match="have changed"):
            train(settings, interrupted, resume=True)
    finally:
        extra.unlink()


@pytest.mark.parametrize("damage", ["truncated", "empty", "pickle", "another file", "another version"])
def test_a_damaged_state_is_refused(settings: TrainSettings, interrupted: Path, damage: str) -> None:
    path = state_path(interrupted)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        path.write_bytes(b"\x80\x04K\x01.")
    elif damage == "another file":
        save_file({"weight": torch.zeros(3)}, path)
    else:
        state = json.dumps(
            {"format": "alexnet-deploy-training/9", **{n: {} for n in ("settings", "sums")}, "history": []}
            | {"data_sha256": "", "epoch": 0, "step": 0}
        )
        save_file({"weight": torch.zeros(3)}, path, metadata={"state": state})
    with pytest.raises(ArtifactCorrupt, match="cannot be resumed from"):
        train(settings, interrupted, resume=True)


def test_the_learning_rate_warms_up_and_falls_to_nearly_zero() -> None:
    settings = TrainSettings(lr=0.1, warmup=0.2)
    rates = [settings.learning_rate(step, 100) for step in range(100)]
    assert max(rates) == rates[19] == rates[20] == 0.1
    assert all(a < b for a, b in pairwise(rates[:20]))
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert 0 < rates[-1] < 0.001
    assert all(math.isfinite(TrainSettings(warmup=0).learning_rate(0, steps)) for steps in (1, 2))


def test_a_learning_rate_that_blows_up_is_said_to(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the loss became .* --lr"):
        train(replace(settings, optimiser="sgd", lr=100.0, epochs=20), tmp_path / "m.safetensors")


def test_broken_pictures_are_counted_and_not_fatal(settings: TrainSettings, photos: Path, tmp_path: Path) -> None:
    broken = [photos / split / "red" / "broken.jpg" for split in ("train", "val")]
    for path in broken:
        path.write_bytes(b"\xff\xd8 no picture")
    try:
        report = train(replace(settings, epochs=2), tmp_path / "m.safetensors")
    finally:
        for path in broken:
            path.unlink()
    assert len(report.unreadable) == 2
    assert all("broken.jpg" in reason for reason in report.unreadable)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(DeviceMissing):
        train(settings, tmp_path / "m.safetensors", device="cuda")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"warmup": 1.0},
        {"weight_decay": -1.0},
        {"shift": 0.6},
        {"seed": -1},
        {"optimiser": "lion"},
        {"framing": "left"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        replace(TrainSettings(), **wrong)


def test_the_demo_fits_the_smallest_input_and_its_seed_is_taken() -> None:
    assert demo_settings(seed=3).seed == 3
    assert demo_settings().data == "demo"


def test_training_stops_when_it_gets_no_better_and_keeps_the_best(settings: TrainSettings, tmp_path: Path) -> None:
    report = train(replace(settings, epochs=40, patience=2), tmp_path / "m.safetensors")
    accuracies = [record.validation_accuracy for record in report.history]
    best = accuracies.index(max(accuracies)) + 1
    assert len(accuracies) == best + 2 < 40
    assert report.kept_epoch == best
    training = Artifact.open(report.checkpoint).manifest.training
    assert training is not None
    assert training.epochs_done == best
    assert training.figures["validation_accuracy"] == max(accuracies)


def test_another_suffix_is_refused_before_anything_is_trained(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safetensors"):
        train(settings, tmp_path / "m.pth", progress=stop_after(1))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(settings: TrainSettings, tmp_path: Path) -> None:
    """The system refuses to let a file grow, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ArtifactMissing, match=r"could not be written: .* Try: make room"):
            train(settings, tmp_path / "m.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_whoever_watches_is_told_of_every_epoch_also_of_those_before_a_resume(settings: TrainSettings, tmp_path: Path) -> None:
    class Notes:
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.epochs: list[int] = []

        def step(self, step: int, loss: float, accuracy: float, learning_rate: float, pictures_per_second: float) -> None:
            self.steps.append(step)

        def epoch(self, record: EpochRecord) -> None:
            self.epochs.append(record.epoch)

    output = tmp_path / "m.safetensors"
    with pytest.raises(Killed):
        train(settings, output, save_seconds=0, progress=stop_after(3))
    notes = Notes()
    train(settings, output, resume=True, watch=notes)
    assert notes.epochs == [1, 2, 3, 4, 5, 6]
    assert notes.steps[-1] == 36


def test_the_papers_recipe_steps_down_three_times_and_measures_ten_crops(settings: TrainSettings, tmp_path: Path) -> None:
    paper = with_recipe(settings, "paper")
    rates = [paper.learning_rate(step, 90) for step in range(90)]
    assert [round(math.log10(rate / paper.lr)) for rate in (rates[0], rates[29], rates[30], rates[60], rates[89])] == [
        0,
        0,
        -1,
        -2,
        -3,
    ]
    assert (paper.optimiser, paper.momentum, paper.nesterov, paper.weight_decay, paper.colour) == ("sgd", 0.9, False, 5e-4, 0.1)
    report = train(replace(paper, epochs=6, batch_size=8, lr=0.02, width=0.05, dropout=0.0), tmp_path / "m.safetensors")
    assert report.ten_crop_accuracy is not None
    assert report.ten_crop_accuracy >= 0.9


def test_the_modern_recipe_changes_pictures_strongly_in_long_trainings_alone() -> None:
    short, long = (with_recipe(TrainSettings(epochs=epochs), "modern") for epochs in (30, 100))
    assert (short.policy, short.mixup, short.dropout) == ("none", 0, 0.2)
    assert (long.policy, long.mixup, long.dropout) == ("trivial", 0.2, 0.5)


def test_a_folder_too_many_is_noticed_where_the_number_of_classes_is_said(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 3 classes \(blue, green, red\).*2, by --classes"):
        train(replace(settings, classes=2), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_average_follows_the_weights_and_is_what_is_kept(settings: TrainSettings, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = Average(model, 0.5)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    before = average.tensors["0.weight"].clone()
    average.update(1000)
    torch.testing.assert_close(average.tensors["0.weight"], (before + 1) / 2)
    with average.in_place():
        assert torch.equal(model[0].weight, average.tensors["0.weight"])
    assert (model[0].weight == 1).all()
    plain = train(replace(settings, epochs=1), tmp_path / "plain.safetensors")
    averaged = train(replace(settings, epochs=1, ema=0.99), tmp_path / "averaged.safetensors")
    weights = [load_file(report.checkpoint)["classifier.6.weight"] for report in (plain, averaged)]
    assert not torch.equal(*weights)


def test_layers_learn_at_their_own_rates_and_biases_do_not_decay(settings: TrainSettings) -> None:
    model = build_model(ModelConfig(width=0.05, input_size=63))
    groups = build_optimiser(model, replace(settings, layer_decay=0.5, features_lr=0.1)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert found["classifier.6.weight"]["share"] == 1
    assert found["classifier.1.weight"]["share"] == 0.25
    assert math.isclose(found["features.10.weight"]["share"], 0.1 / 8)
    assert found["features.0.weight"]["weight_decay"] == settings.weight_decay
    assert found["features.0.bias"]["weight_decay"] == 0
    assert set(found) == set(names.values())
    frozen = build_optimiser(model, replace(settings, features_lr=0.0)).param_groups
    assert {names[id(p)].partition(".")[0] for group in frozen for p in group["params"]} == {"classifier"}


def test_the_command_and_the_recipes_agree_on_names() -> None:
    assert set(cli_train.RECIPES) | {"qat"} == set(RECIPES)
