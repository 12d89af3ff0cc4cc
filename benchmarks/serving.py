"""What serving costs: `alexnet-deploy serve` in a process of its own, against `Runtime.predict` on the same artifact.

    python benchmarks/serving.py                    # three minutes on two cores, with an untrained full-size AlexNet
    python benchmarks/serving.py --model models/alexnet.int8.plan --seconds 20

throughput   requests of one picture, 16 under way at any time; pictures a second against Runtime.predict at the batch size that
             the server reached, measured right after it while the server idles; the median of three such rounds
latency      requests at random moments (a Poisson process) at half of that throughput: p50 and p99, against twice the p50 of
             a single call plus --max-delay
overload     ten times that throughput: what is shed, and the latency of what is accepted

The client shares the machine with the server, and takes its part of the cores: a raw HTTP/1.1 client on asyncio, uint8 tensors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_deploy import Runtime
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.serving.http_api import HEADER_LENGTH

IN_FLIGHT = 16
MAX_DELAY_MS = 2.0
ROUNDS = 3
OVERLOAD = 10
MOST_CONNECTIONS = 200
SHARE, LATENCY_FACTOR = 0.85, 2.0


@dataclass
class Answers:
    """Latencies in seconds by HTTP status; `late`: requests that found no free connection in the client."""

    latencies: dict[int, list[float]] = field(default_factory=dict)
    late: int = 0

    def add(self, status: int, seconds: float) -> None:
        self.latencies.setdefault(status, []).append(seconds)

    def summary(self) -> dict[str, float]:
        accepted = 1e3 * np.array(self.latencies.get(200, [0.0]))
        counts = {f"status_{status}": len(seconds) for status, seconds in sorted(self.latencies.items())}
        p50, p90, p99 = (round(float(np.percentile(accepted, p)), 2) for p in (50, 90, 99))
        return {**counts, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "client_late": self.late}


class Client:
    """Kept connections to one server; each request is the same prepared bytes."""

    def __init__(self, address: str, body: bytes, header_bytes: int, path: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n{HEADER_LENGTH}: {header_bytes}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = 0

    async def ask(self, answers: Answers) -> int:
        if not self._idle and self._open >= MOST_CONNECTIONS:
            answers.late += 1
            return 0
        start = time.perf_counter()
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            self._open += 1
            reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        status = int(head[9:12])
        answers.add(status, time.perf_counter() - start)
        self._idle.append((reader, writer))
        return status

    def close(self) -> None:
        """Closes idle connections; to be called before a pause too, which the server would not wait out."""
        for _, writer in self._idle:
            writer.close()
        self._open -= len(self._idle)
        self._idle.clear()


async def closed_loop(client: Client, seconds: float) -> Answers:
    """`IN_FLIGHT` requests under way at any time."""
    answers = Answers()
    end = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            if await client.ask(answers) == 503:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    return answers


async def open_loop(client: Client, per_s: float, seconds: float) -> Answers:
    """Requests at random moments, whatever becomes of those before."""
    answers = Answers()
    draw = random.Random(0)
    start = due = time.perf_counter()
    tasks: set[asyncio.Task[int]] = set()
    while due < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(client.ask(answers))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += draw.expovariate(per_s)
    if tasks:
        await asyncio.wait(tasks, timeout=60)
    return answers


@dataclass
class Round:
    """The server, and then Runtime.predict at the batch size that the server reached, one right after the other."""

    served_per_s: float
    batch: int
    predict_per_s: float
    p50_ms: float
    shed: int


async def one_round(client: Client, address: str, runtime: Runtime, pictures: np.ndarray, seconds: float) -> Round:
    rows, calls = statistics(address)
    start = time.perf_counter()
    answers = await closed_loop(client, seconds)
    passed = time.perf_counter() - start
    client.close()
    more_rows, more_calls = statistics(address)
    batch = round((more_rows - rows) / (more_calls - calls))
    accepted = answers.latencies.get(200, [])
    return Round(
        served_per_s=round(len(accepted) / passed, 1),
        batch=batch,
        predict_per_s=round(predict_per_s(runtime, pictures[:batch], seconds), 1),
        p50_ms=round(1e3 * float(np.median(accepted)), 1),
        shed=len(answers.latencies.get(503, [])),
    )


def predict_per_s(runtime: Runtime, pictures: np.ndarray, seconds: float) -> float:
    """Pictures a second of Runtime.predict, one call after the other."""
    runtime.predict(pictures)
    calls, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        runtime.predict(pictures)
        calls += 1
    return calls * len(pictures) / passed


def single_p50_ms(runtime: Runtime, picture: np.ndarray, calls: int = 100) -> float:
    runtime.predict(picture)
    taken = []
    for _ in range(calls):
        start = time.perf_counter()
        runtime.predict(picture)
        taken.append(time.perf_counter() - start)
    return 1e3 * float(np.median(taken))


def statistics(address: str) -> tuple[int, int]:
    """Rows and engine calls so far."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    said = json.load(opener.open(f"http://{address}/v2/models/model/stats", timeout=10))["model_stats"][0]
    return said["inference_count"], said["execution_count"]


def start_server(model: Path, max_wait: str) -> tuple[subprocess.Popen[str], str]:
    command = [str(Path(sys.executable).with_name("alexnet-deploy")), "serve", f"model={model}", "--port", "0", "--no-grpc"]
    command += ["--max-delay", f"{MAX_DELAY_MS}ms", "--max-wait", max_wait]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"ready at http://([\d.]+:\d+)", line):
            return process, found[1]
    raise SystemExit("the server did not start")


def measure(model: Path, seconds: float, max_wait: str) -> dict[str, object]:
    with Runtime(model) as runtime:
        size = (runtime.recipe.height, runtime.recipe.width)
        name = runtime.running.manifest.input.name
        ran = {"file": runtime.running.path.name, "backend": runtime.backend, "device": runtime.device}
        pictures = np.random.default_rng(0).integers(0, 256, (64, *size, 3), np.uint8)
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "datatype": "UINT8",
                        "shape": [1, *size, 3],
                        "parameters": {"binary_data_size": pictures[0].size},
                    }
                ],
                "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
            }
        ).encode()
        process, address = start_server(model, max_wait)
        try:

            async def load() -> tuple[list[Round], Answers, float, Answers]:
                client = Client(address, header + pictures[0].tobytes(), len(header), "/v2/models/model/infer")
                await closed_loop(client, 2)
                rounds = [await one_round(client, address, runtime, pictures, seconds / ROUNDS) for _ in range(ROUNDS)]
                per_s = float(np.median([r.served_per_s for r in rounds]))
                single_ms = [single_p50_ms(runtime, pictures[:1])]
                half = await open_loop(client, per_s / 2, seconds)
                client.close()
                single_ms.append(single_p50_ms(runtime, pictures[:1]))
                over = await open_loop(client, OVERLOAD * per_s, seconds / 2)
                client.close()
                return rounds, half, float(np.mean(single_ms)), over

            rounds, half, single_ms, over = asyncio.run(load())
        finally:
            process.terminate()
            process.wait(60)
    per_s = float(np.median([r.served_per_s for r in rounds]))
    limit_ms = LATENCY_FACTOR * single_ms + MAX_DELAY_MS
    return {
        "ran": ran,
        "throughput": {
            "share": round(float(np.median([r.served_per_s / r.predict_per_s for r in rounds])), 3),
            "target": SHARE,
            "rounds": [vars(r) for r in rounds],
        },
        "half_load": {
            "asked_per_s": round(per_s / 2, 1),
            **half.summary(),
            "single_call_p50_ms": round(single_ms, 2),
            "target_p99_ms": round(limit_ms, 2),
            "met": half.summary()["p99_ms"] <= limit_ms,
        },
        "overload": {"asked_per_s": round(OVERLOAD * per_s, 1), **over.summary()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an artifact; an untrained full-size AlexNet when none is given")
    parser.add_argument("--seconds", type=float, default=15.0, help="a measurement")
    parser.add_argument("--max-wait", default="250ms", help="of the server; a slow machine needs more to form batches")
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/serving.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            sys.path.insert(0, str(Path(__file__).parent))
            from calibration_cost import make_model

            arguments.model = make_model(Path(folder))
        figures = measure(arguments.model, arguments.seconds, arguments.max_wait)
    result = {
        "machine": to_builtins(Machine.here()),
        "load_average_1min": round(os.getloadavg()[0], 1),
        "note": arguments.note,
        "max_wait": arguments.max_wait,
        **figures,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
