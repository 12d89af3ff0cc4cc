"""Load for a server: a bare HTTP/1.1 client on asyncio that sends the same prepared bytes again and again."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field

import numpy as np

MOST_CONNECTIONS = 200
_AFTER_503_S = 0.1


@dataclass
class Answers:
    """Latencies in seconds by HTTP status; `late`: requests that found no free connection in the client."""

    latencies: dict[int, list[float]] = field(default_factory=dict)
    late: int = 0

    @property
    def accepted_ms(self) -> list[float]:
        return [1e3 * seconds for seconds in self.latencies.get(200, [])]

    def add(self, status: int, seconds: float) -> None:
        self.latencies.setdefault(status, []).append(seconds)

    def summary(self) -> dict[str, float]:
        counts = {f"status_{status}": len(seconds) for status, seconds in sorted(self.latencies.items())}
        p50, p90, p99 = (round(float(np.percentile(self.accepted_ms or [0.0], p)), 2) for p in (50, 90, 99))
        return {**counts, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "client_late": self.late}


class Client:
    """Kept connections to one server."""

    def __init__(self, address: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        lines = [f"POST {path} HTTP/1.1", f"Host: {address}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = "\r\n".join([*lines, "\r\n"]).encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = 0

    async def ask(self, answers: Answers) -> int:
        """Sends one request; its status, or 0 where all connections are busy."""
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


async def closed_loop(client: Client, seconds: float, in_flight: int) -> Answers:
    """`in_flight` requests under way at any time; who is told to come back later does so after a tenth of a second."""
    answers = Answers()
    end = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            if await client.ask(answers) == 503:
                await asyncio.sleep(_AFTER_503_S)

    await asyncio.gather(*(one() for _ in range(in_flight)))
    return answers


async def open_loop(client: Client, per_s: float, seconds: float) -> Answers:
    """Requests at random moments (a Poisson process), whatever becomes of those before."""
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
