"""Several processes that train one network, each on its part of every batch (torchrun, DistributedDataParallel).

Weights, momentum and averages are whole in every process: the largest AlexNet holds 61 million numbers, and with AdamW's two
moments, gradients and an average takes 1.2 GB. Sharding them (FSDP) is for networks that do not fit a device; here it would
only cost time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from alexnet_deploy.errors import InputError


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that train together.

    Attributes:
        rank: of this one.
        size: how many there are.
        device: that this one computes on.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and tells how it goes."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """Which pictures of each batch are this process's. Raises InputError where they cannot be shared evenly."""
        if batch_size < self.size or batch_size % self.size:
            raise InputError(
                f"a batch of {batch_size} for {self.size} processes",
                expected="a batch size that can be divided by their number, and as many pictures at least",
                fix=f"--batch-size {max(1, batch_size // self.size) * self.size}",
            )
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def total(self, *numbers: float) -> list[float]:
        """The sums over all processes; all of them have to call this."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def share(self, model: nn.Module) -> nn.Module:
        """The model, with gradients that are means over all processes.

        On GPUs, BatchNorm takes its statistics over the whole batch; PyTorch cannot do that on CPUs, where each process
        normalises by its own part's and the first one's running statistics are kept.
        """
        if self.size == 1:
            return model
        if self.device != "cpu":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(model)


ALONE = Team()


@contextmanager
def team(device: str) -> Iterator[Team]:
    """The processes that torchrun started, this one among them; or this one alone.

    gloo carries the gradients between CPUs, NCCL between GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    # torchrun keeps its store when it starts workers again: what the dead ones wrote there must not be read for the new ones'.
    store, rank, size = next(rendezvous("env://"))
    store = PrefixStore(f"start {_restarts()}", store)
    dist.init_process_group("gloo" if device == "cpu" else "nccl", store=store, rank=rank, world_size=size)
    try:
        yield Team(rank, size, device)
    finally:
        dist.destroy_process_group()


def leads() -> bool:
    """Whether this process is the first of those that torchrun started, or alone."""
    return os.environ.get("RANK", "0") == "0"


def was_restarted() -> bool:
    """Whether torchrun has started this process again, after one of the workers died (--max-restarts)."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
