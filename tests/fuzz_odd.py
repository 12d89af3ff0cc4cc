"""Odd graphs (see `odd_graphs`) through adopt, quantisation and Runtime: run in a process of its own, which a crash would end.

python -m tests.fuzz_odd SEED COUNT FOLDER [--plans]     prints how many ended in what, as JSON; two plans of each as well
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.onnx_graph import adopt
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import normalise
from alexnet_deploy.quantization.calibration import calibrate
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt.build import build
from alexnet_deploy.types import Flavour, GraphForm, Precision
from tests.odd_graphs import odd_graph

Float32 = npt.NDArray[np.float32]
LEARNT, SHOWN = 32, 6
LEAST_ADOPTED_DB = 70.0
# What it is written as -> precision, form, and the least signal to noise that rounding explains, whatever the network.
FORMS = {
    "fp16.onnx": (Precision.FP16, GraphForm.TENSORRT, 35.0),
    "int8.onnx": (Precision.INT8, GraphForm.TENSORRT, 4.0),
    "int8.cpu.onnx": (Precision.INT8, GraphForm.CPU, 4.0),
}


def fuzz_odd(seeds: range, folder: Path, *, plans: bool = False) -> Counter[str]:
    """Each graph goes the whole way and its answers hold, or one of our own errors says why not."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        try:
            outcomes[_go(seed, folder)] += 1
            if plans:
                outcomes[_build(folder)] += 1
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    return outcomes


def _go(seed: int, folder: Path) -> str:
    """Writes adopted.onnx, and the graph in each of the FORMS, into `folder`."""
    foreign = odd_graph(seed)
    path = folder / "odd.onnx"
    onnx.save(foreign.model, path)
    pictures = made_up(foreign.recipe, LEARNT + SHOWN, seed)
    shown = np.stack([pictures.picture(index) for index in range(LEARNT, LEARNT + SHOWN)])
    expected = answers(foreign.model, normalise(shown, foreign.recipe))
    model = adopt(path, foreign.recipe, output=folder / "adopted.onnx")
    assert decibels(expected, logits(model, shown)) > LEAST_ADOPTED_DB
    calibration = calibrate(model, pictures.subset(range(LEARNT)), method="minmax")
    for name, (precision, form, least_db) in FORMS.items():
        written = quantize(model, folder / name, precision, form=form, calibration=calibration)
        found = decibels(expected, logits(written, shown))
        assert found > least_db, f"{name}: {found:.1f} dB"
    return "answered"


def _build(folder: Path) -> str:
    try:
        for name in ("fp16.onnx", "int8.onnx"):
            build(Artifact.open(folder / name), folder / "odd.plan", flavour=Flavour.TENSORRT_RTX)
    except AlexnetDeployError as error:
        return f"{type(error).__name__}: {error.found}"
    return "two plans"


def made_up(recipe: Preprocess, count: int, seed: int) -> PictureSet:
    """Smooth coloured pictures: noise alone would average to the same answer for all."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3)).astype(np.float32)
    whole = np.kron(coarse, np.ones((1, -(-recipe.height // 4), -(-recipe.width // 4), 1), np.float32))
    pixels = whole[:, : recipe.height, : recipe.width] + random.normal(0, 12, (count, recipe.height, recipe.width, 3))
    taken = pixels.clip(0, 255).astype(np.uint8)
    return PictureSet("made up", (), np.full(count, -1), tuple(taken), [str(i) for i in range(count)])


def answers(model: ModelProto, batch: npt.NDArray[np.generic]) -> Float32:
    """Logits, or logarithms of probabilities, as onnxruntime has them of the graph as it is."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    held = given.shape[0] if isinstance(given.shape[0], int) else len(batch)
    if given.type == "tensor(uint8)":
        batch = batch.astype(np.uint8)
    made = np.concatenate([session.run(None, {given.name: batch[i : i + held]})[0] for i in range(0, len(batch), held)])
    made = made.reshape(len(batch), -1)
    if any(node.op_type == "Softmax" and node.output[0] == model.graph.output[0].name for node in model.graph.node):
        return np.log(np.maximum(made, np.finfo(np.float32).tiny))
    return made


def logits(artifact: Artifact, shown: npt.NDArray[np.uint8]) -> Float32:
    with Runtime(artifact.path, "cpu") as runtime:
        return runtime.logits(shown)


def decibels(expected: Float32, found: Float32) -> float:
    """How far the differences between classes are above their error; differences of less than a hundredth count as such."""
    assert found.shape == expected.shape, f"{found.shape} for {expected.shape}"
    wanted, answered = (
        each.astype(np.float64) - each.mean(axis=1, keepdims=True, dtype=np.float64) for each in (expected, found)
    )
    power = max(np.square(wanted).sum(), 1e-4 * np.square(expected, dtype=np.float64).sum())
    return float(10 * np.log10((power + 1e-30) / (np.square(wanted - answered).sum() + 1e-30)))


if __name__ == "__main__":
    first, count, where, *more = sys.argv[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = fuzz_odd(range(int(first), int(first) + int(count)), Path(where), plans="--plans" in more)
    json.dump(done, sys.stdout, indent=1)
