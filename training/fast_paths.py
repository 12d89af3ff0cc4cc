"""Which way of computing a step is the fastest on this machine: measured once for a network, and remembered.

The ways give the same result but for rounding, which is why one is settled before the first step: it stands in the settings, so
in the manifest, and a resumed training keeps it. What was found is kept in the user's cache under everything that it depends on:
another training with the same seed computes in the same way, to the same bits, whatever the clock would say this time.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from os import environ
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import torch
from torch import nn

from alexnet_deploy import __version__, logs
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.files import replacing
from alexnet_deploy.folders import cache_folder
from alexnet_deploy.machine import cpu_name, has_bf16
from alexnet_deploy.types import Progress, silent
from training.batches import Seen
from training.distributed import Team
from training.dropout import keys_of
from training.learner import Learner
from training.model import ModelConfig, build_model
from training.settings import Arithmetic, Layout, TrainSettings

log = logs.logger(__name__)

# Below so many floating-point operations of a whole training, trying does not pay: about three minutes, and half an hour, on
# two cores. They are counted and not timed: the answer must not depend on what else the machine does.
_WORTH_TRYING = 1e13
_WORTH_COMPILING = 1e14
_GPU = 50  # times as many there
_PASSES = 3  # forwards, backwards to the inputs, backwards to the weights
_FASTER = 1.05  # what another way has to be: noise does not choose it
_ROUNDS = 5
_ROUND_SECONDS = 0.3
_DECISIVE = ("arch", "width", "dropout", "input_size", "batch_size", "optimiser", "ema", "features_lr")


@dataclass(frozen=True, slots=True)
class Way:
    """How a step is computed; see TrainSettings."""

    layout: Layout = "nhwc"
    arithmetic: Arithmetic = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.layout}, {self.arithmetic}, {'compiled' if self.compiled else 'eager'}"


FIELDS = ("layout", "arithmetic", "compiled")
_WAYS = [Way(*parts) for parts in product(get_args(Layout), get_args(Arithmetic), (False, True))]


def choose(
    settings: TrainSettings,
    config: ModelConfig,
    pictures: int,
    team: Team,
    *,
    fixed: Collection[str] = (),
    progress: Progress = silent,
) -> TrainSettings:
    """The settings with the `layout`, `arithmetic` and `compiled` that are fastest here.

    Args:
        settings: what else is trained; a short training is left as it is.
        config: the network.
        pictures: of an epoch.
        team: the first of its processes tries, and all take its answer.
        fixed: which of the three stay as they are.
        progress: told of what is tried.
    """
    found = _WAYS.index(_fastest(settings, config, pictures, team, fixed, progress)) if team.leads else 0
    way = _WAYS[int(team.total(found)[0])]
    return replace(settings, layout=way.layout, arithmetic=way.arithmetic, compiled=way.compiled)


def check_compiler(device: str) -> None:
    """Raises AlexnetDeployError where torch.compile has nothing to compile with."""
    if can_compile(device):
        return
    if device == "cpu":
        raise AlexnetDeployError("--compiled without a C++ compiler", expected="g++ or clang++, for torch.compile", fix="--eager")
    raise AlexnetDeployError("--compiled without the package triton", expected="it, for torch.compile", fix="--eager")


def can_compile(device: str) -> bool:
    if device != "cpu":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (environ.get("CXX", ""), "g++", "clang++") if name)


def _fastest(
    settings: TrainSettings, config: ModelConfig, pictures: int, team: Team, fixed: Collection[str], progress: Progress
) -> Way:
    given = Way(settings.layout, settings.arithmetic, settings.compiled)
    changes = list(_changes(given, fixed, team.device, _operations(settings, config, pictures)))
    if not changes:
        return given
    place = _place(settings, config, given, fixed, team)
    if known := _remembered(place):
        return known
    fastest = given
    for done, change in enumerate(changes):
        other = replace(fastest, **change)
        progress("fast paths", done, len(changes), str(other))
        gain = speed_up(settings, config, fastest, other, team)
        log.info("%s: %.2f times as fast as %s", other, gain, fastest)
        fastest = other if gain >= _FASTER else fastest
    progress("fast paths", len(changes), len(changes), str(fastest))
    if not _remember(place, fastest):
        log.warning(
            "%s cannot be written to: computing as ever, for the same seed is to give the same weights again", place.parent
        )
        return given
    return fastest


def _changes(given: Way, fixed: Collection[str], device: str, operations: float) -> Iterator[dict[str, Any]]:
    """What may be faster here; each is tried on top of those before it that were."""
    if operations < _WORTH_TRYING * (1 if device == "cpu" else _GPU):
        return
    if "layout" not in fixed:
        yield {"layout": "nchw" if given.layout == "nhwc" else "nhwc"}
    if "arithmetic" not in fixed and given.arithmetic == "fp32" and _computes_bf16(device):
        yield {"arithmetic": "bf16"}
    worth_it = operations >= _WORTH_COMPILING * (1 if device == "cpu" else _GPU)
    if "compiled" not in fixed and not given.compiled and worth_it and can_compile(device):
        yield {"compiled": True}


def _operations(settings: TrainSettings, config: ModelConfig, pictures: int) -> float:
    """Of the whole training."""
    counted = []

    def count(layer: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        counted.append(2 * layer.get_parameter("weight")[0].numel() * made.numel())

    with torch.device("meta"), torch.no_grad():  # shapes alone
        model = build_model(config).eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        model(torch.empty(1, 3, config.input_size, config.input_size))
    return float(sum(counted) * _PASSES * pictures * settings.epochs)


def _computes_bf16(device: str) -> bool:
    """In hardware; emulated, it is slower than float32."""
    return has_bf16() if device == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)


def speed_up(settings: TrainSettings, config: ModelConfig, one: Way, other: Way, team: Team) -> float:
    """How many times as fast the other is, measured in turns on a batch that is in memory; 0 where it does not run."""
    batch_size = settings.batch_size // team.size
    seen = _random_batch(batch_size, config)
    seconds: list[list[float]] = [[], []]
    with ExitStack() as stack:
        learners = []
        for way in (one, other):
            chosen = replace(settings, layout=way.layout, arithmetic=way.arithmetic, compiled=way.compiled)
            learners.append(stack.enter_context(closing(Learner(config, chosen, batch_size, Team(device=team.device)))))
            learners[-1].begin_epoch()
        steps = [partial(learner.step, seen, batch_size, 0, settings.lr / 100) for learner in learners]
        try:
            for step in (*steps, *steps):
                step()
            for _ in range(_ROUNDS):
                for step, taken in zip(steps, seconds, strict=True):
                    taken.append(_seconds_of(step, team.device))
        except RuntimeError as error:  # a compiler that fails; a GPU whose memory is too small for two
            log.info("%s does not run: %s", other, error)
            return 0.0
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _random_batch(count: int, config: ModelConfig) -> Seen:
    random = np.random.default_rng(0)
    pictures = random.standard_normal((count, config.input_size, config.input_size, 3), np.float32)
    return Seen(pictures, random.integers(0, config.classes, count), keys_of(0, 0, range(count)))


def _seconds_of(step: Callable[[], object], device: str) -> float:
    """Of one step, by the mean of as many as fit into a round."""
    begun, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begun < _ROUND_SECONDS:
        step()
        count += 1
        if device != "cpu":
            torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / count


def _place(settings: TrainSettings, config: ModelConfig, given: Way, fixed: Collection[str], team: Team) -> Path:
    """Where the answer is remembered: another one for everything that it depends on."""
    device = cpu_name() if team.device == "cpu" else torch.cuda.get_device_name(team.device)
    facts = [
        __version__,
        torch.__version__,
        device,
        torch.get_num_threads(),
        team.size,
        config.classes,
        str(given),
        sorted(fixed),
    ]
    facts += [getattr(settings, name) for name in _DECISIVE]
    return cache_folder() / "fast-paths" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.json"


def _remembered(place: Path) -> Way | None:
    try:
        return msgspec.json.decode(place.read_bytes(), type=Way)
    except (OSError, msgspec.DecodeError):
        return None


def _remember(place: Path, way: Way) -> bool:
    try:
        with replacing(place) as temporary:
            temporary.write_bytes(msgspec.json.encode(way))
    except AlexnetDeployError:
        return False
    return True
