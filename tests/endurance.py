"""Long use of one Runtime, in a process of its own: what it leaves behind, and whether answers stay the same.

    python -m tests.endurance predictions 20000
    python -m tests.endurance openings 200
    python -m tests.endurance threads 8 2000

Prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from alexnet_deploy.runtime import Runtime
from tests.tiny import float_batch, picture_batch, tiny_artifact

BACKENDS = ("onnxruntime", "openvino")


def grown(work: Callable[[int], None], count: int) -> dict[str, int]:
    """What the process has more of after `count` calls than after a first tenth of them, which fills pools and caches."""
    for index in range(count // 10):
        work(index)
    before = holdings()
    for index in range(count):
        work(index)
    after = holdings()
    return {name: after[name] - before[name] for name in after}


def holdings() -> dict[str, int]:
    gc.collect()
    process = psutil.Process()
    return {"rss_bytes": process.memory_info().rss, "threads": process.num_threads(), "files": process.num_fds()}


def predictions(path: Path, backend: str, count: int) -> dict[str, Any]:
    batches: list[Any] = [float_batch(1), float_batch(9), picture_batch(3), float_batch(0), picture_batch(1, 40, 17)]
    with Runtime(path, "cpu", backend) as runtime:
        expected = [runtime.predict(batch) for batch in batches]
        wrong = 0

        def work(index: int) -> None:
            nonlocal wrong
            batch = index % len(batches)
            wrong += not np.array_equal(runtime.predict(batches[batch]), expected[batch])

        return {"grown": grown(work, count), "wrong": wrong}


def openings(path: Path, backend: str, count: int) -> dict[str, Any]:
    batch = float_batch(4)
    with Runtime(path, "cpu", backend) as runtime:
        expected = runtime.logits(batch)
    wrong = 0

    def work(index: int) -> None:
        nonlocal wrong
        runtime = Runtime(path, "cpu", backend)
        wrong += not np.array_equal(runtime.logits(batch), expected)
        runtime.close()

    return {"grown": grown(work, count), "wrong": wrong}


def threads(path: Path, backend: str, workers: int, calls: int) -> dict[str, Any]:
    batches = [float_batch(1 + seed % 11, seed=seed) for seed in range(16)]
    with Runtime(path, "cpu", backend) as runtime:
        expected = [runtime.logits(batch) for batch in batches]
        begun = threading.Barrier(workers)

        def work(worker: int) -> int:
            begun.wait()
            order = np.random.default_rng(worker).integers(0, len(batches), calls)
            return sum(not np.array_equal(runtime.logits(batches[i]), expected[i]) for i in order)

        with ThreadPoolExecutor(workers) as pool:
            return {"wrong": sum(pool.map(work, range(workers))), "calls": workers * calls}


def main() -> None:
    kind, *numbers = sys.argv[1:]
    run: Callable[..., dict[str, Any]] = {"predictions": predictions, "openings": openings, "threads": threads}[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_artifact(Path(folder) / "model.onnx").path
        found = {backend: run(path, backend, *map(int, numbers)) for backend in BACKENDS}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
