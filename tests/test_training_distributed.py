"""Several processes that train one network: the same result as one, and on from where a worker was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from colour_photos import write_photos
from safetensors.torch import load_file

from alexnet_deploy.errors import InputError
from training.distributed import Team
from training.recipes import with_recipe
from training.settings import TrainSettings
from training.state import read, state_path
from training.train import train

SECONDS_TO_WAIT = 300


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """Everything that draws numbers is on: dropout, crops, changes, mixing; and the average."""
    folder = write_photos(tmp_path_factory.mktemp("photos"), train=24, val=5)
    settings = TrainSettings(data=str(folder), width=0.05, input_size=63)
    chosen = replace(with_recipe(settings, "modern"), policy="trivial", mixup=0.2)
    return replace(chosen, epochs=3, batch_size=12, lr=0.003, dropout=0.3, ema=0.9)


@pytest.fixture(scope="module")
def alone(settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that one process ends with."""
    return load_file(train(settings, tmp_path_factory.mktemp("alone") / "m.safetensors").checkpoint)


def start(output: Path, settings: TrainSettings, *options: str, restarts: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts), "-m", "training", "-o", str(output), "--json", *options]
    command += ["--augment", settings.policy]
    for name in ("data", "width", "input_size", "epochs", "batch_size", "lr", "dropout", "ema", "mixup"):
        command += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same(found: Path, expected: dict[str, torch.Tensor]) -> None:
    """Within rounding: sums are added up in another order, and AdamW divides small ones by their size."""
    for name, tensor in load_file(found).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_two_processes_one_of_which_was_killed_train_what_one_would(
    settings: TrainSettings, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """torchrun starts both again, training goes on, and one of them speaks."""
    output = tmp_path / "killed.safetensors"
    process = start(output, settings, "--save-seconds", "0", restarts=1)
    until = time.monotonic() + SECONDS_TO_WAIT
    while not state_path(output).is_file() or (read(output).epoch, read(output).step) < (1, 1):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    os.kill(worker_of(process.pid, rank=1), signal.SIGKILL)
    answer, messages = process.communicate(timeout=SECONDS_TO_WAIT)
    assert process.returncode == 0, messages
    assert len(json.loads(answer)["history"]) == settings.epochs  # of one process: two would be no JSON
    assert messages.count("epoch 1 of") == 2  # told again by the process that went on, not trained again
    assert_same(output, alone)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".resume", ".tmp")]


def worker_of(parent: int, rank: int) -> int:
    for status in Path("/proc").glob("[0-9]*/stat"):
        fields = status.read_text().rpartition(")")[2].split()
        environment = (status.parent / "environ").read_bytes().split(b"\0") if int(fields[1]) == parent else []
        if f"RANK={rank}".encode() in environment:
            return int(status.parent.name)
    raise AssertionError(f"no worker of rank {rank}")


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(InputError, match="--batch-size 9"):
        Team(0, 3).part(10)
    parts = [Team(rank, 3).part(12) for rank in range(3)]
    assert [index for part in parts for index in range(12)[part]] == list(range(12))


def test_alone_there_is_nothing_to_share() -> None:
    team = Team()
    model = torch.nn.Dropout(0.5)
    assert team.share(model) is model
    assert team.total(3, True) == [3, True]
