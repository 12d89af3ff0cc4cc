"""The moving average of the weights: a smoother network than any single step's, measured and kept in their place.

Polyak and Juditsky 1992. The decay starts low, as in TensorFlow's ExponentialMovingAverage: min(decay, (1 + t) / (10 + t)).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """Of everything in a model's state: weights, biases, BatchNorm's statistics.

    Attributes:
        tensors: the average, by the names of the model's state.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.tensors: dict[str, torch.Tensor] = {}
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """The average is what the model holds now."""
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up an average that was saved. Raises RuntimeError where it is not this model's."""
        with self.in_place():
            self._model.load_state_dict(tensors)
            self.restart()

    @torch.no_grad()
    def update(self, steps_done: int) -> None:
        """Moves towards the model, after its step number `steps_done`."""
        share = 1 - min(self._decay, (1 + steps_done) / (10 + steps_done))
        state = self._model.state_dict()
        floating = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[name] for name in floating], [state[name] for name in floating], share)
        for name in state.keys() - set(floating):  # counters
            self.tensors[name].copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model holds the average."""
        own = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self._model.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self._model.load_state_dict(own)
