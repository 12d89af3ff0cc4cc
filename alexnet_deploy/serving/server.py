"""A server: sockets, HTTP, gRPC, and an orderly end.

server = Server(["models/alexnet.onnx"], Settings())
await server.start()
await server.stop()            # what was accepted is answered first

with background(["models/alexnet.onnx"], Settings(port=0)) as server:      # in a thread, for tests and notebooks
    print(server.http_url)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import grpc
import uvicorn

from alexnet_deploy.errors import AlexnetDeployError, InputError
from alexnet_deploy.serving.grpc_api import GrpcApi
from alexnet_deploy.serving.guard import GuardedProtocol
from alexnet_deploy.serving.http_api import HttpApi
from alexnet_deploy.serving.repository import Repository, Where
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.sources import Sources

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048
_KEEP_ALIVE_S = 30
_START_TIMEOUT_S = 120.0
# The engine's threads and the event loop ask each other for the interpreter all the time; Python's own 5 ms are longer than
# most of what either does in between, and were most of what a request waited for besides the engine.
_SWITCH_INTERVAL_S = 0.0005


class Server:
    """Artifacts behind HTTP and gRPC. Made, started and stopped in one event loop.

    Attributes:
        repository: the models.
        http_url: such as "http://127.0.0.1:8000", after `start`.
        grpc_address: such as "127.0.0.1:8001", or "" without gRPC.
    """

    def __init__(self, specs: Sequence[str], settings: Settings, **where: Unpack[Where]) -> None:
        """
        Args:
            specs: artifacts, NAME=artifact, NAME:VERSION=artifact, or repository folders.
            where: `device`, `backend` and `threads`, as Runtime takes them.

        Raises:
            ArtifactMissing, InputError: there is nothing to serve, or it is ambiguous.
        """
        self.repository = Repository(Sources(specs), settings, **where)
        self.http_url = ""
        self.grpc_address = ""
        self._settings = settings
        self._http_api = HttpApi(self.repository, settings)
        self._grpc_api = GrpcApi(self.repository, settings)
        self._http: uvicorn.Server | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._grpc: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Takes the ports, then loads the models; health answers while they load.

        Raises:
            InputError: a port is taken, or the TLS files are not usable.
            AlexnetDeployError: a model cannot be loaded.
        """
        try:
            await self._start_http()
            if self._settings.grpc_port is not None:
                await self._start_grpc(self._settings.grpc_port)
            await self.repository.load_all()
        except BaseException:
            await self.stop()
            raise
        self._http_api.ready = self._grpc_api.ready = True

    async def stop(self) -> None:
        """Takes no new connections, answers what was accepted (for `grace_s` at most), and releases the engines."""
        self._http_api.ready = self._grpc_api.ready = False
        stopping = []
        if self._http is not None and self._http_task is not None:
            self._http.should_exit = True
            stopping.append(self._http_task)
        if self._grpc is not None:
            stopping.append(asyncio.ensure_future(self._grpc.stop(self._settings.grace_s)))
        await asyncio.gather(*stopping)
        await self.repository.close()

    async def _start_http(self) -> None:
        settings = self._settings
        listening = _bound(settings.host, settings.port)
        config = uvicorn.Config(
            self._http_api.app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.grace_s)),
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            listening.close()
            raise InputError(
                f"the TLS certificate or key cannot be used: {error}", expected="two PEM files that belong together"
            ) from error
        self._http = _Uvicorn(config)
        self._http_task = asyncio.create_task(self._http.serve([listening]))
        while not self._http.started and not self._http_task.done():
            await asyncio.sleep(0.005)
        scheme = "https" if settings.tls else "http"
        self.http_url = f"{scheme}://{_joined(settings.host, listening.getsockname()[1])}"

    async def _start_grpc(self, port: int) -> None:
        settings = self._settings
        self._grpc = grpc.aio.server(
            maximum_concurrent_rpcs=settings.max_connections,
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else two servers share a port, and each gets half of the requests
            ],
        )
        self._grpc_api.add_to(self._grpc)
        _bound(settings.host, port).close()  # gRPC reports a taken port in a line of its own making
        address = _joined(settings.host, port)
        try:
            if settings.tls_certificate is not None and settings.tls_key is not None:
                pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
                taken = self._grpc.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                taken = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise _taken(settings.host, port) from error
        await self._grpc.start()
        self.grpc_address = _joined(settings.host, taken)


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
            asked_to_stop.set()

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        server = Server(specs, settings, **where)
        await server.start()
        gc.collect()
        gc.freeze()  # what is here stays: looking through all of it again took 30 ms each time, in which nothing was answered
        announce(server)
        ready = time.monotonic()
        await asked_to_stop.wait()
        await server.stop()
        return Summary(round(time.monotonic() - ready, 3), server.repository.metrics.totals())

    return asyncio.run(run())


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the command line stops the server as a whole."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError when the port is taken or the address is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"the host {host!r} is not known: {error.strerror}", expected="an address of this machine") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(host, port) from error
        raise InputError(
            f"cannot listen on {_joined(host, port)}: {error.strerror}", expected="a free port of this machine", fix="--port 0"
        ) from error
    return listening


def _taken(host: str, port: int) -> InputError:
    return InputError(f"port {port} on {host} is taken", expected="a free port", fix="--port 0 and --grpc-port 0 take free ones")


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
