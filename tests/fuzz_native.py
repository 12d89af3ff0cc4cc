"""Damaged plans and graphs for TensorRT's native code, which could crash: run in a process of its own.

python tests/fuzz_native.py plans|graphs SEED COUNT FOLDER     prints how many ended in what, as JSON
"""

from __future__ import annotations

import json
import random as randomness
import sys
import warnings
from collections import Counter
from pathlib import Path

from alexnet_deploy.artifact import Artifact, manifest_path, write_artifact
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.manifest import Manifest
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt import adapter
from alexnet_deploy.trt.build import build
from alexnet_deploy.types import Flavour
from tests.mutations import damaged, twisted, twisted_json
from tests.tiny import float_batch, tiny_artifact, tiny_graph

RTX = Flavour.TENSORRT_RTX


def fuzz_plans(seeds: range, folder: Path) -> Counter[str]:
    """A damaged plan with a sound manifest, with a damaged one, and alone; then straight into TensorRT."""
    bindings = adapter.load(RTX)
    sound = build(tiny_artifact(folder / "tiny.onnx"), folder / "tiny.plan", flavour=RTX).artifact
    content, manifest = sound.path.read_bytes(), manifest_path(sound.path).read_bytes()
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        random = randomness.Random(seed)
        plan = damaged(content, random)
        # A wrong plan whose manifest vouches for it: the hash is no help, TensorRT's own checks must do.
        vouched = write_artifact(sound.path, sound.manifest, plan)
        outcomes[_run(vouched.path, "cuda", seed)] += 1
        assert bindings.engine(plan) is None or plan == content, f"seed {seed}"
        assert bindings.invalidity(plan), f"seed {seed}"
        sound.path.write_bytes(plan)
        manifest_path(sound.path).write_bytes(manifest)
        outcomes[_run(sound.path, "auto", seed)] += 1
        sound.path.write_bytes(content)
        manifest_path(sound.path).write_bytes(json.dumps(twisted_json(json.loads(manifest), random)).encode())
        outcomes[_run(sound.path, "auto", seed)] += 1
    return outcomes


def fuzz_graphs(seeds: range, folder: Path) -> Counter[str]:
    """A damaged graph whose manifest vouches for it, built."""
    sound = tiny_artifact(folder / "tiny.onnx")
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        random = randomness.Random(seed)
        graph = twisted(tiny_graph(), random).SerializeToString()
        manifest: Manifest = sound.manifest
        model: Artifact = write_artifact(sound.path, manifest, damaged(graph, random) if seed % 4 == 0 else graph)
        try:
            build(model, folder / "out.plan", flavour=RTX)
            outcomes["built"] += 1
        except AlexnetDeployError as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        assert not list(folder.glob(".*.tmp")), f"seed {seed}"
    return outcomes


def _run(path: Path, device: str, seed: int) -> str:
    try:
        with warnings.catch_warnings(), Runtime(path, device) as runtime:
            warnings.simplefilter("ignore")
            runtime.logits(float_batch(2))
    except AlexnetDeployError as error:
        return type(error).__name__
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    return "answered"


if __name__ == "__main__":
    what, first, count, where = sys.argv[1:]
    seeds = range(int(first), int(first) + int(count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = {"plans": fuzz_plans, "graphs": fuzz_graphs}[what](seeds, Path(where))
    json.dump(done, sys.stdout)
