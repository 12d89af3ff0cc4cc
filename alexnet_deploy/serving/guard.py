"""Who may ask, and how slowly: the token, pages of other sites, clients that never finish their headers, and overload.

What is refused because too much waits is refused as soon as its headers are there, without a task, a route or a look at its
body: an overloaded server must not spend itself on saying so.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Collection
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alexnet_deploy.serving.settings import Settings

MAX_HEADER_BYTES = 1 << 16
HEADER_TIMEOUT_S = 10.0
SMALL_BODY_BYTES = 1 << 18
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Answers what may not pass; everything else reaches the app.

    A server on loopback without a token is open to every page in a browser on the same machine, were it not for two
    checks: a request that a page of another site sends carries that site's Origin, and one whose name was made to point
    at 127.0.0.1 carries that name as its Host.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, public: Collection[str], overload: Callable[[str, str], bytes | None]
    ) -> None:
        """
        Args:
            public: paths that need no token.
            overload: the whole answer to a POST to this path with this query that has no chance now, or None.
        """
        self._app = app
        self._overload = overload
        self._token = settings.token
        self._any_host = bool(settings.token) or not settings.loopback
        self._own_host = settings.host
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refusal = self._refusal(scope["path"], headers)
            if refusal:
                await _refuse(send, *refusal)
                return
        await self._app(scope, receive, send)

    def turn_away(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """The whole answer to a POST that would be refused for overload, or None. Who may not ask is not told how busy it is."""
        path, _, query = url.decode("latin-1").partition("?")
        answer = self._overload(path, query)
        return None if answer is None or self._refusal(path, Headers(raw=headers)) else answer

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, f"this page may not ask: its origin is {origin[:128]!r}; expected {host[:128]!r}"
        name = urlsplit(f"//{host}").hostname or ""
        if not self._any_host and name not in _LOOPBACK_NAMES and name != self._own_host:
            return 403, f"the host is {host[:128]!r}; expected localhost. Try: --token, to serve under other names"
        if self._token and path not in self._public and not authorised(self._token, headers.get("authorization", "")):
            return 401, "no valid token; expected the header Authorization: Bearer <token>"
        return None


def authorised(token: str, header: str) -> bool:
    """Whether an Authorization header carries the token; takes as long for a near miss as for a far one."""
    return hmac.compare_digest(header.encode(), f"Bearer {token}".encode())


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = msgspec.json.encode({"error": sentence})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with what it lacks: limits on a header's size and on the time it takes, and a short way out.

    A request that is turned away has had its answer when its body arrives; that is read, as HTTP wants it, and dropped.
    """

    _header_bytes = 0
    _in_body = False
    _body_is_small = False
    _turned_away = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            if self._deadline is None:
                self._start_clock()
            self._header_bytes += len(data)
            # A whole small request in one piece is no long header: what counts is that many bytes came without its end.
            if self._header_bytes - len(data) > MAX_HEADER_BYTES:
                self.send_400_response("The header is too long.")
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._header_bytes = 0
        length = next((value for name, value in self.headers if name == b"content-length"), None)
        self._body_is_small = length is not None and int(length) <= SMALL_BODY_BYTES
        answer = self._answer_to_overload()
        if answer is None:
            self._stop_clock()
            super().on_headers_complete()
        else:  # the clock goes on: the body must come soon, too
            self.transport.write(answer)
            self._turned_away = True

    def on_body(self, body: bytes) -> None:
        if self._turned_away:
            return
        if self._body_is_small and not self.cycle.response_complete:
            self.cycle.body += body  # handed over when it is whole: pausing and waking for each piece costs more than a picture
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self._turned_away:
            super().on_message_complete()
            return
        self._turned_away = False
        self._stop_clock()
        if self.parser.should_keep_alive():
            self.on_response_complete()
        else:
            self.transport.close()

    def _answer_to_overload(self) -> bytes | None:
        answering = self.cycle is not None and not self.cycle.response_complete  # pipelined: answers must keep their order
        if answering or self.expect_100_continue or self.parser.get_method() != b"POST":
            return None
        return cast(Guard, self.app).turn_away(self.url, self.headers)

    def _start_clock(self) -> None:
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_S, self._give_up)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
