"""A request's body over HTTP: read within limits of size, time and memory, and decompressed within them too."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from alexnet_deploy.errors import ClientGone, InputError, Overloaded, RequestTooLarge
from alexnet_deploy.serving.settings import Settings

_BODIES_AT_ONCE = 16


class Bodies:
    """Reads the bodies of requests: each within the limits of size and time, and all of them within one of memory."""

    def __init__(self, settings: Settings) -> None:
        self._limit_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s
        self._left_bytes = _BODIES_AT_ONCE * settings.max_body_bytes

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, decompressed; its memory is accounted for while the block runs.

        Raises:
            RequestTooLarge: over the limit, as it came or decompressed.
            Overloaded: too many large ones at once.
            InputError: it is not compressed as it says.
            HTTPException: 408 when it does not arrive in time, 415 for a compression that is not known.
        """
        with ExitStack() as held:
            body = await self._receive(request, held)
            encoding = request.headers.get("content-encoding", "identity").lower()
            if encoding != "identity":
                with self._held(self._limit_bytes):
                    body = await asyncio.to_thread(_inflate, body, encoding, self._limit_bytes)
                held.enter_context(self._held(len(body)))
            yield body

    async def _receive(self, request: Request, held: ExitStack) -> bytes:
        declared = request.headers.get("content-length")
        if declared is not None:
            held.enter_context(self._held(int(declared)))  # a number: the parser has refused everything else
        pieces = []
        size_bytes = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                async for piece in request.stream():
                    size_bytes += len(piece)
                    if declared is None:
                        self._check_size(size_bytes)
                        held.enter_context(self._held(len(piece)))
                    pieces.append(piece)
        except TimeoutError as error:
            raise HTTPException(408, f"the body did not arrive in {self._timeout_s:g} s") from error
        except ClientDisconnect as error:
            raise ClientGone("the client hung up within its body") from error
        return b"".join(pieces)

    @contextmanager
    def _held(self, size_bytes: int) -> Iterator[None]:
        self._check_size(size_bytes)
        if size_bytes > self._left_bytes:
            raise Overloaded("too many large requests arrive at once", expected="fewer at a time", fix="ask again later")
        self._left_bytes -= size_bytes
        try:
            yield
        finally:
            self._left_bytes += size_bytes

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise RequestTooLarge(
                "the body is too large", expected=f"at most {self._limit_bytes:,} bytes", fix="serve --max-body"
            )


def _inflate(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Undoes gzip or deflate, and stops at the limit: a bomb costs no more than an honest body."""
    if encoding not in ("gzip", "deflate"):
        raise HTTPException(415, f"Content-Encoding {encoding[:32]!r}; expected gzip, deflate or none")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        plain = stream.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InputError(f"the body is no {encoding}: {error}", expected="what Content-Encoding says") from error
    if len(plain) > limit_bytes:
        raise RequestTooLarge("the body is too large when decompressed", expected=f"at most {limit_bytes:,} bytes")
    if not stream.eof:
        raise InputError(f"the {encoding} body ends too soon", expected="a whole one")
    if stream.unused_data:
        raise InputError(f"{len(stream.unused_data):,} bytes follow the {encoding} body", expected="nothing behind it")
    return plain
