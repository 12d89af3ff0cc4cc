"""Training: epochs of steps, deterministic for a seed, and resumable to the bit.

Every random number is drawn from (seed, epoch) or (seed, epoch, picture): the order of the pictures, how they are varied, their
dropout. So the state of a training is its weights, its momentum, its average and where it stands; `state.py` keeps it
beside the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from alexnet_deploy import logs
from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import AlexnetDeployError, DataError, DeviceMissing, InputError
from alexnet_deploy.manifest import DataReference, Lineage, TrainingRecord
from alexnet_deploy.types import Progress, silent
from training import checkpoint, state
from training.average import Average
from training.batches import Seen, ValidationBatches
from training.data import Split, open_split
from training.distributed import ALONE, Team, team
from training.dropout import drop_by_picture, give_keys
from training.measure import Sums, measure, ten_crop_accuracy, to_device
from training.model import ModelConfig, build_model, preprocessing
from training.optimiser import build_optimiser, set_learning_rate
from training.qat import Ranges, Rounded, freeze_statistics
from training.records import EpochRecord, TrainReport, Unwatched, Watcher, best_epoch
from training.replicas import Replicas, worthwhile
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
        config = ModelConfig(
            settings.arch, _number_of_classes(split, settings.classes), settings.width, settings.dropout, settings.input_size
        )
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
        torch.manual_seed(settings.seed)
        self.model = build_model(config).to(team.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's overloads
        self.optimiser = build_optimiser(self.model, settings)
        drop_by_picture(self.model)
        self.average = Average(self.model, settings.ema) if settings.ema else None
        self.parents: tuple[Lineage, ...] = ()
        self.ranges: Ranges | None = None
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

    @cached_property
    def deployed(self) -> nn.Module:
        """The network as it will run: with an engine's rounding, if it is trained for that."""
        return Rounded(self.model, self.ranges.layers) if self.ranges else self.model

    @cached_property
    def network(self) -> nn.Module:
        """What a step calls."""
        network = self.team.share(self.deployed)
        return torch.compile(network) if self.settings.compiled else network  # type: ignore[return-value]

    @cached_property
    def replicas(self) -> Replicas:
        """The network once for each core that computes apart; made at the first step, in the mode that it trains in."""
        alone = self.team.size == 1 and self.team.device == "cpu" and not self.settings.compiled
        return Replicas(self.network, worthwhile(self.model, self.batches.batch_size) if alone else 1)

    def close(self) -> None:
        """Ends its threads and processes."""
        self.batches.close()
        if "replicas" in self.__dict__:  # it has taken a step
            self.replicas.close()

    def begin(self, ranges: Ranges | None = None) -> None:
        """Takes the weights to start from, if any, and writes the state before the first step."""
        self.ranges = ranges
        if self.settings.weights:
            start_from(self.model, read_weights(self.settings.weights, self.progress))
            self.parents = _lineage(self.settings.weights)
            if self.average:
                self.average.restart()
        self.save_state()
        self.team.wait()

    def train_epoch(self, stop: StopRequest, save_seconds: float) -> None:
        """From `step` to the end of the epoch."""
        self.model.train()
        if self.settings.features_lr == 0:
            self.model.features.eval()  # BatchNorm's statistics and dropout are frozen too
        if self.ranges:
            freeze_statistics(self.model)
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
        """One batch forwards and backwards, and one update of the weights.

        Args:
            seen: this process's part of the batch.
            stopping: whether this process was asked to end.

        Returns:
            Whether any was.
        """
        settings = self.settings
        set_learning_rate(self.optimiser, settings.learning_rate(self.steps_done, self.steps))
        count, asked = self.team.total(len(seen.labels), stopping)
        if not count:  # none of this step's pictures could be read
            return asked > 0
        self.optimiser.zero_grad()
        # A mean over all processes' pictures: each adds up its own, and DistributedDataParallel divides by their number.
        backward = partial(self._backward, share=self.team.size / count)
        for losses, correct in self.replicas.each(backward, seen):
            self.sums.add(losses, correct)
        self.replicas.gather_gradients()
        self.optimiser.step()
        if self.average:
            self.average.update(self.steps_done)
        if self.team.device == "cpu":  # where reading costs nothing
            self._check_loss()
        return asked > 0

    def _backward(self, network: nn.Module, seen: Seen, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Leaves gradients of `share` times the summed loss in the network. Losses, and which answers were right, (n,)."""
        pictures, labels = to_device(seen, self.team.device)
        if seen.keys is not None:
            give_keys(network, torch.from_numpy(seen.keys).to(self.team.device))
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.settings.arithmetic == "bf16"):
            logits = network(pictures)
        losses = self._losses(logits.float(), labels, seen)
        (losses.sum() * share).backward()  # type: ignore[no-untyped-call]
        return losses.detach(), logits.argmax(1) == labels

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Cross-entropy of each picture, (n,)."""
        smoothing = self.settings.label_smoothing
        own = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        if seen.others is None or seen.shares is None:
            return own
        shares, others = (torch.from_numpy(values).to(logits.device) for values in (seen.shares, seen.others))
        other = nn.functional.cross_entropy(logits, others, label_smoothing=smoothing, reduction="none")
        return shares * own + (1 - shares) * other

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
            validation_loss, validation_accuracy = measure(self.deployed.eval(), self.validation, self.team)
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
        if self.average is None:
            yield
        else:
            with self.average.in_place():
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
        return checkpoint.save(
            self.model,
            self.output,
            preprocess=self.recipe,
            labels=self.split.train.classes,
            pictures=self.data,
            held_out=self.split.validation.location,
            parents=self.parents,
            calibration=self.ranges.record if self.ranges else None,
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
            ranges=self.ranges,
        )
        state.save(self.output, standing, self.model, self.optimiser, self.average)

    def restore(self) -> None:
        """Takes up the state beside the output."""
        standing = state.load(self.output, asdict(self.settings), self.data.sha256, self.model, self.optimiser, self.average)
        self.epoch, self.step = standing.epoch, standing.step
        self.parents, self.ranges = standing.parents, standing.ranges
        self.history = [EpochRecord(**record) for record in standing.history]
        if self.team.leads:
            self.sums = Sums(self.team.device, **standing.sums)
            for record in self.history:
                self.watch.epoch(record)

    def report(self) -> TrainReport:
        return TrainReport(
            checkpoint=self.output,
            parameters=sum(p.numel() for p in self.model.parameters()),
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


def _number_of_classes(split: Split, expected: int) -> int:
    """As many as the pictures have. Raises InputError where others were expected."""
    found = split.train.classes
    if expected not in (0, len(found)):
        raise InputError(
            f"{split.train.location} holds {len(found)} classes ({', '.join(found[:5])}{', …' if found[5:] else ''})",
            expected=f"{expected}, by --classes",
            fix="take the folders out that are no class, or leave --classes out",
        )
    return len(found)


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
