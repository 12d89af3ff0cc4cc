"""A server: sockets, HTTP, gRPC, and an orderly end.

server = Server(["models/alexnet.onnx"], Settings())
await server.start()
await server.stop()            # what was accepted is answered first
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator, Sequence
from typing import Unpack

import grpc
import uvicorn

from alexnet_deploy.errors import InputError
from alexnet_deploy.serving.grpc_api import GrpcApi
from alexnet_deploy.serving.guard import GuardedProtocol
from alexnet_deploy.serving.http_api import HttpApi
from alexnet_deploy.serving.ports import bound, joined, port_taken
from alexnet_deploy.serving.repository import Repository, Where
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.sources import Sources

_KEEP_ALIVE_S = 30


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
        try:
            await asyncio.gather(*stopping)
        finally:  # or the engines' threads would keep the process from ending
            await self.repository.close()

    async def _start_http(self) -> None:
        settings = self._settings
        listening = bound(settings.host, settings.port)
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
        self.http_url = f"{scheme}://{joined(settings.host, listening.getsockname()[1])}"

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
        bound(settings.host, port).close()  # gRPC reports a taken port in a line of its own making
        address = joined(settings.host, port)
        try:
            if settings.tls_certificate is not None and settings.tls_key is not None:
                pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
                taken = self._grpc.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                taken = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise port_taken(settings.host, port) from error
        await self._grpc.start()
        self.grpc_address = joined(settings.host, taken)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the command line stops the server as a whole."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
