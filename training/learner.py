"""A network that learns: one step forwards, backwards and on, on whatever machine."""

from __future__ import annotations

from functools import cached_property, partial

import torch
from torch import nn

from training.average import Average
from training.batches import Seen
from training.distributed import ALONE, Team
from training.dropout import drop_by_picture, give_keys
from training.measure import to_device
from training.model import ModelConfig, build_model
from training.optimiser import build_optimiser, set_learning_rate
from training.qat import Ranges, Rounded, freeze_statistics
from training.replicas import Replicas, worthwhile
from training.settings import TrainSettings


class Learner:
    """A network, and what updates it.

    Attributes:
        model: its weights are drawn with the settings' seed.
        optimiser, average: what they remember is part of the state; no average where none is kept.
        ranges: to round by; set them before the first step.
    """

    def __init__(self, config: ModelConfig, settings: TrainSettings, batch_size: int, team: Team = ALONE) -> None:
        self.settings = settings
        self.team = team
        torch.manual_seed(settings.seed)
        self.model = build_model(config).to(team.device)
        if settings.layout == "nhwc":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's overloads
        self.optimiser = build_optimiser(self.model, settings)
        drop_by_picture(self.model)
        self.average = Average(self.model, settings.ema) if settings.ema else None
        self.ranges: Ranges | None = None
        self._batch_size = batch_size

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
        return Replicas(self.network, worthwhile(self.model, self._batch_size) if alone else 1)

    def begin_epoch(self) -> None:
        """Everything learns that is not frozen."""
        self.model.train()
        if self.settings.features_lr == 0:
            self.model.features.eval()  # BatchNorm's statistics and dropout are frozen too
        if self.ranges:
            freeze_statistics(self.model)

    def step(self, seen: Seen, count: int, number: int, learning_rate: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """One batch forwards and backwards, and one update of the weights.

        Args:
            seen: this process's part of the batch.
            count: pictures of all processes.
            number: of the step, in the whole training.
            learning_rate: of this step.

        Returns:
            For each part of the pictures, their losses and which answers were right, both (n,).
        """
        set_learning_rate(self.optimiser, learning_rate)
        self.optimiser.zero_grad()
        # A mean over all processes' pictures: each adds up its own, and DistributedDataParallel divides by their number.
        found = self.replicas.each(partial(self._backward, share=self.team.size / count), seen)
        self.replicas.gather_gradients()
        self.optimiser.step()
        if self.average:
            self.average.update(number)
        return found

    def close(self) -> None:
        """Ends its threads."""
        if "replicas" in self.__dict__:  # it has taken a step
            self.replicas.close()

    def _backward(self, network: nn.Module, seen: Seen, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Leaves gradients of `share` times the summed loss in the network."""
        pictures, labels = to_device(seen, self.team.device)
        if self.settings.layout == "nchw":
            pictures = pictures.contiguous()
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
