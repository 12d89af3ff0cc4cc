"""What can be set about a server, checked once."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server listens, batches, and defends itself.

    Attributes:
        host: the address to bind; loopback unless told otherwise.
        port, grpc_port: 0 takes a free one; `grpc_port` None serves HTTP alone.
        max_batch: rows in one call of the engine, at most.
        max_delay_s: how long a row waits for others to share its call, while the engine is idle.
        max_wait_s: how long a row may wait for the engine when there is more work than it can do; beyond, requests are shed.
        max_body_bytes: of one request, also after decompression.
        max_rows: pictures in one request.
        max_connections: HTTP connections at once.
        body_timeout_s: a request's header and body must have arrived by then.
        grace_s: how long accepted requests get to finish after a stop.
        token: asked for as "Authorization: Bearer <token>" by everything but health and the page; "" asks nothing.
        tls_certificate, tls_key: PEM files; both or none.
        instances: engine calls at once, a model.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    max_batch: int = 64
    max_delay_s: float = 0.002
    max_wait_s: float = 0.25
    max_body_bytes: int = 64 << 20
    max_rows: int = 256
    max_connections: int = 1000
    body_timeout_s: float = 30.0
    grace_s: float = 30.0
    token: str = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    instances: int = 1

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_body_bytes", "max_rows", "max_connections", "instances"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", expected="at least 1")
        for name in ("max_delay_s", "max_wait_s", "grace_s"):
            if not 0 <= getattr(self, name) <= 3600:
                raise InputError(f"{name} is {getattr(self, name)}", expected="0 to 3600 seconds")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("TLS needs both a certificate and its key", expected="--tls-cert FILE --tls-key FILE")
        if not self.token.isascii() or any(c.isspace() for c in self.token):
            raise InputError("the token holds spaces or letters beyond ASCII", expected="ASCII without spaces")

    @property
    def tls(self) -> bool:
        return self.tls_certificate is not None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
