"""The state of a training under way: `alexnet.safetensors.resume`, beside the checkpoint.

It is a safetensors file (weights, the optimiser's tensors, the average, and one JSON text in its metadata), written whole or
not at all.
The suffix keeps it from being taken for a checkpoint.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from alexnet_deploy.errors import ArtifactCorrupt, ArtifactMissing, DataError, InputError
from alexnet_deploy.files import replacing
from alexnet_deploy.manifest import Lineage
from training.learner import Learner
from training.qat import Ranges
from training.tensors import write_tensors

FORMAT = "alexnet-deploy-training/1"
_MODEL = "model."
_OPTIMISER = "optimiser."
_AVERAGE = "average."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Where a training stands.

    Attributes:
        settings: the TrainSettings, as a dict.
        data_sha256: of the training pictures.
        epoch, step: the next step to take.
        sums: what has been added up in the epoch so far.
        history: the records of the epochs that are done.
        parents: what the weights that it began with were made from.
        ranges: by which it rounds; None where it does not.
    """

    settings: dict[str, Any]
    data_sha256: str
    epoch: int
    step: int
    sums: dict[str, Any]
    history: list[dict[str, Any]]
    parents: tuple[Lineage, ...] = ()
    ranges: Ranges | None = None
    format: str = FORMAT


def state_path(output: Path) -> Path:
    """Where the state of the training that writes `output` is."""
    return output.with_name(output.name + ".resume")


def save(output: Path, state: TrainingState, learner: Learner) -> None:
    tensors = {_MODEL + name: _plain(tensor) for name, tensor in learner.model.state_dict().items()}
    if learner.average:
        tensors |= {_AVERAGE + name: _plain(tensor) for name, tensor in learner.average.tensors.items()}
    for index, entries in learner.optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            if value is not None:
                tensors[f"{_OPTIMISER}{index}.{name}"] = _plain(value)
    with replacing(state_path(output)) as temporary:
        write_tensors(tensors, temporary, {"state": msgspec.json.encode(state).decode()})


def read(output: Path) -> TrainingState:
    """The state beside `output`, without its tensors.

    Raises:
        ArtifactMissing: there is none.
        ArtifactCorrupt: it is damaged, or of another version.
    """
    return _read(output)[0]


def load(output: Path, settings: dict[str, Any], data_sha256: str, learner: Learner) -> TrainingState:
    """Fills a learner with the state beside `output`, and returns the rest of it.

    Raises:
        ArtifactMissing, ArtifactCorrupt: as `read`.
        InputError: it was started with other settings.
        DataError: the pictures have changed since.
    """
    state, tensors = _read(output)
    different = [
        f"{name} {state.settings.get(name)}, not {value}" for name, value in settings.items() if state.settings.get(name) != value
    ]
    if different:
        raise InputError(
            f"the interrupted training has {'; '.join(different)}",
            expected="the settings that it was started with",
            fix="leave these options out, or train without --resume",
        )
    if state.data_sha256 != data_sha256:
        raise DataError("the pictures have changed since the training was interrupted", fix="train without --resume")
    try:
        learner.model.load_state_dict(_under(_MODEL, tensors))
        if learner.average:
            learner.average.load(_under(_AVERAGE, tensors))
    except RuntimeError as error:
        raise _corrupt(output, "it holds another model's weights") from error
    optimiser = learner.optimiser
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _under(_OPTIMISER, tensors).items():
        index, _, entry = name.partition(".")
        entries.setdefault(int(index), {})[entry] = _laid_out_as(parameters[int(index)], tensor)
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    return state


def remove(output: Path) -> None:
    """The training is done: there is nothing to resume, and nothing that a kill left half-written."""
    state_path(output).unlink(missing_ok=True)
    for left in output.parent.glob(f".{glob.escape(output.name)}*.tmp"):
        left.unlink(missing_ok=True)


def _read(output: Path) -> tuple[TrainingState, dict[str, torch.Tensor]]:
    path = state_path(output)
    if not path.is_file():
        raise ArtifactMissing(
            f"there is no interrupted training of {output} ({path.name} does not exist)",
            expected="a training that was stopped before its last epoch",
            fix="train without --resume",
        )
    try:
        with safe_open(path, "pt") as file:
            state = msgspec.json.decode((file.metadata() or {}).get("state", ""), type=TrainingState)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    except (SafetensorError, msgspec.DecodeError, OSError) as error:
        raise _corrupt(output, str(error)) from error
    if state.format != FORMAT:
        raise _corrupt(output, f"its format is {state.format!r}, not {FORMAT!r}")
    return state, tensors


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _corrupt(output: Path, why: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{state_path(output)} cannot be resumed from: {why}", fix="train without --resume")


def _laid_out_as(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in the parameter's memory order: the fused optimisers pair their elements by address, whatever the strides."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def _plain(value: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value).detach().cpu().contiguous()
