"""What serving costs: `alexnet-deploy serve` in a process of its own, against `Runtime.predict` on the same cores.

    python benchmarks/serving.py                    # two minutes on two cores, with an untrained full-size AlexNet
    python benchmarks/serving.py --model models/alexnet.int8.plan --seconds 20
    python benchmarks/serving.py --flat 20          # an engine that sleeps 20 ms a call, however large: as a GPU does

throughput   requests of one picture, 16 under way at any time; pictures a second against Runtime.predict at the batch size
             that the server reached. Taken in turns, so that other work on the machine meets both; the median share counts
latency      requests at random moments (a Poisson process) at half of that throughput: p50 and p99, against twice the p50
             of a single call plus --max-delay; and against a queue that costs nothing: see `ideal_ms`
overload     ten times that throughput: what is shed, and whether the p99 of what is accepted stays within a tenth of the p99
             with 16 under way, which is as many as the server takes without shedding much

The client has a core of its own, the last; server and Runtime.predict have the others, the same ones. On a machine of one
core they share it, and the result says so.

Writes benchmarks/results/serving-NAME.json and .svg.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from http_load import Answers, Client, closed_loop, open_loop

from alexnet_deploy import Runtime
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.report import plots
from alexnet_deploy.serving.http_api import HEADER_LENGTH

IN_FLIGHT = 16
ROUNDS = 5
OVERLOAD = 10
SHARE, LATENCY_FACTOR, KEPT = 0.85, 2.0, 1.1
RESULTS = Path(__file__).parent / "results"
STYLE = Path(__file__).parent.parent / "alexnet_deploy" / "report" / "style.css"
# This file is also the two processes that it starts, and this is how it tells them of --flat.
_SERVE, _PREDICT, _FLAT_MS = "serve", "predict", "BENCHMARK_FLAT_MS"


class Rooms:
    """Which cores the client has, and which the server and Runtime.predict."""

    def __init__(self) -> None:
        *others, last = sorted(os.sched_getaffinity(0))
        self.client = {last}
        self.server = set(others) or {last}

    @property
    def apart(self) -> bool:
        return self.client.isdisjoint(self.server)

    def start(self, *words: str | Path, **streams: Any) -> subprocess.Popen[str]:
        """Starts a process on the server's cores."""
        cores = ",".join(map(str, sorted(self.server)))
        return subprocess.Popen(
            ["taskset", "-c", cores, *words], text=True, env=os.environ | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}, **streams
        )


class Predict:
    """Runtime.predict in a process on the server's cores, told what to time line by line."""

    def __init__(self, rooms: Rooms, model: Path, engine: list[str]) -> None:
        words = [sys.executable, __file__, _PREDICT, model, *engine]
        self._process = rooms.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.call_s(1, 0)  # until it has loaded, it would take the server's cores

    def call_s(self, batch: int, seconds: float) -> list[float]:
        """How long each call of that many pictures took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{batch} {seconds}\n")
        self._process.stdin.flush()
        taken: list[float] = json.loads(self._process.stdout.readline())
        return taken

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def answer_predict(model: Path, engine: list[str]) -> None:
    """The other end of Predict."""
    with Runtime(model, **runtime_options(engine)) as runtime:
        pictures = make_pictures(runtime, 64)
        for line in sys.stdin:
            batch, seconds = line.split()
            rows = pictures[: int(batch)]
            runtime.predict(rows)
            taken, end = [], time.perf_counter() + float(seconds)
            while not taken or time.perf_counter() < end:
                start = time.perf_counter()
                runtime.predict(rows)
                taken.append(time.perf_counter() - start)
            print(json.dumps(taken))


def runtime_options(engine: list[str]) -> dict[str, Any]:
    options = dict(zip(engine[::2], engine[1::2], strict=True))
    threads = options.get("--threads")
    return {"backend": options.get("--backend"), "threads": None if threads is None else int(threads)}


def make_pictures(runtime: Runtime, count: int) -> np.ndarray:
    recipe = runtime.recipe
    return np.random.default_rng(0).integers(0, 256, (count, recipe.height, recipe.width, 3), np.uint8)


class Server:
    """`alexnet-deploy serve` on the server's cores."""

    def __init__(self, rooms: Rooms, model: Path, engine: list[str], options: list[str]) -> None:
        words = [sys.executable, __file__, _SERVE, f"model={model}", "--port", "0", "--no-grpc", *engine, *options]
        self._process = rooms.start(*words, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"ready at http://([\d.]+:\d+)", line):
                self.address = found[1]
                return
        raise SystemExit("the server did not start")

    def rows_and_calls(self) -> tuple[int, int]:
        """Rows and engine calls so far."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        said = json.load(opener.open(f"http://{self.address}/v2/models/model/stats", timeout=10))["model_stats"][0]
        return said["inference_count"], said["execution_count"]

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@dataclass
class Round:
    """The server, and then Runtime.predict at the batch size that the server reached, one right after the other."""

    served_per_s: float
    batch: int
    predict_per_s: float
    p50_ms: float
    p99_ms: float
    shed: int
    server_cpu_ms: float
    client_cpu_ms: float

    @property
    def share(self) -> float:
        return self.served_per_s / self.predict_per_s


async def one_round(client: Client, server: Server, predict: Predict, seconds: float) -> tuple[Round, list[float]]:
    """A round, and the latencies of what was accepted in it."""
    rows, calls = server.rows_and_calls()
    server_cpu, client_cpu, start = server.cpu_s(), time.process_time(), time.perf_counter()
    answers = await closed_loop(client, seconds, IN_FLIGHT)
    passed = time.perf_counter() - start
    server_cpu, client_cpu = server.cpu_s() - server_cpu, time.process_time() - client_cpu
    client.close()
    more_rows, more_calls = server.rows_and_calls()
    batch = round((more_rows - rows) / (more_calls - calls))
    taken = predict.call_s(batch, seconds)
    accepted = answers.summary()
    found = Round(
        served_per_s=round(len(answers.accepted_ms) / passed, 1),
        batch=batch,
        predict_per_s=round(batch * len(taken) / sum(taken), 1),
        p50_ms=accepted["p50_ms"],
        p99_ms=accepted["p99_ms"],
        shed=len(answers.latencies.get(503, [])),
        server_cpu_ms=round(1e3 * server_cpu / len(answers.accepted_ms), 2),
        client_cpu_ms=round(1e3 * client_cpu / len(answers.accepted_ms), 2),
    )
    return found, answers.accepted_ms


def ideal_ms(per_s: float, call_s: Callable[[int], float], count: int = 50_000) -> list[float]:
    """Latencies behind a queue that costs nothing: whoever waits when the engine gets free shares its next call.

    No server can do better with one engine whose calls take `call_s(rows)`, but by making some wait longer than others.
    """
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / per_s, count)).tolist()
    found: list[float] = []
    free_s = 0.0
    while len(found) < count:
        first = len(found)
        start = max(free_s, arrivals[first])
        rows = bisect_right(arrivals, start, lo=first) - first
        free_s = start + call_s(rows)
        found += [1e3 * (free_s - arrived) for arrived in arrivals[first : first + rows]]
    return found


def call_line(predict: Predict, seconds: float) -> Callable[[int], float]:
    """How long a call of Runtime.predict takes, between the batch sizes that are measured here."""
    sizes = (1, 2, 4, 8, 16, 32)
    taken = [statistics.median(predict.call_s(size, seconds / len(sizes))) for size in sizes]
    return lambda rows: float(np.interp(rows, sizes, taken))


def measure(model: Path, engine: list[str], seconds: float, max_delay_ms: float, max_wait_ms: float) -> dict[str, Any]:
    """The figures, and the accepted latencies of each load in milliseconds under "samples_ms"."""
    rooms = Rooms()
    if rooms.apart:
        os.sched_setaffinity(0, rooms.client)
    if "--backend" not in engine:
        engine = [*engine, "--threads", str(len(rooms.server))]
    with Runtime(model, **runtime_options(engine)) as runtime:
        ran = {"file": runtime.running.path.name, "backend": runtime.backend, "device": runtime.device}
        body, headers = request(runtime)
    server = Server(rooms, model, engine, ["--max-delay", f"{max_delay_ms}ms", "--max-wait", f"{max_wait_ms}ms"])
    predict = Predict(rooms, model, engine)

    async def load() -> dict[str, Any]:
        client = Client(server.address, "/v2/models/model/infer", body, headers)
        await closed_loop(client, 2, IN_FLIGHT)
        taken = [await one_round(client, server, predict, seconds / ROUNDS) for _ in range(ROUNDS)]
        rounds, full = [r for r, _ in taken], [ms for _, latencies in taken for ms in latencies]
        per_s = statistics.median(r.served_per_s for r in rounds)
        single_ms = [1e3 * statistics.median(predict.call_s(1, 2))]
        alone = await closed_loop(client, 2, 1)
        half = await open_loop(client, per_s / 2, seconds)
        client.close()
        single_ms.append(1e3 * statistics.median(predict.call_s(1, 2)))
        over = await open_loop(client, OVERLOAD * per_s, seconds / 2)
        client.close()
        ideal = ideal_ms(per_s / 2, call_line(predict, 6))
        return figures(rounds, per_s, statistics.mean(single_ms), alone, half, over, ideal) | {
            "samples_ms": {
                "one at a time": alone.accepted_ms,
                "half load, an ideal queue": ideal[:5000],
                "half load": half.accepted_ms,
                f"{IN_FLIGHT} at a time": full,
                f"{OVERLOAD} times too much": over.accepted_ms,
            }
        }

    def figures(
        rounds: list[Round], per_s: float, single_ms: float, alone: Answers, half: Answers, over: Answers, ideal: list[float]
    ) -> dict[str, Any]:
        limit_ms = LATENCY_FACTOR * single_ms + max_delay_ms
        share = statistics.median(r.share for r in rounds)
        full_p99_ms = statistics.median(r.p99_ms for r in rounds)
        return {
            "throughput": {
                "share": round(share, 3),
                "target": SHARE,
                "met": share >= SHARE,
                "rounds": [vars(r) | {"share": round(r.share, 3)} for r in rounds],
            },
            "half_load": {
                "asked_per_s": round(per_s / 2, 1),
                **half.summary(),
                "predict_single_p50_ms": round(single_ms, 2),
                "served_alone_p50_ms": alone.summary()["p50_ms"],
                "target_p99_ms": round(limit_ms, 2),
                "met": half.summary()["p99_ms"] <= limit_ms,
                "met_against_served_alone": half.summary()["p99_ms"] <= LATENCY_FACTOR * alone.summary()["p50_ms"] + max_delay_ms,
                "ideal_queue_p99_ms": round(float(np.percentile(ideal, 99)), 2),
            },
            "overload": {
                "asked_per_s": round(OVERLOAD * per_s, 1),
                **over.summary(),
                "accepted_per_s": round(len(over.accepted_ms) / (seconds / 2), 1),
                "full_load_p99_ms": full_p99_ms,
                "met": over.summary()["p99_ms"] <= KEPT * full_p99_ms,
            },
        }

    try:
        found = asyncio.run(load())
    finally:
        server.stop()
        predict.close()
    return {"ran": ran, "client_apart": rooms.apart, "server_cores": len(rooms.server), **found}


def request(runtime: Runtime) -> tuple[bytes, dict[str, str]]:
    """One uint8 picture as a binary tensor; its probabilities, binary too."""
    picture = make_pictures(runtime, 1)
    tensor = {"name": runtime.running.manifest.input.name, "datatype": "UINT8", "shape": picture.shape}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": picture.nbytes}}], "outputs": [wanted]}).encode()
    return header + picture.tobytes(), {HEADER_LENGTH: str(len(header))}


def sleep_instead(call_s: float) -> None:
    """Makes the fake backend take as long as a GPU would: the same for every batch, and without the CPU."""
    from alexnet_deploy.backends.fake import FakeBackend

    def run(self: FakeBackend, batch: np.ndarray) -> np.ndarray:
        time.sleep(call_s)
        return np.ones((len(batch), self.output.shape[-1] or 0), np.float32)

    FakeBackend.run = run  # type: ignore[method-assign]


def plot(samples_ms: dict[str, list[float]], ran: str) -> str:
    def said(values: list[float]) -> str:
        p50, p99 = np.percentile(values, (50, 99))
        return f"p50 {p50:.0f}, p99 {p99:.0f} ms"

    series = [
        plots.Series(name, values, text=said(values), colour=4 if "ideal" in name else 1) for name, values in samples_ms.items()
    ]
    svg = str(plots.distributions(f"Latency of a served picture, ms: {ran}", series))
    if "xmlns=" not in svg:  # a page needs none, a file does; nor has a file the page's colours
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    start = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:start]}<style>{STYLE.read_text()}</style>{svg[start:]}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an artifact; an untrained full-size AlexNet when none is given")
    parser.add_argument("--flat", type=float, default=0.0, metavar="MS", help="no engine, but one that sleeps that long a call")
    parser.add_argument("--seconds", type=float, default=20.0, help="a measurement")
    parser.add_argument("--max-delay", type=float, default=2.0, metavar="MS", help="of the server")
    parser.add_argument("--max-wait", type=float, default=250.0, metavar="MS", help="of the server")
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("--name", default="", help="of the files in benchmarks/results")
    asked = parser.parse_args()
    flat_ms = asked.flat
    if flat_ms:
        os.environ[_FLAT_MS] = str(flat_ms)
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or make_model(Path(folder), flat=bool(flat_ms))
        engine = ["--backend", "fake"] if flat_ms else []
        found = measure(model, engine, asked.seconds, asked.max_delay, asked.max_wait)
    samples = found.pop("samples_ms")
    name = asked.name or (f"flat-{flat_ms:g}ms" if flat_ms else found["ran"]["backend"])
    result = {
        "machine": to_builtins(Machine.here()),
        "load_average_1min": round(os.getloadavg()[0], 1),
        "note": asked.note,
        "max_delay_ms": asked.max_delay,
        "max_wait_ms": asked.max_wait,
        **found,
    }
    ran = f"an engine of {flat_ms:g} ms a call" if flat_ms else f"{found['ran']['file']}, {found['ran']['backend']}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"serving-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"serving-{name}.svg").write_text(plot(samples, ran))
    print(json.dumps(result, indent=2))


def make_model(folder: Path, *, flat: bool) -> Path:
    if flat:
        from alexnet_deploy.backends.fake import write_fake

        labels = [str(number) for number in range(1000)]
        return write_fake(folder / "fake.onnx", labels=labels, height=224, width=224).path
    from calibration_cost import make_model as make_alexnet

    made: Path = make_alexnet(folder)
    return made


if __name__ == "__main__":
    if _FLAT_MS in os.environ:
        sleep_instead(float(os.environ[_FLAT_MS]) / 1e3)
    match sys.argv[1:]:
        case [word, model, *engine] if word == _PREDICT:
            answer_predict(Path(model), engine)
        case [word, *_] if word == _SERVE:
            from alexnet_deploy.cli import main as alexnet_deploy

            alexnet_deploy(prog_name="alexnet-deploy")
        case _:
            main()
