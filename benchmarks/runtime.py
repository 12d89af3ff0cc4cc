"""Runtime against its peers on the CPU: full-size AlexNet, 224 px.

    python benchmarks/runtime.py --make-only    its models, into .cache/benchmarks, once; 20 minutes, most of it training
    python benchmarks/runtime.py                everything, in some six minutes, and the report

Contenders take turns, and ratios are those within a round (see rounds.py). The peer "OpenVINO + NNCF" is there once
benchmarks/nncf_peer.py has made its model. Writes benchmarks/results/runtime-cpu.json, .md and the plots.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from rounds import Call, Rounds, in_rounds
from runtime_models import RECIPE, Models, make_models, tried_at
from runtime_report import Part, write_report

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import FallbackWarning
from alexnet_deploy.runtime import Runtime, softmax

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for tests.tiny
BATCHES = (1, 8, 32)
OURS, TUNED = "Runtime, INT8", "Runtime, as tuned"
ORT_DEFAULT, NNCF = "onnxruntime, its default quantisation", "OpenVINO + NNCF"
EAGER, COMPILED = "PyTorch eager, FP32", "torch.compile, FP32"
Tables = dict[str, Rounds]


def session(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A bare onnxruntime session with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    return lambda batch: opened.run(None, {name: batch})[0]


def floats(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 224, 224), np.float32)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


def write_again(batch: np.ndarray) -> None:
    """What an application does before each call: it writes its batch, which then lies in the cache, as far as it fits."""
    np.add(batch, 0, out=batch)


def _nothing() -> None:
    pass


def opened(path: Path, batch: np.ndarray, *, threads: int | None = None) -> Runtime:
    """An artifact on onnxruntime, settled."""
    return settled(Runtime(path, "cpu", "onnxruntime", threads=threads), batch)


def settled(runtime: Runtime, batch: np.ndarray) -> Runtime:
    """A Runtime that is as fast as it will be: it has had a call, and its memory is in place."""
    runtime.logits(batch)
    runtime.settle()
    return runtime


def overhead(models: Models, seconds: float) -> Tables:
    """Runtime.logits against the very session that is in it: batch 1, one thread, so that nothing but the call differs.

    The full-size INT8 network has more weights than the processor's cache has room (61 MB), so that each call finds the code
    of the one before thrown out. Its batch is written right before the call, as an application's is; the last table has one that
    lies where the call before left it, out of the cache.
    """
    from tests.tiny import float_batch, tiny_artifact

    found = {}
    new = floats(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_artifact(Path(folder) / "tiny.onnx").path
        for title, path, batch, before, share in (
            ("tiny network", tiny, float_batch(1), _nothing, 0.1),
            ("full-size INT8 network", models["int8"], new, partial(write_again, new), 0.35),
            ("full-size, tuned, network", models["tuned"], new, partial(write_again, new), 0.3),
            ("full-size INT8 network, an old batch", models["int8"], new, _nothing, 0.25),
        ):
            with opened(path, batch, threads=1) as runtime:
                bare = runtime._engine._session  # another session of the same file differs by 2 to 3 % already
                calls: dict[str, Call] = {
                    "bare session": lambda bare=bare, batch=batch: bare.run(None, {"input": batch}),
                    "Runtime.logits": lambda runtime=runtime, batch=batch: runtime.logits(batch),
                }
                found[title] = in_rounds(calls, share * seconds, warm=2, timed=5, rest=0, before=before)
    return found


def peers(models: Models, seconds: float) -> Tables:
    """A batch of prepared pictures in, logits out, on all cores: each peer as its own documentation calls it.

    The INT8 artifact as `build-engine` leaves it, on a network of random weights. Runtime has brought its memory into huge pages,
    as it does a second after loading; no other engine does. All of them first; then ours and onnxruntime's
    own in more rounds, a third of them with each of three sessions, since two sessions of one file differ by up to 5 %. The
    batch is written again before each call, as an application would.
    """
    import torch

    from training.checkpoint import load

    model, _ = load(models["torch"])
    torch._dynamo.config.automatic_dynamic_shapes = False  # code for each batch size apart: the best that it can do
    compiled = torch.compile(model)
    found = {}
    with torch.inference_mode(), ExitStack() as stack:
        calls: dict[str, Callable[[np.ndarray], object]] = {
            OURS: stack.enter_context(opened(models["int8"], floats(32))).logits,
            ORT_DEFAULT: session(models["ort-default"]),
            EAGER: lambda batch: model(torch.from_numpy(batch)),
            COMPILED: lambda batch: compiled(torch.from_numpy(batch)),
        }
        if models["nncf"].is_file():
            calls[NNCF] = bare_openvino(models["nncf"])
        pairs = [{name: calls[name] for name in (OURS, ORT_DEFAULT)}]
        for _ in range(2):
            ours = stack.enter_context(opened(models["int8"], floats(32)))
            pairs.append({OURS: ours.logits, ORT_DEFAULT: session(models["ort-default"])})
        for count in BATCHES:
            batch, timed = floats(count), 3 if count == 1 else 1
            before = partial(write_again, batch)
            found[f"batch {count}"] = in_rounds(_with(batch, calls), seconds / 12, timed=timed, before=before)
            close = [in_rounds(_with(batch, pair), seconds / 12, timed=timed, before=before) for pair in pairs]
            found[f"batch {count}, the closest"] = Rounds.of_all(close)
    return found


def _with(batch: np.ndarray, calls: dict[str, Callable[[np.ndarray], object]]) -> dict[str, Call]:
    return {name: partial(call, batch) for name, call in calls.items()}


def bare_openvino(path: Path) -> Callable[[np.ndarray], object]:
    import openvino

    request = openvino.Core().compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    return lambda batch: request.infer({0: batch}, share_inputs=True, share_outputs=True)


def tuned(models: Models, seconds: float) -> Tables:
    """What `tune` chose for batch 1, against the fastest peer's form of the same network.

    A network trained on the demo data, for the choice is proven by its answers: `tune FP32 INT8 --batch 1 --max-drop 0.5`
    compared them on the 1,000 test pictures.
    """
    shares = {1: 0.5, 8: 0.25, 32: 0.25}
    return of_one_network(models["trained-ort-default"], models["trained-int8"], models["tuned"], shares, seconds)


def of_one_network(peer: Path, int8: Path, tuned: Path, shares: dict[int, float], seconds: float) -> Tables:
    """The fastest peer's form of a network, ours as built and ours as tuned, in turns; `shares` of the time by batch."""
    found = {}
    with opened(int8, floats(32)) as as_built, settled(Runtime(tuned), floats(32)) as chosen:
        theirs = session(peer)
        for count, share in shares.items():
            batch = floats(count)
            calls: dict[str, Call] = {
                ORT_DEFAULT: partial(theirs, batch),
                OURS: partial(as_built.logits, batch),
                TUNED: partial(chosen.logits, batch),
            }
            timed, before = 3 if count == 1 else 1, partial(write_again, batch)
            found[f"batch {count}"] = in_rounds(calls, share * seconds, timed=timed, before=before)
    return found


def uint8(models: Models, seconds: float) -> Tables:
    """uint8 pictures in, probabilities out, against what people write with numpy before a bare session; the trained network."""
    bare = session(models["trained-ort-default"])
    recipe = Artifact.open(models["trained-fp32"], check_hash=False).manifest.preprocess
    mean, std = np.array(recipe.mean, np.float32), np.array(recipe.std, np.float32)
    mean64, std64 = np.array(recipe.mean), np.array(recipe.std)

    def in_float32(p: np.ndarray) -> np.ndarray:
        return softmax(bare(np.ascontiguousarray(((p.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))))

    def in_float64(p: np.ndarray) -> np.ndarray:
        return softmax(bare(((p / 255.0 - mean64) / std64).transpose(0, 3, 1, 2).astype(np.float32)))

    found = {}
    with (
        opened(models["trained-int8"], pixels(8)) as plain,
        opened(models["trained-uint8"], pixels(8)) as baked,
        settled(Runtime(models["tuned"]), pixels(8)) as chosen,
    ):
        for count in (1, 8):
            p = pixels(count)
            calls: dict[str, Call] = {
                "numpy (float32) + session": partial(in_float32, p),
                "numpy (float64 mean and std) + session": partial(in_float64, p),
                "Runtime.predict, INT8": partial(plain.predict, p),
                "Runtime.predict, uint8 in the graph, INT8": partial(baked.predict, p),
                "Runtime.predict, as tuned": partial(chosen.predict, p),
            }
            found[f"batch {count}"] = in_rounds(calls, seconds / 2, timed=3 if count == 1 else 1)
    return found


def cold(models: Models, seconds: float) -> Tables:
    """Whole processes: import, load, first answer; and `import alexnet_deploy` against bare Python."""
    first = "import numpy as np; x = np.zeros((1, 3, 224, 224), np.float32); "
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, share in (("int8", 0.3), ("fp32", 0.55)):
            path = str(models[label])
            codes = {
                "bare onnxruntime": f"{first}import onnxruntime as o; "
                f"o.InferenceSession({path!r}, providers=['CPUExecutionProvider']).run(None, {{'input': x}})",
                "Runtime": f"{first}from alexnet_deploy import Runtime; Runtime({path!r}, 'cpu', 'onnxruntime').logits(x)",
            }
            found[f"first answer, {label}"] = _processes(codes, folder, share * seconds)
        found["import"] = _processes(
            {"bare Python": "pass", "import alexnet_deploy": "import alexnet_deploy"}, folder, 0.15 * seconds
        )
    return found


def _processes(codes: dict[str, str], compiled: str, seconds: float) -> Rounds:
    # Python's compiled modules are kept, as wherever a package was installed.
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}

    def run(code: str) -> Call:
        words = [sys.executable, "-c", f"{code}\nimport os; os._exit(0)"]
        return lambda: subprocess.run(words, check=True, env=environment, cwd=ROOT)

    return in_rounds({name: run(code) for name, code in codes.items()}, seconds, warm=0, timed=1, rest=0)


def pictures(models: Models, seconds: float) -> Tables:
    """128 JPEG files in, classes out, against decoding alone and inference alone.

    Twice: with all cores for everything, where the halves share what each has to itself when it is alone, so that their sum
    is the bound; and with one thread for each half, where the slower half is. The last batch, of eight, has nothing beside it.
    """
    from PIL import Image

    count = 128
    random = np.random.default_rng(0)
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(models["int8"], pixels(8)) as all_cores,
        opened(models["int8"], pixels(8), threads=1) as one_core,
    ):
        for height, width in ((375, 500), (1200, 1600)):
            small = random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
            files = [Path(folder) / f"{height}-{index}.jpg" for index in range(count)]
            for file in files:
                noise = np.roll(small, random.integers(1, 40), axis=1)
                Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
            for title, runtime, workers in (("all cores", all_cores, None), ("a core for each half", one_core, 1)):
                calls: dict[str, Call] = {
                    "decoding alone": partial(_decoded, files, workers),
                    "inference alone": partial(_inferred, runtime, _decoded(files, None)),
                    "one after the other": partial(_in_sequence, runtime, files, workers),
                    "classify": partial(_classified, runtime, files, workers),
                }
                if workers is not None:
                    del calls["one after the other"]
                found[f"{width}x{height}, {title}"] = in_rounds(calls, seconds / 4, warm=0, timed=1)
    return found


def _decoded(files: list[Path], workers: int | None) -> np.ndarray:
    from alexnet_deploy.decoding import fitted

    return np.stack([p for p in fitted(files, RECIPE, workers=workers) if isinstance(p, np.ndarray)])


def _inferred(runtime: Runtime, ready: np.ndarray) -> None:
    for start in range(0, len(ready), runtime.batch.opt):
        runtime.predict(ready[start : start + runtime.batch.opt])


def _in_sequence(runtime: Runtime, files: list[Path], workers: int | None) -> None:
    """The same work without overlap: all pictures first, then all batches."""
    _inferred(runtime, _decoded(files, workers))


def _classified(runtime: Runtime, files: list[Path], workers: int | None) -> None:
    for outcome in runtime.classify_each(files, workers=workers):
        outcome.unwrap()


# Each part, and its share of the time.
PARTS: dict[Callable[[Models, float], Tables], float] = {
    overhead: 0.14,
    peers: 0.33,
    tuned: 0.13,
    uint8: 0.12,
    cold: 0.16,
    pictures: 0.12,
}


def _base(part: str, rounds: Rounds) -> str:
    """What all are compared with: the fastest peer; the first row elsewhere, and for pictures the slower half."""
    if part == "peers":
        return min((label for label in rounds.samples if label != OURS), key=rounds.median)
    if part == "pictures":
        return max(("decoding alone", "inference alone"), key=rounds.median)
    return next(iter(rounds.samples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / ".cache" / "benchmarks")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--seconds", type=float, default=270.0, help="of measuring, for all of it")
    parser.add_argument("--make-only", action="store_true", help="make the models and stop")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", FallbackWarning)
    models = make_models(asked.models)
    if asked.make_only:
        return
    begun = time.perf_counter()
    parts = []
    for part, share in PARTS.items():
        name = part.__name__
        found = part(models, share * asked.seconds)
        parts.append(Part(name, inspect.cleandoc(part.__doc__ or ""), {k: (r, _base(name, r)) for k, r in found.items()}))
        for title, rounds in found.items():
            print(name, title, {label: round(rounds.median(label), 3) for label in rounds.samples}, flush=True)
    write_report(asked.results, parts, tried_at(models["tuned"]), time.perf_counter() - begun)


if __name__ == "__main__":
    main()
