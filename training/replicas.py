"""One batch on several cores: each thread takes a part of it through a network of its own, on one core.

PyTorch splits every single operation over the cores. A step of a small network has two hundred of them, of a tenth of a
millisecond each; waking a thread for each takes as long as the work, and what is not split (the drawing of numbers, the
smaller layers) leaves the other cores idle. Threads with a part of the batch each meet once a step.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from training.batches import Seen

_LEAST_PICTURES = 16  # of a part
_MOST_WEIGHTS = 10_000_000  # beyond, an operation is long enough to be split, and gradients of one's own too much to add up

Made = TypeVar("Made")


class Replicas:
    """Networks with the same weights, in the same memory, and gradients of their own.

    BatchNorm normalises each part by itself, and the first one's running statistics are kept, as with several processes
    (Hoffer et al. 2017, arXiv:1705.08741, call it ghost batch normalisation).

    Args:
        network: the first of them, in the mode that it trains in.
        count: how many; one computes in the caller's thread, with all of PyTorch's.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        self._networks = [network, *(_replica(network) for _ in range(count - 1))]
        self._threads = _threads_apart(count) if count > 1 else None

    def __len__(self) -> int:
        return len(self._networks)

    def each(self, function: Callable[[nn.Module, Seen], Made], seen: Seen) -> list[Made]:
        """What `function` makes of each network and its part of the batch; parts without a picture are left out."""
        parts = [part for part in seen.parts(len(self)) if len(part.labels)]
        if self._threads is None:
            return [function(network, part) for network, part in zip(self._networks, parts, strict=True)]
        return list(self._threads.map(function, self._networks, parts))

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Adds those of all networks up in the first one's, always in the same order, and drops the others'."""
        first, *others = (list(network.parameters()) for network in self._networks)
        for other in others:
            for own, more in zip(first, other, strict=True):
                if own.grad is not None and more.grad is not None:
                    own.grad += more.grad
                more.grad = None

    def close(self) -> None:
        """Ends the threads."""
        if self._threads:
            self._threads.shutdown()


def worthwhile(model: nn.Module, batch_size: int) -> int:
    """How many replicas of a network to train with on the CPU."""
    small = sum(parameter.numel() for parameter in model.parameters()) <= _MOST_WEIGHTS
    return max(1, min(torch.get_num_threads(), batch_size // _LEAST_PICTURES)) if small else 1


def _replica(network: nn.Module) -> nn.Module:
    made = copy.deepcopy(network)
    for own, shared in zip(made.parameters(), network.parameters(), strict=True):
        own.data = shared.data
    return made


def _threads_apart(count: int) -> ThreadPoolExecutor:
    """Threads in each of which PyTorch has its share of the cores."""
    cores = torch.get_num_threads()
    all_there = threading.Barrier(count)

    def begin() -> None:
        torch.set_num_threads(max(1, cores // count))
        torch.get_num_threads()  # settles it: a thread takes the number over from the process when it is first asked for it
        all_there.wait()

    threads = ThreadPoolExecutor(count, "replica")
    for begun in [threads.submit(begin) for _ in range(count)]:
        begun.result()
    torch.set_num_threads(cores)  # which their start has changed for the whole process
    return threads
