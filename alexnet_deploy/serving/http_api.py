"""HTTP: the Open Inference Protocol with binary tensors, POST /classify for curl, /metrics, and the page at /.

curl --data-binary @cat.jpg http://127.0.0.1:8000/classify
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from alexnet_deploy.errors import (
    AccessDenied,
    AlexnetDeployError,
    ClientGone,
    InputError,
    Overloaded,
    PictureError,
    RequestTooLarge,
    UnknownModel,
)
from alexnet_deploy.serving import description
from alexnet_deploy.serving.guard import Guard
from alexnet_deploy.serving.http_body import Bodies
from alexnet_deploy.serving.http_codec import answer, parse
from alexnet_deploy.serving.metrics import CONTENT_TYPE
from alexnet_deploy.serving.repository import Repository
from alexnet_deploy.serving.settings import Settings

logger = logging.getLogger(__name__)

HEADER_LENGTH = "Inference-Header-Content-Length"
_INFER_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/infer")
_CLASSIFY_PATH = "/classify"
_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: %d\r\ncontent-length: %d\r\n\r\n%b"
)
_LARGE_JSON_BYTES = 1 << 16
_MAX_TOP = 1000
_PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# The first that fits an error; everything else is 500.
_STATUS: tuple[tuple[type[AlexnetDeployError], int], ...] = (
    (UnknownModel, 404),
    (RequestTooLarge, 413),
    (AccessDenied, 401),
    (Overloaded, 503),
    (ClientGone, 499),  # nginx's number; nobody reads it
    (InputError, 400),
    (PictureError, 400),
)


class HttpApi:
    """The handlers; `app` is what a server runs.

    Attributes:
        ready: whether /v2/health/ready says so; false while the server starts and while it stops.
    """

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self.ready = False
        self._repository = repository
        self._settings = settings
        self._bodies = Bodies(settings)
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        routes = [
            # The first that fits is taken: what is asked for most comes first.
            *(Route(f"{path}/infer", self._infer, methods=["POST"]) for path in (model, version)),
            *(Route(path, self._page) for path in _PAGE),
            Route(_CLASSIFY_PATH, self._classify, methods=["POST"]),
            Route("/metrics", self._metrics),
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/models/stats", self._statistics),
            *(Route(path, self._model) for path in (model, version)),
            *(Route(f"{path}/ready", self._model_ready) for path in (model, version)),
            *(Route(f"{path}/config", self._config) for path in (model, version)),
            *(Route(f"{path}/stats", self._statistics) for path in (model, version)),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
        ]
        handlers: Any = {AlexnetDeployError: _explain, HTTPException: _explain_http, Exception: _internal}
        self.app = Guard(
            Starlette(routes=routes, exception_handlers=handlers),
            settings,
            public={*_PAGE, "/v2/health/live", "/v2/health/ready"},
            overload=self._overload,
        )

    def _overload(self, path: str, query: str) -> bytes | None:
        """A whole 503 for a request whose model has too much to do already, made before its body is looked at."""
        asked = _INFER_PATH.fullmatch(path)
        if asked:
            name, version, protocol = unquote(asked["model"]), asked["version"] or "", "http"
        elif path == _CLASSIFY_PATH:
            (name, version), protocol = self._chosen(QueryParams(query)), "classify"
        else:
            return None
        try:
            with self._repository.leased(name, version) as model:
                error = model.batcher.overload()
        except UnknownModel:
            return None
        if error is None:
            return None
        self._repository.metrics.shed(name, model.version, protocol)
        body = _error(str(error))
        return _TURNED_AWAY % (_retry_after_s(error), len(body), body)

    # --- the protocol

    async def _live(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(status_code=200)

    async def _ready(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(status_code=200 if self.ready else 503)

    async def _server(self, request: HttpRequest) -> HttpResponse:
        return _json(description.server())

    async def _model(self, request: HttpRequest) -> HttpResponse:
        return _json(self._repository.metadata(*_named(request)))

    async def _model_ready(self, request: HttpRequest) -> HttpResponse:
        with self._repository.leased(*_named(request)):
            return HttpResponse(status_code=200)

    async def _config(self, request: HttpRequest) -> HttpResponse:
        return _json(description.config(self._repository.metadata(*_named(request)), self._settings))

    async def _statistics(self, request: HttpRequest) -> HttpResponse:
        return _json({"model_stats": description.statistics(self._repository, *_named(request))})

    async def _infer(self, request: HttpRequest) -> HttpResponse:
        name, version = _named(request)
        with self._repository.leased(name, version) as model, self._repository.metrics.request(name, model.version, "http"):
            async with self._bodies.read(request) as body:
                header_bytes = _header_length(request, len(body))
                large = header_bytes > _LARGE_JSON_BYTES
                parsed, binary = await asyncio.to_thread(parse, body, header_bytes) if large else parse(body, header_bytes)
                with _unless_gone(request):
                    response = await model.infer(parsed)
        content, json_bytes = answer(response, binary)
        if json_bytes is None:
            return HttpResponse(content, media_type="application/json")
        return HttpResponse(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_bytes)})

    # --- the repository

    async def _index(self, request: HttpRequest) -> HttpResponse:
        return _json(self._repository.index())

    async def _load(self, request: HttpRequest) -> HttpResponse:
        await self._repository.load(request.path_params["model"])
        return HttpResponse(status_code=200)

    async def _unload(self, request: HttpRequest) -> HttpResponse:
        await self._repository.unload(request.path_params["model"])
        return HttpResponse(status_code=200)

    # --- for people

    async def _classify(self, request: HttpRequest) -> HttpResponse:
        """The body is a picture; ?model= and ?version= choose a model, ?top= how many classes."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise InputError(
                "the request is a form", expected="the picture itself as the body", fix="curl --data-binary @picture.jpg"
            )
        name, version = self._chosen(request.query_params)
        top = _integer(request.query_params.get("top", "5"), "top", 1, _MAX_TOP)
        with (
            self._repository.leased(name, version) as model,
            self._repository.metrics.request(name, model.version, "classify"),
        ):
            async with self._bodies.read(request) as body:
                if not body:
                    raise InputError("the body is empty", expected="a picture", fix="curl --data-binary @picture.jpg")
                with _unless_gone(request):
                    probabilities = await model.probabilities(body)
        best = probabilities.argsort(kind="stable")[::-1][:top]
        label = model.runtime.manifest.label
        predictions = [{"label": label(int(i)), "probability": float(probabilities[i])} for i in best]
        return _json({"model": name, "version": model.version, "predictions": predictions})

    def _chosen(self, query: QueryParams) -> tuple[str, str]:
        """The model and version that /classify is asked for; the first model where none is named."""
        return query.get("model") or next((model.name for model in self._repository.models()), ""), query.get("version", "")

    async def _metrics(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(self._repository.metrics.text(), media_type=CONTENT_TYPE)

    async def _page(self, request: HttpRequest) -> HttpResponse:
        name, media_type = _PAGE[request.url.path]
        return HttpResponse(_asset(name), media_type=media_type, headers=_PAGE_HEADERS)


def _header_length(request: HttpRequest, body_bytes: int) -> int:
    """How much of the body is JSON; the rest is binary tensors."""
    text = request.headers.get(HEADER_LENGTH)
    return body_bytes if text is None else _integer(text, HEADER_LENGTH, 0, body_bytes)


def _integer(text: str, name: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and low <= int(text) <= high):
        raise InputError(f"{name} is {text[:32]!r}", expected=f"{low:,} to {high:,}")
    return int(text)


@contextmanager
def _unless_gone(request: HttpRequest) -> Iterator[None]:
    """Stops the block when the client hangs up: nothing is computed for nobody. Raises ClientGone then."""
    task = asyncio.current_task()
    assert task is not None
    hung_up = False

    def stop(_: object) -> None:
        nonlocal hung_up
        hung_up = True
        task.cancel()

    gone = asyncio.ensure_future(request.receive())  # the body is read: the next message is that the client has gone
    gone.add_done_callback(stop)
    try:
        yield
    except asyncio.CancelledError:
        if hung_up and task.uncancel() == 0:
            raise ClientGone("the client hung up") from None
        raise
    finally:
        gone.remove_done_callback(stop)
        gone.cancel()


def _named(request: HttpRequest) -> tuple[str, str]:
    return request.path_params.get("model", ""), request.path_params.get("version", "")


def _json(value: object) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(value), media_type="application/json")


async def _explain(request: HttpRequest, error: AlexnetDeployError) -> HttpResponse:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": str(_retry_after_s(error))} if isinstance(error, Overloaded) else None
    if status == 500:
        logger.error("%s", error)
    return HttpResponse(_error(str(error)), status, headers, "application/json")


def _retry_after_s(error: Overloaded) -> int:
    return max(1, round(error.retry_after_s))


async def _explain_http(request: HttpRequest, error: HTTPException) -> HttpResponse:
    return HttpResponse(_error(error.detail), error.status_code, dict(error.headers or {}), "application/json")


async def _internal(request: HttpRequest, error: Exception) -> HttpResponse:
    """The traceback goes to the server's log, not to the client."""
    return HttpResponse(_error("internal error"), 500, media_type="application/json")


def _error(sentence: str) -> bytes:
    return msgspec.json.encode({"error": sentence})


@cache
def _asset(name: str) -> bytes:
    return (files("alexnet_deploy.serving") / "web" / name).read_bytes()
