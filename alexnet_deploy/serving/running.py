"""A server until it is told to stop: as a command, or in a thread.

serve(["models/alexnet.onnx"], Settings(), announce)                          # until SIGINT or SIGTERM

with background(["models/alexnet.onnx"], Settings(port=0)) as server:         # for tests and notebooks
    print(server.http_url)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.serving.repository import Where
from alexnet_deploy.serving.server import Server
from alexnet_deploy.serving.settings import Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_START_TIMEOUT_S = 120.0
# The engine's threads and the event loop ask each other for the interpreter all the time; Python's own 5 ms are longer than
# most of what either does in between, and were most of what a request waited for besides the engine.
_SWITCH_INTERVAL_S = 0.0001


@dataclass(frozen=True, slots=True)
class Summary:
    """What a server did.

    Attributes:
        seconds: from ready to stopped.
        requests: how many, by outcome: "ok", "shed", "refused", "cancelled", "error".
    """

    seconds: float
    requests: dict[str, int]


def serve(
    specs: Sequence[str],
    settings: Settings,
    announce: Callable[[Server], None],
    **where: Unpack[Where],
) -> Summary:
    """Serves until SIGINT or SIGTERM; a second one ends the process at once.

    Args:
        specs, where: as Server takes them.
        announce: called when the server is ready.
    """

    async def run() -> Summary:
        loop = asyncio.get_running_loop()
        asked_to_stop = asyncio.Event()

        def stop() -> None:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)  # at once: behind a KeyboardInterrupt Python waits for the engines' threads
            asked_to_stop.set()

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        server = Server(specs, settings, **where)
        await server.start()
        try:
            gc.collect()
            gc.freeze()  # what is here stays: looking through all of it again took 30 ms each time, in which nothing was answered
            announce(server)
            ready = time.monotonic()
            await asked_to_stop.wait()
        finally:
            await server.stop()
        return Summary(round(time.monotonic() - ready, 3), server.repository.metrics.totals())

    before = [signal.getsignal(number) for number in _SIGNALS]
    try:
        return asyncio.run(run())
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def background(specs: Sequence[str | Path], settings: Settings, **where: Unpack[Where]) -> Iterator[Server]:
    """A server in a thread of its own, stopped when the block ends. Raises what `Server` and `start` raise.

    Args:
        specs, where: as Server takes them.
    """
    started: list[Server] = []
    failed: list[BaseException] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def run() -> None:
        server = Server([str(spec) for spec in specs], settings, **where)
        await server.start()
        started.append(server)
        ready.set()
        await stopping.wait()
        await server.stop()

    def thread() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    running = threading.Thread(target=thread, name="alexnet-deploy-server")
    running.start()
    if not ready.wait(_START_TIMEOUT_S):
        raise AlexnetDeployError(
            f"the server did not start in {_START_TIMEOUT_S:g} s", fix="alexnet-deploy serve -vv, which tells what it waits for"
        )
    try:
        if started:
            yield started[0]
    finally:
        if started and not failed:
            loop.call_soon_threadsafe(stopping.set)
        running.join()
    if failed:
        raise failed[0]
