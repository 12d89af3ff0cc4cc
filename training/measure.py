"""Loss and accuracy: sums while a training goes on, and on the validation pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from alexnet_deploy.errors import DataError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import PictureSet
from training.batches import Seen, ValidationBatches
from training.distributed import Team

_TEN_CROP_MARGIN = 16 / 224  # of the input size: crops of 224 in 256 pixels

Network = Callable[[torch.Tensor], torch.Tensor]


class Sums:
    """Of an epoch's pictures so far; kept on the device, so that no step waits to be read."""

    def __init__(self, device: str, loss: float = 0.0, correct: float = 0.0, count: int = 0, seconds: float = 0.0) -> None:
        self._sums = torch.tensor([loss, correct], dtype=torch.float64, device=device)
        self.count = count
        self.seconds = seconds

    def add(self, losses: torch.Tensor, correct: torch.Tensor) -> None:
        """Of each picture of one step, both (n,)."""
        self._sums += torch.stack([losses.detach(), correct]).double().sum(1)
        self.count += len(losses)

    def read(self) -> tuple[float, float, int]:
        """Sum of the losses, and how many were right, of how many."""
        loss, correct = self._sums.tolist()
        return loss, correct, self.count

    def to_dict(self) -> dict[str, float]:
        """What __init__ takes."""
        loss, correct, count = self.read()
        return {"loss": loss, "correct": correct, "count": count, "seconds": self.seconds}


def to_device(seen: Seen, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 3, H, W) in the memory order channels_last, and their labels."""
    pictures = torch.from_numpy(seen.pictures).permute(0, 3, 1, 2)
    return pictures.to(device, non_blocking=True), torch.from_numpy(seen.labels).to(device, non_blocking=True)


@torch.inference_mode()
def measure(network: Network, batches: Iterable[Seen], team: Team) -> tuple[float, float]:
    """Mean loss and accuracy over all processes' pictures. Raises DataError where none can be read."""
    sums = Sums(team.device)
    for seen in batches:
        if not len(seen.labels):
            continue
        pictures, labels = to_device(seen, team.device)
        logits = network(pictures)
        sums.add(nn.functional.cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels)
    loss, correct, count = team.total(*sums.read())
    if not count:
        raise DataError("none of the validation pictures could be read", expected="whole pictures")
    return loss / count, correct / count


def ten_crop_accuracy(network: Network, pictures: PictureSet, recipe: Preprocess, batch_size: int, team: Team) -> float:
    """Accuracy of the mean of ten answers a picture: its corners and its centre, each mirrored as well.

    Krizhevsky et al. 2012, section 4.1. A deployed network gets the centre alone.
    """
    margin = round(_TEN_CROP_MARGIN * recipe.height)
    batches = ValidationBatches(pictures, recipe, batch_size, margin=margin, team=team)

    def mean_answer(wide: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(crop).softmax(1) for crop in _ten(wide, margin)]).mean(0).log()

    return measure(mean_answer, batches, team)[1]


def _ten(wide: torch.Tensor, margin: int) -> Iterator[torch.Tensor]:
    height, width = wide.shape[2] - 2 * margin, wide.shape[3] - 2 * margin
    for top, left in ((0, 0), (0, 2 * margin), (2 * margin, 0), (2 * margin, 2 * margin), (margin, margin)):
        crop = wide[:, :, top : top + height, left : left + width]
        yield crop
        yield crop.flip(3)
