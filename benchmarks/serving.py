"""What serving costs: `alexnet-deploy serve` in a process of its own, against `Runtime.predict` on the same cores.

    python benchmarks/serving.py                    # four minutes on two cores, with an untrained full-size AlexNet
    python benchmarks/serving.py --model models/alexnet.int8.plan --seconds 20
    python benchmarks/serving.py --flat 20          # an engine that sleeps 20 ms a call, however large: as a GPU does
    python benchmarks/serving.py --flat 20 --max-batch 4    # slow enough that ten times as much can be asked of it
    python benchmarks/serving.py --a-row 20         # one that sleeps 20 ms a picture: nothing is gained by batches

throughput   requests of one picture, 16 under way at any time, over HTTP and then over gRPC; pictures a second against
             Runtime.predict at the batch size that the server reached. Taken in turns, so that other work on the machine meets
             all three; the median share counts
half load    half of that throughput, requests evenly spaced and at random moments (a Poisson process): p99 against twice the p50
             of a single call plus --max-delay. "A single call" is read in both ways: of Runtime.predict, and of one client alone.
             Beside it a queue that costs nothing: see `ideal_ms`; and the p99 of the requests in whose time the machine's host
             took no core away; and what random moments cost where nothing is computed together (M/D/1)
overload     ten times that throughput: what is shed, and what is accepted against the same server when it is full, but asked
             no more than it lets in: as many requests under way as it takes without refusing one
classify     POST /classify with a JPEG file of 500x375 pixels, five classes out: pictures a second, 16 under way, and one client
             alone, against Runtime.classify of as many such files at once, which is decoding and predict without a server

The client has a core of its own, the last; server and Runtime.predict have the others, the same ones. On a machine of one
core they share it, and the result says so.

Writes benchmarks/results/serving-NAME.json and .svg.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc_load
import numpy as np
from host_pauses import HostPauses
from http_load import MOST_CONNECTIONS, Answers, Client

from alexnet_deploy import Runtime
from alexnet_deploy.decoding import InMemory
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.report import plots
from alexnet_deploy.serving.http_api import HEADER_LENGTH
from alexnet_deploy.serving.messages import message

IN_FLIGHT = 16
ROUNDS = 5
OVERLOAD = 10
SHARE, LATENCY_FACTOR, KEPT = 0.85, 2.0, 1.1
RESULTS = Path(__file__).parent / "results"
# This file is also the two processes that it starts, and this is how it tells them of --flat and --a-row.
_SERVE, _PREDICT, _SLEEP_MS = "serve", "predict", "BENCHMARK_SLEEP_MS"


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

    def call_s(self, batch: int, seconds: float, what: str = "predict") -> list[float]:
        """How long each call of that many pictures took: "predict" takes tensors, "classify" JPEG files."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {batch} {seconds}\n")
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
        pictures, file = make_pictures(runtime, 64), InMemory("picture.jpg", jpeg_file())
        calls: dict[str, Callable[[int], object]] = {
            "predict": lambda batch: runtime.predict(pictures[:batch]),
            "classify": lambda batch: list(runtime.classify_each([file] * batch)),
        }
        for line in sys.stdin:
            what, batch, seconds = line.split()
            call = partial(calls[what], int(batch))
            call()
            taken, end = [], time.perf_counter() + float(seconds)
            while not taken or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
            print(json.dumps(taken))


def runtime_options(engine: list[str]) -> dict[str, Any]:
    options = dict(zip(engine[::2], engine[1::2], strict=True))
    threads = options.get("--threads")
    return {"backend": options.get("--backend"), "threads": None if threads is None else int(threads)}


def make_pictures(runtime: Runtime, count: int) -> np.ndarray:
    recipe = runtime.recipe
    return np.random.default_rng(0).integers(0, 256, (count, recipe.height, recipe.width, 3), np.uint8)


def jpeg_file() -> bytes:
    """500x375 pixels, as ImageNet's pictures are on the average, and as large as a photograph: 58 kB."""
    from PIL import Image

    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (375 // 8, 500 // 8, 3), np.uint8)
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


class Server:
    """`alexnet-deploy serve` on the server's cores."""

    def __init__(self, rooms: Rooms, model: Path, engine: list[str], options: list[str]) -> None:
        words = [sys.executable, __file__, _SERVE, f"model={model}", "--port", "0", "--grpc-port", "0", *engine, *options]
        self._process = rooms.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"ready at http://([\d.]+:\d+), gRPC at ([\d.]+:\d+)", line):
                self.http, self.grpc = found.groups()
                return
        raise SystemExit("the server did not start")

    def rows_and_calls(self) -> tuple[int, int]:
        """Rows and engine calls so far."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        said = json.load(opener.open(f"http://{self.http}/v2/models/model/stats", timeout=10))["model_stats"][0]
        return said["inference_count"], said["execution_count"]

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@dataclass
class Served:
    """What a server did for IN_FLIGHT clients."""

    per_s: float
    batch: int
    p50_ms: float
    p99_ms: float
    shed: int
    server_cpu_ms: float
    client_cpu_ms: float


@dataclass
class Round:
    """The server over both protocols, and then Runtime.predict at the batch size that it reached, one right after the other."""

    http: Served
    grpc: Served
    predict_per_s: float

    @property
    def share(self) -> float:
        return self.http.per_s / self.predict_per_s

    @property
    def grpc_share(self) -> float:
        return self.grpc.per_s / self.predict_per_s


def served(server: Server, load: Callable[[], Answers]) -> tuple[Served, list[float]]:
    """What came of a load, and the latencies of what was accepted."""
    rows, calls = server.rows_and_calls()
    server_cpu, client_cpu, start = server.cpu_s(), time.process_time(), time.perf_counter()
    answers = load()
    passed = time.perf_counter() - start
    server_cpu, client_cpu = server.cpu_s() - server_cpu, time.process_time() - client_cpu
    more_rows, more_calls = server.rows_and_calls()
    accepted = answers.summary()
    count = len(answers.accepted_ms)
    found = Served(
        per_s=round(count / passed, 1),
        batch=round((more_rows - rows) / (more_calls - calls)),
        p50_ms=accepted["p50_ms"],
        p99_ms=accepted["p99_ms"],
        shed=len(answers.latencies.get(503, [])),
        server_cpu_ms=round(1e3 * server_cpu / count, 2),
        client_cpu_ms=round(1e3 * client_cpu / count, 2),
    )
    return found, answers.accepted_ms


def evenly(per_s: float, seconds: float) -> list[float]:
    """Moments of requests that are evenly spaced, as perf_analyzer sends them by default."""
    return list(np.arange(0.0, seconds, 1 / per_s))


def at_random(per_s: float, seconds: float) -> list[float]:
    """Moments of a Poisson process: requests that know nothing of each other."""
    gaps = np.random.default_rng(0).exponential(1 / per_s, round(per_s * seconds))
    return list(np.cumsum(gaps))


ARRIVALS: dict[str, Callable[[float, float], list[float]]] = {"evenly spaced": evenly, "at random": at_random}


def ideal_ms(arrivals: Sequence[float], call_s: Callable[[int], float]) -> list[float]:
    """Latencies behind a queue that costs nothing: whoever waits when the engine gets free shares its next call.

    No server can do better with one engine whose calls take `call_s(rows)`, but by making some wait longer than others.
    """
    found: list[float] = []
    free_s = 0.0
    while len(found) < len(arrivals):
        first = len(found)
        start = max(free_s, arrivals[first])
        rows = bisect_right(arrivals, start, lo=first) - first
        free_s = start + call_s(rows)
        found += [1e3 * (free_s - arrived) for arrived in arrivals[first : first + rows]]
    return found


def single_file_p99_ms(per_s: float, call_s: float) -> float | None:
    """p99 of the latency where requests at random moments are computed one at a time (M/D/1); None where they are too many.

    P(wait > t) ~ (1 - rho) / (rho e^x - 1) e^(-x t / call), with rho = per_s call and rho (e^x - 1) = x: Tijms, A First Course in
    Stochastic Models (2003), chapter 9.
    """
    rho = per_s * call_s
    if rho >= 1:
        return None
    low, high = 1e-9, 50.0
    for _ in range(100):
        x = (low + high) / 2
        low, high = (x, high) if rho * math.expm1(x) < x else (low, x)
    wait = math.log((1 - rho) / (rho * math.exp(x) - 1) / 0.01) / x
    return round(1e3 * call_s * (1 + max(0.0, wait)), 2)


def call_line(predict: Predict, seconds: float, max_batch: int) -> Callable[[int], float]:
    """How long a call of Runtime.predict takes, between the batch sizes that are measured here."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size <= max_batch]
    taken = [statistics.median(predict.call_s(size, seconds / len(sizes))) for size in sizes]
    return lambda rows: float(np.interp(rows, sizes, taken))


@dataclass(frozen=True)
class Limits:
    """Of the server."""

    max_delay_ms: float
    max_wait_ms: float
    max_batch: int

    def options(self) -> list[str]:
        return [
            *("--max-delay", f"{self.max_delay_ms}ms"),
            *("--max-wait", f"{self.max_wait_ms}ms"),
            *("--max-batch", str(self.max_batch)),
        ]


def measure(model: Path, engine: list[str], seconds: float, limits: Limits) -> dict[str, Any]:
    """The figures, and the accepted latencies of each load in milliseconds under "samples_ms"."""
    rooms = Rooms()
    if rooms.apart:
        os.sched_setaffinity(0, rooms.client)
    if "--backend" not in engine:
        engine = [*engine, "--threads", str(len(rooms.server))]
    with Runtime(model, **runtime_options(engine)) as runtime:
        ran = {"file": runtime.running.path.name, "backend": runtime.backend, "device": runtime.device}
        body, headers = http_request(runtime)
        grpc_body = grpc_request(runtime)
    server = Server(rooms, model, engine, limits.options())
    predict = Predict(rooms, model, engine)
    client = Client(server.http, "/v2/models/model/infer", body, headers)
    try:
        client.closed_loop(2, IN_FLIGHT)
        throughput, samples = rounds(server, predict, client, grpc_body, seconds / 2 / ROUNDS)
        per_s = throughput["per_s"]
        half, half_samples = half_load(server, predict, client, grpc_body, per_s / 2, seconds, limits)
        over, over_samples = overload(server, client, per_s, seconds / 2, limits)
        client.close()
        files, file_samples = classify(server, predict, seconds / 2)
    finally:
        client.close()
        server.stop()
        predict.close()
    found = {"throughput": throughput, "half_load": half, "overload": over, "classify": files}
    return {
        "ran": ran,
        "client_apart": rooms.apart,
        "server_cores": len(rooms.server),
        **found,
        "samples_ms": half_samples | samples | over_samples | file_samples,
    }


def rounds(
    server: Server, predict: Predict, client: Client, grpc_body: bytes, seconds: float
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    taken: list[Round] = []
    samples: dict[str, list[float]] = {f"{IN_FLIGHT} at a time, HTTP": [], f"{IN_FLIGHT} at a time, gRPC": []}
    for _ in range(ROUNDS):
        over_http, http_ms = served(server, lambda: client.closed_loop(seconds, IN_FLIGHT))
        client.close()
        over_grpc, grpc_ms = served(server, lambda: grpc_load.closed_loop(server.grpc, grpc_body, seconds, IN_FLIGHT))
        calls = predict.call_s(over_http.batch, seconds)
        taken.append(Round(over_http, over_grpc, round(over_http.batch * len(calls) / sum(calls), 1)))
        for samples_ms, more in zip(samples.values(), (http_ms, grpc_ms), strict=True):
            samples_ms += more
    share = statistics.median(r.share for r in taken)
    figures = {
        "per_s": statistics.median(r.http.per_s for r in taken),
        "share": round(share, 3),
        "target": SHARE,
        "met": share >= SHARE,
        "grpc_per_s": statistics.median(r.grpc.per_s for r in taken),
        "grpc_share": round(statistics.median(r.grpc_share for r in taken), 3),
        **{
            f"{name}_{p}_ms": round(float(np.percentile(ms, int(p[1:]))), 2)
            for name, ms in zip(("http", "grpc"), samples.values(), strict=True)
            for p in ("p50", "p99")
        },
        "rounds": [asdict(r) | {"share": round(r.share, 3), "grpc_share": round(r.grpc_share, 3)} for r in taken],
    }
    return figures, samples


def half_load(
    server: Server, predict: Predict, client: Client, grpc_body: bytes, per_s: float, seconds: float, limits: Limits
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    single_ms = [1e3 * statistics.median(predict.call_s(1, 1))]
    alone = client.closed_loop(2, 1)
    alone_ms = alone.summary()["p50_ms"]
    over_grpc = grpc_load.closed_loop(server.grpc, grpc_body, 2, 1)
    answers, pauses = {}, {}
    for name, moments in ARRIVALS.items():
        with HostPauses() as taken:
            answers[name] = client.open_loop(moments(per_s, seconds))
        pauses[name] = taken.intervals
    client.close()
    single_ms.append(1e3 * statistics.median(predict.call_s(1, 1)))
    line = call_line(predict, 3, limits.max_batch)
    targets = {
        "of Runtime.predict": LATENCY_FACTOR * statistics.mean(single_ms) + limits.max_delay_ms,
        "of one client alone": LATENCY_FACTOR * alone_ms + limits.max_delay_ms,
    }
    samples = {"one at a time": alone.accepted_ms}
    figures: dict[str, Any] = {
        "asked_per_s": round(per_s, 1),
        "predict_single_p50_ms": round(statistics.mean(single_ms), 2),
        "served_alone_p50_ms": alone_ms,
        "served_alone_grpc_p50_ms": over_grpc.summary()["p50_ms"],
        "single_file_at_random_p99_ms": single_file_p99_ms(per_s, statistics.mean(single_ms) / 1e3),
        "target_p99_ms": {name: round(ms, 2) for name, ms in targets.items()},
    }
    for name, found in answers.items():
        ideal = ideal_ms(ARRIVALS[name](per_s, 20_000 / per_s), line)
        accepted = found.summary()
        undisturbed_ms = found.accepted_ms_outside(pauses[name])
        figures[name] = {
            **accepted,
            "undisturbed_by_the_host": {
                "requests": len(undisturbed_ms),
                "p99_ms": round(float(np.percentile(undisturbed_ms or [0.0], 99)), 2),
            },
            "ideal_queue_p99_ms": round(float(np.percentile(ideal, 99)), 2),
            "met": {reading: accepted["p99_ms"] <= ms for reading, ms in targets.items()},
        }
        samples[f"half load, {name}"] = found.accepted_ms
        samples[f"half load, {name}, an ideal queue"] = ideal[:5000]
    return figures, samples


def overload(
    server: Server, client: Client, per_s: float, seconds: float, limits: Limits
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    full_in_flight = most_in_flight(client, max(IN_FLIGHT, int(per_s * limits.max_wait_ms / 1e3)))
    full = client.closed_loop(seconds, full_in_flight)
    once = client.open_loop(at_random(per_s, seconds))
    cpu_s, start = server.cpu_s(), time.perf_counter()
    over = client.open_loop(at_random(OVERLOAD * per_s, seconds))
    cpu_share = (server.cpu_s() - cpu_s) / (time.perf_counter() - start)
    asked = sum(map(len, over.latencies.values()))
    figures = {
        "asked_per_s": round(OVERLOAD * per_s, 1),
        "reached": round(asked / (asked + over.late), 3),
        **over.summary(),
        "accepted_per_s": round(len(over.accepted_ms) / seconds, 1),
        "shed_p50_ms": round(1e3 * statistics.median(over.latencies.get(503, [0.0])), 2),
        "server_cpus": round(cpu_share, 2),
        "full": {"in_flight": full_in_flight, **full.summary()},
        "asked_once": once.summary(),
        "met": {p: over.summary()[p] <= KEPT * full.summary()[p] for p in ("p50_ms", "p99_ms")},
    }
    samples = {f"full, {full_in_flight} at a time": full.accepted_ms, f"{OVERLOAD} times too much": over.accepted_ms}
    return figures, samples


def classify(server: Server, predict: Predict, seconds: float) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """In turns, as `rounds`; then one client alone against one file alone."""
    client = Client(server.http, "/classify?top=5", jpeg_file(), {"Content-Type": "image/jpeg"})
    client.closed_loop(1, IN_FLIGHT)
    over_http, without_server, samples_ms = [], [], []
    for _ in range(ROUNDS):
        found, latencies_ms = served(server, lambda: client.closed_loop(seconds / 2 / ROUNDS, IN_FLIGHT))
        client.close()
        calls = predict.call_s(found.batch, seconds / 2 / ROUNDS, "classify")
        over_http.append(found)
        without_server.append(found.batch * len(calls) / sum(calls))
        samples_ms += latencies_ms
    alone_ms = client.closed_loop(2, 1).accepted_ms
    client.close()
    single_ms = 1e3 * np.array(predict.call_s(1, 2, "classify"))
    p50_ms, p99_ms = np.percentile(samples_ms, (50, 99))
    figures = {
        "per_s": statistics.median(found.per_s for found in over_http),
        "decode_and_predict_per_s": round(statistics.median(without_server), 1),
        "share": round(statistics.median(found.per_s / alone for found, alone in zip(over_http, without_server, strict=True)), 3),
        "p50_ms": round(p50_ms, 2),
        "p99_ms": round(p99_ms, 2),
        "alone_p50_ms": round(float(np.percentile(alone_ms, 50)), 2),
        "alone_p99_ms": round(float(np.percentile(alone_ms, 99)), 2),
        "decode_and_predict_p50_ms": round(float(np.percentile(single_ms, 50)), 2),
        "decode_and_predict_p99_ms": round(float(np.percentile(single_ms, 99)), 2),
        "rounds": [asdict(found) for found in over_http],
    }
    return figures, {f"classify, {IN_FLIGHT} at a time": samples_ms, "classify, one at a time": alone_ms}


def most_in_flight(client: Client, count: int) -> int:
    """As many requests under way as the server takes without refusing any, `count` at least; to 2 %."""
    refused = MOST_CONNECTIONS // 2 + 1
    while refused - count > 1 + count // 50:
        middle = (count + refused) // 2
        if 503 in client.closed_loop(1.0, middle).latencies:
            refused = middle
        else:
            count = middle
    return count


def http_request(runtime: Runtime) -> tuple[bytes, dict[str, str]]:
    """One uint8 picture as a binary tensor; its probabilities, binary too."""
    picture = make_pictures(runtime, 1)
    tensor = {"name": runtime.running.manifest.input.name, "datatype": "UINT8", "shape": picture.shape}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": picture.nbytes}}], "outputs": [wanted]}).encode()
    return header + picture.tobytes(), {HEADER_LENGTH: str(len(header))}


def grpc_request(runtime: Runtime) -> bytes:
    """The same."""
    picture = make_pictures(runtime, 1)
    tensor = {"name": runtime.running.manifest.input.name, "datatype": "UINT8", "shape": picture.shape}
    asked = message("ModelInferRequest")(
        model_name="model", inputs=[tensor], outputs=[{"name": "probabilities"}], raw_input_contents=[picture.tobytes()]
    )
    serialised: bytes = asked.SerializeToString()
    return serialised


def sleep_instead(call_s: float, row_s: float) -> None:
    """Makes the fake backend take its time without the CPU: the same for every batch, as a GPU would, or so much a picture."""
    from alexnet_deploy.backends.fake import FakeBackend

    def run(self: FakeBackend, batch: np.ndarray) -> np.ndarray:
        time.sleep(call_s + len(batch) * row_s)
        return np.ones((len(batch), self.output.shape[-1] or 0), np.float32)

    FakeBackend.run = run  # type: ignore[method-assign]


def plot(samples_ms: dict[str, list[float]], ran: str) -> str:
    def said(values: list[float]) -> str:
        p50, p99 = np.percentile(values, (50, 99))
        return f"p50 {p50:.0f}, p99 {p99:.0f} ms"

    series = [
        plots.Series(name, values, text=said(values), colour=4 if "ideal" in name else 1)
        for name, values in samples_ms.items()
        if values
    ]
    return plots.as_file(plots.distributions(f"Latency of a served picture, ms: {ran}", series))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an artifact; an untrained full-size AlexNet when none is given")
    parser.add_argument("--flat", type=float, default=0.0, metavar="MS", help="no engine, but one that sleeps that long a call")
    parser.add_argument("--a-row", type=float, default=0.0, metavar="MS", help="... or that long a picture")
    parser.add_argument("--seconds", type=float, default=20.0, help="a measurement")
    parser.add_argument("--max-delay", type=float, default=2.0, metavar="MS", help="of the server")
    parser.add_argument("--max-wait", type=float, default=250.0, metavar="MS", help="of the server")
    parser.add_argument("--max-batch", type=int, default=64, help="of the server")
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("--name", default="", help="of the files in benchmarks/results")
    asked = parser.parse_args()
    sleeps = asked.flat or asked.a_row
    if sleeps:
        os.environ[_SLEEP_MS] = f"{asked.flat} {asked.a_row}"
    limits = Limits(asked.max_delay, asked.max_wait, asked.max_batch)
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or make_model(Path(folder), fake=bool(sleeps))
        engine = ["--backend", "fake"] if sleeps else []
        found = measure(model, engine, asked.seconds, limits)
    samples = found.pop("samples_ms")
    takes = f"{asked.flat:g} ms a call" if asked.flat else f"{asked.a_row:g} ms a picture"
    name = asked.name or (takes.replace(" ", "-") if sleeps else found["ran"]["backend"])
    result = {
        "machine": to_builtins(Machine.here()),
        "load_average_1min": round(os.getloadavg()[0], 1),
        "note": asked.note,
        **asdict(limits),
        **found,
    }
    ran = f"an engine of {takes}" if sleeps else f"{found['ran']['file']}, {found['ran']['backend']}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"serving-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"serving-{name}.svg").write_text(plot(samples, ran))
    print(json.dumps(result, indent=2))


def make_model(folder: Path, *, fake: bool) -> Path:
    if fake:
        from alexnet_deploy.backends.fake import write_fake

        labels = [str(number) for number in range(1000)]
        return write_fake(folder / "fake.onnx", labels=labels, height=224, width=224).path
    from calibration_cost import make_model as make_alexnet

    made: Path = make_alexnet(folder)
    return made


if __name__ == "__main__":
    if _SLEEP_MS in os.environ:
        sleep_instead(*(float(ms) / 1e3 for ms in os.environ[_SLEEP_MS].split()))
    match sys.argv[1:]:
        case [word, model, *engine] if word == _PREDICT:
            answer_predict(Path(model), engine)
        case [word, *_] if word == _SERVE:
            from alexnet_deploy.cli import main as alexnet_deploy

            alexnet_deploy(prog_name="alexnet-deploy")
        case _:
            main()
