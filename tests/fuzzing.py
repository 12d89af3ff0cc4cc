"""Feeding damaged graphs and manifests to whatever reads them; the short run and the long one differ only in how many."""

from __future__ import annotations

import random as randomness
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import foreign_models
import msgspec
import numpy as np
from mutations import damaged, twisted, twisted_json

from alexnet_deploy.artifact import Artifact, manifest_path
from alexnet_deploy.errors import AlexnetDeployError, FallbackWarning
from alexnet_deploy.inspection import inspect
from alexnet_deploy.onnx_graph import adopt, load_graph
from alexnet_deploy.onnx_graph.statistics import statistics
from alexnet_deploy.runtime import Runtime

LONGEST_SENTENCE = 2000


def fuzz_graphs(seeds: Iterable[int], folder: Path) -> Counter[str]:
    """Adopts one damaged graph a seed. Anything but success or a typed error of one line escapes, with the seed in a note."""
    models = [maker() for maker in foreign_models.ACCEPTED.values()]
    path = folder / "model.onnx"
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        random = randomness.Random(seed)
        foreign = random.choice(models)
        if random.random() < 0.3:
            path.write_bytes(damaged(foreign.model.SerializeToString(), random))
        else:
            path.write_bytes(twisted(foreign.model, random).SerializeToString())
        with _typed_errors_only(outcomes, seed):
            artifact = adopt(path, foreign.recipe, output=folder / "adopted.onnx")
            statistics(load_graph(artifact.path))
            outcomes["adopted"] += 1
        assert {p.name for p in folder.iterdir()} <= {"model.onnx", "adopted.onnx", "adopted.onnx.json"}, f"seed {seed}"
    return outcomes


def fuzz_manifests(seeds: Iterable[int], artifact: Artifact) -> Counter[str]:
    """Opens, inspects and runs an artifact with one damaged manifest a seed, and puts the sound one back."""
    beside = manifest_path(artifact.path)
    sound = beside.read_bytes()
    outcomes: Counter[str] = Counter()
    try:
        for seed in seeds:
            random = randomness.Random(seed)
            if random.random() < 0.4:
                beside.write_bytes(damaged(sound, random))
            else:
                beside.write_bytes(msgspec.json.encode(twisted_json(msgspec.json.decode(sound), random)))
            with _typed_errors_only(outcomes, seed):
                inspect(artifact.path)
                Artifact.open(artifact.path).twin()
                _answers(artifact.path)
                outcomes["opened"] += 1
    finally:
        beside.write_bytes(sound)
    return outcomes


def _answers(path: Path) -> None:
    """Pictures get an answer each, of the right shape, whatever the recipe and the batch sizes have become."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    with warnings.catch_warnings(), Runtime(path, "cpu") as runtime:
        warnings.simplefilter("ignore", FallbackWarning)
        np.testing.assert_allclose(runtime.predict(pictures).sum(axis=1), 1, atol=1e-5)
        assert len(runtime.classify(pictures, top=100)) == 3


@contextmanager
def _typed_errors_only(outcomes: Counter[str], seed: int) -> Iterator[None]:
    """Counts an error of ours by its class, after a look at its words; any other is raised with the seed that found it."""
    try:
        yield
    except AlexnetDeployError as error:
        _check_words(error, seed)
        outcomes[type(error).__name__] += 1
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise


def _check_words(error: AlexnetDeployError, seed: int) -> None:
    """An error is one line that a person can read."""
    assert "\n" not in str(error), f"seed {seed}"
    assert len(str(error)) < LONGEST_SENTENCE, f"seed {seed}"
