"""The training loop: deterministic for a seed, and resumable to the bit.

Every random number is drawn from (seed, epoch, step): the order of the pictures, their crops, the dropout. So the state of
a training is its weights, its momentum and where it stands; `state.py` keeps it beside the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from alexnet_deploy.errors import DataError, DeviceMissing, InputError
from alexnet_deploy.manifest import Artifact, DataReference, TrainingRecord
from alexnet_deploy.pictures import Labels
from alexnet_deploy.preprocess import Batch
from alexnet_deploy.types import Progress, silent
from training import checkpoint, state
from training.batches import Augmentation, TrainingBatches, ValidationBatches
from training.data import Split, open_split
from training.model import AlexNet, ModelConfig, build_model, preprocessing
from training.signals import StopRequest
from training.weights import read_weights, start_from

_PROGRESS_SECONDS = 0.25

Optimiser = Literal["sgd", "adamw"]
Framing = Literal["centre", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Everything that decides what comes out of a training, but for the machine.

    Attributes:
        data: "demo" or a folder; see `data.open_split`.
        epochs: times that each picture is seen.
        patience: stop after so many epochs without a better validation accuracy, and keep the best epoch's weights; 0 trains
            all epochs and keeps the last. The validation accuracy is a choice's then, and a little too good.
        batch_size: pictures a step.
        optimiser: "sgd" (with Nesterov momentum) or "adamw".
        lr: highest learning rate; it warms up to it and decays to zero along a cosine. A narrower network bears more, about in
            inverse proportion to its width.
        warmup: share of all steps spent warming up.
        momentum: of SGD; of AdamW's first moment.
        weight_decay: share of each weight taken away, times the learning rate, in a step.
        label_smoothing: share of each target that is spread over all classes.
        framing: "centre" scales the shorter side and crops; "whole" scales both, for small pictures that fill their frame.
        weights: what to start from: "" (draw them), "imagenet", or a file; see `weights.read_weights`.
        features_lr: learning rate of the convolutions, as a share of the others'; 0 freezes them.
        flip, shift: see `batches.Augmentation`.
        arch, width, dropout, input_size: see `model.ModelConfig`.
        seed: of the weights, the order, the augmentation and the dropout.
    """

    data: str = "demo"
    arch: str = "alexnet"
    width: float = 1.0
    dropout: float = 0.5
    input_size: int = 224
    epochs: int = 30
    patience: int = 0
    batch_size: int = 128
    optimiser: Optimiser = "adamw"
    lr: float = 0.0003
    warmup: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    weights: str = ""
    features_lr: float = 1.0
    framing: Framing = "centre"
    flip: bool = True
    shift: float = 1 / 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= 100_000:
            raise InputError(f"{self.epochs} epochs", expected="1 to 100,000")
        if not 0 <= self.patience <= 100_000:
            raise InputError(f"a patience of {self.patience} epochs", expected="0 (train all) to 100,000")
        if not 1 <= self.batch_size <= 65_536:
            raise InputError(f"batch size {self.batch_size}", expected="1 to 65,536")
        if not 0 < self.lr <= 100:
            raise InputError(f"learning rate {self.lr}", expected="above 0, at most 100")
        if not 0 <= self.warmup < 1 or not 0 <= self.momentum < 1 or not 0 <= self.label_smoothing < 1:
            raise InputError("warmup, momentum or label smoothing out of range", expected="0 to below 1")
        if not 0 <= self.weight_decay <= 1 or not 0 <= self.shift <= 0.5:
            raise InputError("weight decay or shift out of range", expected="0 to 1, and 0 to 0.5")
        if self.optimiser not in get_args(Optimiser) or self.framing not in get_args(Framing):
            raise InputError(f"optimiser {self.optimiser!r}, framing {self.framing!r}", expected="sgd or adamw; centre or whole")
        if not 0 <= self.features_lr <= 10:
            raise InputError(f"features_lr {self.features_lr}", expected="0 (frozen) to 10")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed}", expected="0 to 2**63 - 1")

    def learning_rate(self, step: int, steps: int) -> float:
        """Of step 0 .. steps - 1 of the whole training: linear warm-up, then a half cosine to zero."""
        warm = round(self.warmup * steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def demo_settings(seed: int = 0) -> TrainSettings:
    """What `alexnet-deploy demo` trains with: a narrow AlexNet, about a minute on two cores. docs/decisions/0101 has the
    figures of what was tried.

    Nothing is mirrored: every shoe of the demo's pictures points left.
    """
    return TrainSettings(
        data="demo",
        framing="whole",
        width=0.25,
        input_size=96,
        dropout=0.2,
        epochs=12,
        batch_size=64,
        lr=0.001,
        weight_decay=0.01,
        flip=False,
        shift=0.03,
        seed=seed,
    )


def interrupted_settings(output: Path) -> TrainSettings:
    """Those of the interrupted training that writes `output`. Raises ArtifactMissing, ArtifactCorrupt, as `state.read`."""
    return TrainSettings(**state.read(output).settings)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch's figures. Accuracies are fractions; the training ones are of augmented pictures, with dropout, as seen."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    pictures_per_second: float


def best_epoch(history: Sequence[EpochRecord]) -> int:
    """The first one with the highest validation accuracy, counted from 1; 0 before any."""
    return max(history, key=lambda record: record.validation_accuracy).epoch if history else 0


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came out of a training.

    Attributes:
        checkpoint: path of the artifact.
        parameters: number of them.
        classes: their names.
        train_pictures, validation_pictures: how many, unreadable ones included.
        history: one record an epoch.
        seconds: of all epochs, those before a resume too.
        unreadable: why each picture that was left out could not be read.
    """

    checkpoint: Path
    parameters: int
    classes: tuple[str, ...]
    train_pictures: int
    validation_pictures: int
    history: tuple[EpochRecord, ...]
    seconds: float
    unreadable: tuple[str, ...]
    settings: TrainSettings = field(kw_only=True)

    @property
    def kept_epoch(self) -> int:
        """The one whose weights the checkpoint holds."""
        return best_epoch(self.history) if self.settings.patience else len(self.history)


@dataclass(slots=True)
class _Sums:
    """Running sums over the pictures of an epoch."""

    loss: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.loss += loss.item() * len(labels)
        self.correct += int((logits.argmax(1) == labels).sum())
        self.count += len(labels)


def train(
    settings: TrainSettings,
    output: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    save_seconds: float = 60.0,
    progress: Progress = silent,
) -> TrainReport:
    """Trains a network and writes a checkpoint after every epoch.

    The state to resume from is written beside it (`output` + ".resume") at the start, after every epoch, every
    `save_seconds`, and when the process is asked to stop (SIGINT, SIGTERM); it is removed when the training is done.

    Args:
        settings: what to train, on what, and how.
        output: the checkpoint, ending in .safetensors.
        resume: go on from the state beside `output`; the settings must be those it was started with.
        device: "cpu" or "cuda".
        save_seconds: how often a long epoch saves its state.
        progress: told of every few steps, with the loss, the accuracy and the speed.

    Raises:
        DataError: pictures that cannot be trained on.
        InputError: another suffix; settings out of range, or different from the interrupted training's; a loss that blows up.
        ArtifactMissing: nothing to resume from.
        DeviceMissing: no such device.
        KeyboardInterrupt, SystemExit: after SIGINT, SIGTERM, when the state has been saved.
    """
    output = checkpoint.checkpoint_path(output)
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(f"PyTorch {torch.__version__} sees no CUDA GPU", expected="a GPU and a CUDA build of torch")
    split = open_split(settings.data, settings.seed)
    with _own_random_state(), StopRequest() as stop:
        run = Training(settings, split, output, device, progress)
        if resume:
            run.restore()
        else:
            run.begin()
        while not run.done:
            run.train_epoch(stop, save_seconds)
            run.finish_epoch()
            stop.obey()
    state.remove(output)
    return run.report()


class Training:
    """A training under way: what `TrainingState` holds, and what is built anew from the settings."""

    def __init__(self, settings: TrainSettings, split: Split, output: Path, device: str, progress: Progress) -> None:
        classes = split.train.classes
        config = ModelConfig(settings.arch, len(classes), settings.width, settings.dropout, settings.input_size)
        self.recipe = preprocessing(config, whole=settings.framing == "whole")
        self.settings = settings
        self.split = split
        self.output = output
        self.device = device
        self.progress = progress
        self.data: DataReference = split.train.reference()
        self.batches = TrainingBatches(
            split.train, self.recipe, Augmentation(settings.flip, settings.shift), settings.batch_size, settings.seed
        )
        self.validation = ValidationBatches(split.validation, self.recipe, settings.batch_size)
        torch.manual_seed(settings.seed)
        self.model = build_model(config).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's overloads
        self.optimiser = build_optimiser(self.model, settings)
        self.loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        self.epoch = 0
        self.step = 0
        self.sums = _Sums()
        self.history: list[EpochRecord] = []

    @property
    def done(self) -> bool:
        """All epochs are trained, or none of the last `patience` was better than one before."""
        if self.epoch >= self.settings.epochs:
            return True
        return 0 < self.settings.patience <= self.epoch - best_epoch(self.history)

    def begin(self) -> None:
        """Takes the weights to start from, if any, and writes the state before the first step."""
        if self.settings.weights:
            start_from(self.model, read_weights(self.settings.weights, self.progress))
        self.save_state()

    def train_epoch(self, stop: StopRequest, save_seconds: float) -> None:
        """From `step` to the end of the epoch."""
        self.model.train()
        if self.settings.features_lr == 0:
            self.model.features.eval()  # BatchNorm's statistics and dropout are frozen too
        began = last_saved = last_shown = time.perf_counter()
        before = self.sums.seconds
        for batch, labels in self.batches.epoch(self.epoch, self.step):
            self.take_step(batch, labels)
            self.step += 1
            now = time.perf_counter()
            self.sums.seconds = before + now - began
            if stop.requested or now - last_saved >= save_seconds:
                self.save_state()
                last_saved = now
                stop.obey()
            if now - last_shown >= _PROGRESS_SECONDS:
                self._show()
                last_shown = now
        self._show()

    def take_step(self, batch: Batch, labels: Labels) -> None:
        """One batch forwards and backwards, and one update of the weights."""
        steps = self.batches.steps
        rate = self.settings.learning_rate(self.epoch * steps + self.step, self.settings.epochs * steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        torch.manual_seed(_mixed(self.settings.seed, self.epoch, self.step))  # the dropout of this step
        pictures, targets = self._tensors(batch, labels)
        if not len(targets):  # none of this step's pictures could be read
            return
        self.optimiser.zero_grad()
        logits = self.model(pictures)
        loss = self.loss(logits, targets)
        loss.backward()
        self.optimiser.step()
        self.sums.add(loss.detach(), logits.detach(), targets)
        if not math.isfinite(self.sums.loss):
            raise InputError(
                f"the loss became {loss.item()} in epoch {self.epoch + 1}, step {self.step + 1}",
                expected="a finite number",
                fix=f"--lr {self.settings.lr / 4:g}",
            )

    def finish_epoch(self) -> None:
        """Measures on the validation pictures, and writes the checkpoint and the state."""
        if not self.sums.count:
            raise DataError("none of the training pictures could be read", expected="whole pictures")
        measured = self._measure(self.validation)
        sums, steps = self.sums, self.batches.steps
        self.history.append(
            EpochRecord(
                epoch=self.epoch + 1,
                learning_rate=self.settings.learning_rate(self.epoch * steps, self.settings.epochs * steps),
                train_loss=sums.loss / sums.count,
                train_accuracy=sums.correct / sums.count,
                validation_loss=measured.loss / measured.count,
                validation_accuracy=measured.correct / measured.count,
                seconds=sums.seconds,
                pictures_per_second=sums.count / sums.seconds,
            )
        )
        self.epoch, self.step, self.sums = self.epoch + 1, 0, _Sums()
        if not self.settings.patience or best_epoch(self.history) == self.epoch:
            self.save_checkpoint()
        self.save_state()

    @torch.inference_mode()
    def _measure(self, batches: Iterable[tuple[Batch, Labels]]) -> _Sums:
        self.model.eval()
        sums = _Sums()
        for batch, labels in batches:
            pictures, targets = self._tensors(batch, labels)
            logits = self.model(pictures)
            if len(targets):
                sums.add(nn.functional.cross_entropy(logits, targets), logits, targets)
        if not sums.count:
            raise DataError("none of the validation pictures could be read", expected="whole pictures")
        return sums

    def _tensors(self, batch: Batch, labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (n, 3, H, W) in the memory order channels_last, and their labels."""
        pictures = torch.from_numpy(batch).permute(0, 3, 1, 2)
        return pictures.to(self.device), torch.from_numpy(labels).to(self.device)

    def _show(self) -> None:
        sums = self.sums
        if not sums.count:
            return
        note = (
            f"loss {sums.loss / sums.count:.3f}  accuracy {sums.correct / sums.count:.1%}  "
            f"{sums.count / sums.seconds:,.0f} pictures/s"
        )
        if self.history:
            note += f"  (validation {self.history[-1].validation_accuracy:.1%})"
        steps = self.batches.steps
        self.progress("train", self.epoch * steps + self.step, self.settings.epochs * steps, note)

    def save_checkpoint(self) -> Artifact:
        last = self.history[-1]
        return checkpoint.save(
            self.model,
            self.output,
            preprocess=self.recipe,
            labels=self.split.train.classes,
            pictures=self.data,
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
        standing = state.TrainingState(
            settings=asdict(self.settings),
            data_sha256=self.data.sha256,
            epoch=self.epoch,
            step=self.step,
            sums=asdict(self.sums),
            history=[asdict(record) for record in self.history],
        )
        state.save(self.output, standing, self.model, self.optimiser)

    def restore(self) -> None:
        """Takes up the state beside the output."""
        standing = state.load(self.output, asdict(self.settings), self.data.sha256, self.model, self.optimiser)
        self.epoch, self.step = standing.epoch, standing.step
        self.sums = _Sums(**standing.sums)
        self.history = [EpochRecord(**record) for record in standing.history]

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
        )


def build_optimiser(model: AlexNet, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser over all weights that are not frozen; each group has its `share` of the learning rate.

    `fused` updates them in one pass over the memory, where the plain loop takes a tenth of a step on a CPU.
    """
    model.features.requires_grad_(settings.features_lr > 0)
    groups = [
        {"params": list(part.parameters()), "share": share}
        for part, share in ((model.features, settings.features_lr), (model.classifier, 1.0))
        if share
    ]
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.momentum > 0, **common)
    return torch.optim.AdamW(groups, betas=(settings.momentum, 0.999), **common)


def _mixed(seed: int, epoch: int, step: int) -> int:
    """One 64-bit seed from three numbers."""
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0])


@contextmanager
def _own_random_state() -> Iterator[None]:
    """torch's random state and its choice of algorithms are the process's: what training does to them is undone."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        yield
