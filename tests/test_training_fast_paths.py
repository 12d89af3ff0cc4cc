"""How a step is computed: chosen by measuring, once, and never so that the same seed gives other weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from click.testing import CliRunner
from colour_photos import write_photos

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli.train import command
from alexnet_deploy.errors import AlexnetDeployError
from training import fast_paths
from training.distributed import ALONE, Team
from training.fast_paths import Way, choose, speed_up
from training.model import ModelConfig
from training.settings import TrainSettings
from training.train import interrupted_settings, train

CONFIG = ModelConfig(classes=3, width=0.05, input_size=63)
SETTINGS = TrainSettings(width=0.05, input_size=63, batch_size=8, epochs=3)


class Trials:
    """Stands for the clock: says how fast each way is, and remembers what it was asked."""

    def __init__(self, speeds: dict[Way, float]) -> None:
        self.speeds = speeds
        self.tried: list[Way] = []

    def __call__(self, settings: TrainSettings, config: ModelConfig, one: Way, other: Way, team: Team) -> float:
        self.tried.append(other)
        return self.speeds.get(other, 1.0) / self.speeds.get(one, 1.0)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trials:
    """A machine that has everything, and a training that is long enough for all of it."""
    found = Trials({})
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fast_paths, "speed_up", found)
    monkeypatch.setattr(fast_paths, "_WORTH_TRYING", 0)
    monkeypatch.setattr(fast_paths, "_WORTH_COMPILING", 0)
    monkeypatch.setattr(fast_paths, "has_bf16", lambda: True)
    monkeypatch.setattr(fast_paths, "can_compile", lambda device: True)
    return found


def chosen(fixed: tuple[str, ...] = (), settings: TrainSettings = SETTINGS, pictures: int = 100) -> Way:
    found = choose(settings, CONFIG, pictures, ALONE, fixed=fixed)
    assert replace(found, layout="nhwc", arithmetic="fp32", compiled=False) == settings  # nothing else is touched
    return Way(found.layout, found.arithmetic, found.compiled)


def test_what_is_faster_is_added_up_and_what_is_not_is_left_out(trials: Trials) -> None:
    trials.speeds = {Way("nchw"): 0.7, Way("nhwc", "bf16"): 1.6, Way("nhwc", "bf16", True): 2.0}
    assert chosen() == Way("nhwc", "bf16", True)
    assert trials.tried == [Way("nchw"), Way("nhwc", "bf16"), Way("nhwc", "bf16", True)]


def test_a_choice_is_kept_whatever_the_clock_says_next_time(trials: Trials) -> None:
    trials.speeds = {Way("nchw"): 1.5}
    assert chosen() == Way("nchw")
    trials.speeds = {}
    assert chosen(settings=SETTINGS) == Way("nchw")
    assert len(trials.tried) == 3
    assert chosen(settings=replace(SETTINGS, seed=5, lr=0.1)).layout == "nchw"  # which do not matter
    other = replace(SETTINGS, batch_size=16)
    assert choose(other, CONFIG, 100, ALONE) == other  # which does


def test_noise_chooses_nothing(trials: Trials) -> None:
    trials.speeds = {Way("nchw"): 1.04, Way("nhwc", "bf16"): 1.03, Way(compiled=True): 1.04}
    assert chosen() == Way()


def test_what_is_given_stays(trials: Trials) -> None:
    trials.speeds = dict.fromkeys([Way("nchw"), Way("nchw", compiled=True), Way("nhwc", "bf16")], 9.0)
    assert chosen(fixed=("layout", "arithmetic", "compiled")) == Way()
    assert trials.tried == []
    assert chosen(fixed=("layout", "compiled")) == Way("nhwc", "bf16")


def test_where_nothing_can_be_remembered_nothing_is_changed(trials: Trials, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    trials.speeds = {Way("nchw"): 9.0}
    assert chosen() == Way()


def test_a_short_training_is_left_as_it_is_and_a_long_one_is_not(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    trials.speeds = {Way("nchw"): 9.0}
    monkeypatch.setattr(fast_paths, "_WORTH_TRYING", 1e13)
    monkeypatch.setattr(fast_paths, "_WORTH_COMPILING", 1e14)
    assert chosen() == Way()
    assert trials.tried == []
    assert chosen(pictures=round(100 * 3e13 / fast_paths._operations(SETTINGS, CONFIG, 100))) == Way("nchw")
    assert all(not way.compiled for way in trials.tried)


def test_operations_are_counted_as_published() -> None:
    """Torchvision gives 0.71 billion multiply-adds for a picture."""
    once = fast_paths._operations(replace(SETTINGS, epochs=1), ModelConfig(), 1)
    assert once / 3 / 2 == pytest.approx(0.714e9, rel=0.01)


def test_only_the_first_process_tries_and_the_others_take_its_answer(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    trials.speeds = {Way("nchw"): 9.0}
    first = chosen()
    trials.tried.clear()
    told = [fast_paths._WAYS.index(first)]
    monkeypatch.setattr(Team, "total", lambda team, *numbers: told)
    assert choose(SETTINGS, CONFIG, 100, Team(1, 2)).layout == "nchw"
    assert trials.tried == []


def test_two_ways_are_really_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "_ROUND_SECONDS", 0.0)
    assert speed_up(SETTINGS, CONFIG, Way(), Way("nchw"), ALONE) > 0
    monkeypatch.setattr("torch.compile", lambda network: (_ for _ in ()).throw(RuntimeError("no compiler")))
    assert speed_up(SETTINGS, CONFIG, Way(), Way(compiled=True), ALONE) == 0


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(AlexnetDeployError, match=r"C\+\+ compiler.*--eager"):
        train(replace(SETTINGS, data="demo", compiled=True), tmp_path / "m.safetensors")


def test_the_command_records_its_choice_and_repeats_it_to_the_bit(trials: Trials, tmp_path: Path) -> None:
    trials.speeds = {Way("nchw"): 9.0}
    data = str(write_photos(tmp_path / "photos", train=8, val=4))
    options = ["--data", data, "--width", "0.05", "--input-size", "63", "--epochs", "1", "--batch-size", "8", "-q"]
    weights = []
    for name in ("one", "two"):
        output = tmp_path / f"{name}.safetensors"
        ran = CliRunner().invoke(command, [*options, "-o", str(output)])
        assert ran.exit_code == 0, ran.output
        training = Artifact.open(output).manifest.training
        assert training is not None
        assert (training.settings["layout"], training.settings["arithmetic"]) == ("nchw", "fp32")
        weights.append(output.read_bytes())
        trials.speeds = {Way("nhwc", "bf16"): 9.0}
    assert weights[0] == weights[1]


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_resumed_training_computes_as_it_began(trials: Trials, tmp_path: Path) -> None:
    settings = replace(SETTINGS, data=str(write_photos(tmp_path / "photos", train=8, val=4)))
    trials.speeds = {Way("nchw"): 9.0}
    whole = train(settings, tmp_path / "whole.safetensors", fast_paths=True)
    assert whole.settings.layout == "nchw"

    def kill(task: str, done: int, total: int, note: str = "") -> None:
        if task == "train":
            raise Killed

    output = tmp_path / "m.safetensors"
    with pytest.raises(Killed):
        train(settings, output, save_seconds=0, fast_paths=True, progress=kill)
    rmtree(tmp_path / "cache")
    trials.speeds = {Way("nhwc", "bf16"): 9.0}
    resumed = train(interrupted_settings(output), output, resume=True, fast_paths=True)
    assert resumed.settings == whole.settings
    assert output.read_bytes() == whole.checkpoint.read_bytes()
