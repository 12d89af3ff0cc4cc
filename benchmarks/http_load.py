"""Load for a server: one thread, raw sockets, and the same prepared request again and again.

It costs little, so that a slow client is not taken for a slow server, and counts from the moment when a request was due:
one that could not be sent in time has waited all the same.
"""

from __future__ import annotations

import heapq
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

MOST_CONNECTIONS = 900
AFTER_503_S = 0.1
_LAST_ANSWERS_S = 30.0
_PIECE_BYTES = 1 << 16
# The selector rounds waits up to a millisecond; the last one before a request is due is spun through.
_SPIN_S = 0.0015
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Answers:
    """Latencies in seconds by HTTP status, and when each ended; `late`: requests that found no free connection in the client."""

    latencies: dict[int, list[float]] = field(default_factory=dict)
    ended: dict[int, list[float]] = field(default_factory=dict)
    late: int = 0

    @property
    def accepted_ms(self) -> list[float]:
        return [1e3 * seconds for seconds in self.latencies.get(200, [])]

    def add(self, status: int, seconds: float) -> None:
        self.latencies.setdefault(status, []).append(seconds)
        self.ended.setdefault(status, []).append(time.perf_counter())

    def accepted_ms_outside(self, pauses: Sequence[tuple[float, float]]) -> list[float]:
        """Latencies of the accepted that were under way in none of these intervals."""
        requests = zip(self.latencies.get(200, []), self.ended.get(200, []), strict=True)
        return [
            1e3 * seconds
            for seconds, end in requests
            if not any(pause_start <= end and end - seconds <= pause_end for pause_start, pause_end in pauses)
        ]

    def summary(self) -> dict[str, float]:
        counts = {f"status_{status}": len(seconds) for status, seconds in sorted(self.latencies.items())}
        p50, p90, p99 = (round(float(np.percentile(self.accepted_ms or [0.0], p)), 2) for p in (50, 90, 99))
        return {**counts, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "client_late": self.late}


class _Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due = 0.0
        self.unsent = memoryview(b"")
        self.received = bytearray()

    def answer(self) -> int:
        """The status of an answer that is complete, or 0."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return 0
        length = _LENGTH.search(self.received, 0, end)
        if self.unsent or len(self.received) < end + 4 + (int(length[1]) if length else 0):
            return 0
        return int(self.received[9:12])


class Client:
    """Kept connections to one server."""

    def __init__(self, address: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        host, _, port = address.partition(":")
        self._address = (host, int(port))
        lines = [f"POST {path} HTTP/1.1", f"Host: {address}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = memoryview("\r\n".join([*lines, "\r\n"]).encode() + body)
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._open = 0

    def close(self) -> None:
        """Closes idle connections; to be called before a pause too, which the server would not wait out."""
        for connection in self._idle:
            self._forget(connection)
        self._idle.clear()

    def closed_loop(self, seconds: float, in_flight: int) -> Answers:
        """`in_flight` requests under way at any time; who is told to come back later does so after a tenth of a second."""
        end = time.perf_counter() + seconds

        def again(status: int, now: float) -> float | None:
            due = now + (AFTER_503_S if status == 503 else 0.0)
            return due if due < end else None

        return self._drive([0.0] * in_flight, again)

    def open_loop(self, moments: Iterable[float]) -> Answers:
        """Requests at these moments, in seconds from now, whatever becomes of those before."""
        return self._drive(moments, lambda status, now: None)

    def _drive(self, moments: Iterable[float], again: Callable[[int, float], float | None]) -> Answers:
        answers = Answers()
        start = time.perf_counter()
        ahead = [start + moment for moment in moments]
        heapq.heapify(ahead)
        under_way = 0
        end = max(ahead, default=start) + _LAST_ANSWERS_S
        while ahead or under_way:
            now = time.perf_counter()
            if not ahead and now > end:
                raise SystemExit(f"{under_way} requests were not answered in {_LAST_ANSWERS_S:g} s")
            while ahead and ahead[0] <= now:
                due = heapq.heappop(ahead)
                if self._idle or self._open < MOST_CONNECTIONS:
                    self._send(due)
                    under_way += 1
                else:
                    answers.late += 1
            wait_s = max(0.0, ahead[0] - time.perf_counter() - _SPIN_S) if ahead else 1.0
            for key, events in self._selector.select(wait_s):
                connection: _Connection = key.data
                status = self._go_on(connection, events)
                if status:
                    under_way -= 1
                    now = time.perf_counter()
                    answers.add(status, now - connection.due)
                    end = max(end, now + _LAST_ANSWERS_S)
                    due_again = again(status, now)
                    if due_again is not None:
                        heapq.heappush(ahead, due_again)
        return answers

    def _send(self, due: float) -> None:
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = _Connection(self._address)
            self._open += 1
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.due = due
        connection.unsent = self._request
        self._write(connection)
        if connection.unsent:
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _write(self, connection: _Connection) -> None:
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            return

    def _go_on(self, connection: _Connection, events: int) -> int:
        """Sends and reads what can be; the status of the answer that is complete now, or 0."""
        if events & selectors.EVENT_WRITE:
            self._write(connection)
            if not connection.unsent:
                self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
        if events & selectors.EVENT_READ:
            piece = connection.socket.recv(_PIECE_BYTES)
            if not piece:
                self._forget(connection)
                if connection in self._idle:  # the server has ended a connection that nothing was asked on
                    self._idle.remove(connection)
                    return 0
                raise SystemExit("the server hung up on a request")
            connection.received += piece
        status = connection.answer()
        if status:
            connection.received.clear()
            self._idle.append(connection)
        return status

    def _forget(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._open -= 1
