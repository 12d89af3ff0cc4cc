"""Training: epochs of steps, deterministic for a seed, and resumable to the bit.

Every random number is drawn from (seed, epoch) or (seed, epoch, picture): the order of the pictures, how they are varied, their
dropout. So the state of a training is its weights, its momentum, its average and where it stands; `state.py` keeps it
beside the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from alexnet_deploy import logs
from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import AlexnetDeployError, DataError, DeviceMissing, InputError
from alexnet_deploy.manifest import DataReference, Lineage, TrainingRecord
from alexnet_deploy.types import Progress, silent
from training import checkpoint, state
from training.batches import Seen, ValidationBatches
from training.data import Split, open_split
from training.distributed import ALONE, Team, team
from training.fast_paths import check_compiler, choose
from training.learner import Learner
from training.measure import Sums, measure, ten_crop_accuracy
from training.model import ModelConfig, preprocessing
from training.qat import Ranges
from training.records import EpochRecord, TrainReport, Unwatched, Watcher, best_epoch
from training.settings import TrainSettings
from training.signals import StopRequest
from training.streams import batches_of
from training.weights import read_weights, start_from

log = logs.logger(__name__)

_SHOW_SECONDS = 0.25


def train(
    settings: TrainSettings,
    output: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    save_seconds: float = 60.0,
    progress: Progress = silent,
    watch: Watcher | None = None,
    ranges: Ranges | None = None,
    fast_paths: bool = False,
    fixed: Collection[str] = (),
) -> TrainReport:
    """Trains a network and writes a checkpoint after every epoch.

    The state to resume from is written beside it (`output` + ".resume") at the start, after every epoch, every
    `save_seconds`, and when the process is asked to stop (SIGINT, SIGTERM); it is removed when the training is done.

    Under torchrun, every process calls this with the same arguments; each takes its part of every batch, and the first one
    writes and tells.

    Args:
        settings: what to train, on what, and how.
        output: the checkpoint, ending in .safetensors.
        resume: go on from the state beside `output`; the settings must be those it was started with.
        device: "cpu" or "cuda".
        save_seconds: how often a long epoch saves its state.
        progress: told of every few steps, with the loss, the accuracy and the speed.
        watch: told of the same, and of every epoch, in numbers.
        ranges: round as the INT8 engine will, by these ranges of the weights that the settings start from.
        fast_paths: try first which `layout`, `arithmetic` and `compiled` are fastest here; see `fast_paths.choose`. What was
            chosen stands in the report's settings. A resumed training has chosen already.
        fixed: which of the three stay as the settings have them.

    Raises:
        DataError: pictures that cannot be trained on.
        InputError: another suffix; settings out of range, or different from the interrupted training's; a loss that blows up.
        ArtifactMissing: nothing to resume from; a full disk.
        DeviceMissing: no such device.
        KeyboardInterrupt, SystemExit: after SIGINT, SIGTERM, when the state has been saved.
    """
    output = checkpoint.checkpoint_path(output)
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(f"PyTorch {torch.__version__} sees no CUDA GPU", expected="a GPU and a CUDA build of torch")
    split = open_split(settings.data, settings.validation)
    with _own_random_state(), StopRequest() as stop, team(device) as members:
        if fast_paths and not resume and ranges is None:
            config = _network(settings, split)
            settings = choose(settings, config, len(split.train), members, fixed=fixed, progress=progress)
        if settings.compiled:
            check_compiler(device)
        with closing(Training(settings, split, output, members, progress, watch or Unwatched())) as run:
            if resume:
                run.restore()
            else:
                run.begin(ranges)
            while not run.done:
                run.train_epoch(stop, save_seconds)
                run.finish_epoch()
                if members.total(stop.requested)[0]:
                    stop.obey()
            report = run.report()
        members.wait()
        if members.leads:
            state.remove(output)
    return report


class Training:
    """A training under way: what `TrainingState` holds, and what is built anew from the settings."""

    def __init__(
        self,
        settings: TrainSettings,
        split: Split,
        output: Path,
        team: Team = ALONE,
        progress: Progress = silent,
        watch: Watcher | None = None,
    ) -> None:
        config = _network(settings, split)
        self.recipe = preprocessing(config, whole=settings.framing == "whole")
        self.settings = settings
        self.split = split
        self.output = output
        self.team = team
        self.progress = progress
        self.watch = watch or Unwatched()
        self.data: DataReference = split.train.reference()
        self.batches = batches_of(split.train, self.recipe, settings, team)
        self.validation = ValidationBatches(split.validation, self.recipe, settings.batch_size, team=team)
        self.learner = Learner(config, settings, self.batches.batch_size, team)
        self.parents: tuple[Lineage, ...] = ()
        self.epoch = 0
        self.step = 0
        self.sums = Sums(team.device)
        self.history: list[EpochRecord] = []

    @property
    def done(self) -> bool:
        """All epochs are trained, or none of the last `patience` was better than one before."""
        if self.epoch >= self.settings.epochs:
            return True
        return 0 < self.settings.patience <= self.epoch - best_epoch(self.history)

    @property
    def steps_done(self) -> int:
        return self.epoch * self.batches.steps + self.step

    @property
    def steps(self) -> int:
        """Of the whole training, unless it stops early."""
        return self.settings.epochs * self.batches.steps

    def close(self) -> None:
        """Ends its threads and processes."""
        self.batches.close()
        self.learner.close()

    def begin(self, ranges: Ranges | None = None) -> None:
        """Takes the weights to start from, if any, and writes the state before the first step."""
        self.learner.ranges = ranges
        if self.settings.weights:
            start_from(self.learner.model, read_weights(self.settings.weights, self.progress))
            self.parents = _lineage(self.settings.weights)
            if self.learner.average:
                self.learner.average.restart()
        self.save_state()
        self.team.wait()

    def train_epoch(self, stop: StopRequest, save_seconds: float) -> None:
        """From `step` to the end of the epoch."""
        self.learner.begin_epoch()
        began = last_saved = last_shown = time.perf_counter()
        before = self.sums.seconds
        with closing(self.batches.epoch(self.epoch, self.step)) as batches:
            for seen in batches:
                stopping = self.take_step(seen, stop.requested)
                self.step += 1
                now = time.perf_counter()
                self.sums.seconds = before + now - began
                if stopping or now - last_saved >= save_seconds:
                    self.save_state()
                    last_saved = now
                if stopping:
                    self.team.wait()  # for the state to be written
                    stop.obey()
                if now - last_shown >= _SHOW_SECONDS:
                    self._show()
                    last_shown = now
        self._show()

    def take_step(self, seen: Seen, stopping: bool = False) -> bool:
        """One batch, of which this process has its part.

        Args:
            seen: that part.
            stopping: whether this process was asked to end.

        Returns:
            Whether any was.
        """
        count, asked = self.team.total(len(seen.labels), stopping)
        if count:  # at least one of this step's pictures could be read
            rate = self.settings.learning_rate(self.steps_done, self.steps)
            for losses, correct in self.learner.step(seen, int(count), self.steps_done, rate):
                self.sums.add(losses, correct)
            if self.team.device == "cpu":  # where reading costs nothing
                self._check_loss()
        return asked > 0

    def _check_loss(self) -> None:
        loss = self.sums.read()[0]
        if not math.isfinite(loss):
            raise InputError(
                f"the loss became {loss} in epoch {self.epoch + 1}, by step {self.step + 1}",
                expected="a finite number",
                fix=f"--lr {self.settings.lr / 4:g}",
            )

    def finish_epoch(self) -> None:
        """Measures on the validation pictures, and writes the checkpoint and the state."""
        self._check_loss()
        loss, correct, count = self.team.total(*self.sums.read())
        if not count:
            raise DataError("none of the training pictures could be read", expected="whole pictures")
        with self._kept_weights():
            validation_loss, validation_accuracy = measure(self.learner.deployed.eval(), self.validation, self.team)
            self.history.append(
                EpochRecord(
                    epoch=self.epoch + 1,
                    learning_rate=self.settings.learning_rate(self.epoch * self.batches.steps, self.steps),
                    train_loss=loss / count,
                    train_accuracy=correct / count,
                    validation_loss=validation_loss,
                    validation_accuracy=validation_accuracy,
                    seconds=self.sums.seconds,
                    pictures_per_second=count / self.sums.seconds,
                )
            )
            self.epoch, self.step, self.sums = self.epoch + 1, 0, Sums(self.team.device)
            if self.team.leads and (not self.settings.patience or best_epoch(self.history) == self.epoch):
                self.save_checkpoint()
        self.save_state()
        if self.team.leads:
            log.info("epoch %d: %s", self.epoch, self.history[-1])
            self.watch.epoch(self.history[-1])

    @contextmanager
    def _kept_weights(self) -> Iterator[None]:
        """Within the block the model holds what is measured and kept: the average, where there is one."""
        if self.learner.average is None:
            yield
        else:
            with self.learner.average.in_place():
                yield

    def _show(self) -> None:
        loss, correct, count = self.sums.read()  # of this process's part, which is a sample of all
        if not count or not self.team.leads:
            return
        loss, accuracy, speed = loss / count, correct / count, count * self.team.size / self.sums.seconds
        rate = self.settings.learning_rate(min(self.steps_done, self.steps - 1), self.steps)
        self.watch.step(self.steps_done, loss, accuracy, rate, speed)
        note = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {speed:,.0f} pictures/s"
        if self.history:
            note += f"  (validation {self.history[-1].validation_accuracy:.1%})"
        self.progress("train", self.steps_done, self.steps, note)

    def save_checkpoint(self) -> Artifact:
        last = self.history[-1]
        ranges = self.learner.ranges
        return checkpoint.save(
            self.learner.model,
            self.output,
            preprocess=self.recipe,
            labels=self.split.train.classes,
            pictures=self.data,
            held_out=self.split.validation.location,
            parents=self.parents,
            calibration=ranges.record if ranges else None,
            training=TrainingRecord(
                data=self.data,
                settings=asdict(self.settings),
                epochs_done=self.epoch,
                figures={
                    "train_loss": last.train_loss,
                    "train_accuracy": last.train_accuracy,
                    "validation_loss": last.validation_loss,
                    "validation_accuracy": last.validation_accuracy,
                    "seconds": sum(record.seconds for record in self.history),
                },
            ),
        )

    def save_state(self) -> None:
        """The first process writes it: all have the same weights, momentum and average, but each its own sums."""
        if not self.team.leads:
            return
        standing = state.TrainingState(
            settings=asdict(self.settings),
            data_sha256=self.data.sha256,
            epoch=self.epoch,
            step=self.step,
            sums=self.sums.to_dict(),
            history=[asdict(record) for record in self.history],
            parents=self.parents,
            ranges=self.learner.ranges,
        )
        state.save(self.output, standing, self.learner)

    def restore(self) -> None:
        """Takes up the state beside the output."""
        standing = state.load(self.output, asdict(self.settings), self.data.sha256, self.learner)
        self.epoch, self.step = standing.epoch, standing.step
        self.parents, self.learner.ranges = standing.parents, standing.ranges
        self.history = [EpochRecord(**record) for record in standing.history]
        if self.team.leads:
            self.sums = Sums(self.team.device, **standing.sums)
            for record in self.history:
                self.watch.epoch(record)

    def report(self) -> TrainReport:
        return TrainReport(
            checkpoint=self.output,
            parameters=sum(p.numel() for p in self.learner.model.parameters()),
            classes=self.split.train.classes,
            train_pictures=len(self.split.train),
            validation_pictures=len(self.split.validation),
            history=tuple(self.history),
            seconds=sum(record.seconds for record in self.history),
            unreadable=(*self.batches.pictures.unreadable.values(), *self.validation.pictures.unreadable.values()),
            settings=self.settings,
            ten_crop_accuracy=self._ten_crop_accuracy(),
        )

    def _ten_crop_accuracy(self) -> float | None:
        if not self.settings.ten_crop:
            return None
        model = checkpoint.load(self.output)[0].to(self.team.device)  # of the epoch that was kept
        return ten_crop_accuracy(model, self.split.validation, self.recipe, self.settings.batch_size, self.team)


def interrupted_settings(output: Path) -> TrainSettings:
    """Those of the interrupted training that writes `output`. Raises ArtifactMissing, ArtifactCorrupt, as `state.read`."""
    return TrainSettings(**state.read(output).settings)


def _network(settings: TrainSettings, split: Split) -> ModelConfig:
    """Of as many classes as the pictures have. Raises InputError where others were expected."""
    found, expected = split.train.classes, settings.classes
    if expected not in (0, len(found)):
        raise InputError(
            f"{split.train.location} holds {len(found)} classes ({', '.join(found[:5])}{', …' if found[5:] else ''})",
            expected=f"{expected}, by --classes",
            fix="take the folders out that are no class, or leave --classes out",
        )
    return ModelConfig(settings.arch, len(found), settings.width, settings.dropout, settings.input_size)


def _lineage(weights: str) -> tuple[Lineage, ...]:
    """What a checkpoint of ours that a training starts from was made from, itself first; () for a file from elsewhere."""
    try:
        return Artifact.open(weights, check_hash=False).lineage()
    except AlexnetDeployError:
        return ()


@contextmanager
def _own_random_state() -> Iterator[None]:
    """torch's random state and its choice of algorithms are the process's: what training does to them is undone."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        yield
