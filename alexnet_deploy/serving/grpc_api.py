"""gRPC: the Open Inference Protocol, as Triton's and KServe's clients speak it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict

from alexnet_deploy.errors import (
    AccessDenied,
    AlexnetDeployError,
    InputError,
    Overloaded,
    PictureError,
    RequestTooLarge,
    UnknownModel,
)
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.serving import description
from alexnet_deploy.serving.guard import authorised
from alexnet_deploy.serving.messages import SERVICE, message
from alexnet_deploy.serving.repository import Repository
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.tensors import DTYPES, Request, Response, Tensor, WantedOutput, from_raw, from_values, to_raw

logger = logging.getLogger(__name__)

Handler = Callable[[Any, Any], Awaitable[Any]]
_PUBLIC = frozenset({"ServerLive", "ServerReady"})
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# The first that fits an error; everything else is INTERNAL.
_CODES: tuple[tuple[type[AlexnetDeployError], grpc.StatusCode], ...] = (
    (UnknownModel, grpc.StatusCode.NOT_FOUND),
    (RequestTooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (AccessDenied, grpc.StatusCode.UNAUTHENTICATED),
    (Overloaded, grpc.StatusCode.UNAVAILABLE),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (PictureError, grpc.StatusCode.INVALID_ARGUMENT),
)


class GrpcApi:
    """The handlers; `add_to` hangs them into a server.

    Attributes:
        ready: whether ServerReady says so.
    """

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self.ready = False
        self._repository = repository
        self._settings = settings

    def add_to(self, server: grpc.aio.Server) -> None:
        calls: dict[str, Handler] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, call), message(f"{name}Request").FromString, lambda answer: answer.SerializeToString()
            )
            for name, call in calls.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, message("ModelInferRequest").FromString, lambda answer: answer.SerializeToString()
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def _guarded(self, name: str, call: Handler) -> Handler:
        """The handler behind the token, its errors turned into status codes."""

        async def guarded(request: Any, context: Any) -> Any:
            try:
                if name not in _PUBLIC:
                    self._check_token(context)
                return await call(request, context)
            except AlexnetDeployError as error:
                await _abort(context, error)

        return guarded

    def _check_token(self, context: Any) -> None:
        header = dict(context.invocation_metadata() or ()).get("authorization", "")
        if self._settings.token and not authorised(self._settings.token, str(header)):
            raise AccessDenied("no valid token", expected="the metadata authorization: Bearer <token>")

    async def _live(self, request: Any, context: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, context: Any) -> Any:
        return message("ServerReadyResponse")(ready=self.ready)

    async def _server(self, request: Any, context: Any) -> Any:
        return message("ServerMetadataResponse")(**description.server())

    async def _model_ready(self, request: Any, context: Any) -> Any:
        try:
            with self._repository.leased(request.name, request.version):
                return message("ModelReadyResponse")(ready=True)
        except UnknownModel:
            return message("ModelReadyResponse")(ready=False)

    async def _metadata(self, request: Any, context: Any) -> Any:
        metadata = self._repository.metadata(request.name, request.version)
        return message("ModelMetadataResponse")(**to_builtins(metadata))

    async def _config(self, request: Any, context: Any) -> Any:
        config = description.config(self._repository.metadata(request.name, request.version), self._settings)
        return ParseDict({"config": config}, message("ModelConfigResponse")())

    async def _statistics(self, request: Any, context: Any) -> Any:
        statistics = description.statistics(self._repository, request.name, request.version)
        return ParseDict({"model_stats": statistics}, message("ModelStatisticsResponse")())

    async def _index(self, request: Any, context: Any) -> Any:
        entries = [to_builtins(entry) for entry in self._repository.index()]
        return message("RepositoryIndexResponse")(models=[e for e in entries if e["state"] == "READY" or not request.ready])

    async def _load(self, request: Any, context: Any) -> Any:
        await self._repository.load(request.model_name)
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Any, context: Any) -> Any:
        await self._repository.unload(request.model_name)
        return message("RepositoryModelUnloadResponse")()

    async def _infer(self, request: Any, context: Any) -> Any:
        # gRPC cancels this coroutine when the client hangs up: nothing is computed for nobody.
        name, version = request.model_name, request.model_version
        with self._repository.leased(name, version) as model, self._repository.metrics.request(name, model.version, "grpc"):
            if refusal := model.batcher.overload():
                raise refusal
            return _answer(await model.infer(_parse(request)))

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One answer a request, in order; an error answers its own request and leaves the stream open."""
        try:
            self._check_token(context)
        except AccessDenied as error:
            await _abort(context, error)
        answer = message("ModelStreamInferResponse")
        async for request in requests:
            try:
                yield answer(infer_response=await self._infer(request, context))
            except AlexnetDeployError as error:
                yield answer(error_message=str(error), infer_response=message("ModelInferResponse")(id=request.id))


def _parse(request: Any) -> Request:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"{len(raw)} raw contents for {len(request.inputs)} inputs", expected="one each")
    inputs = []
    for index, tensor in enumerate(request.inputs):
        if raw:
            inputs.append(from_raw(tensor.name, tensor.datatype, list(tensor.shape), raw[index]))
        else:
            inputs.append(from_values(tensor.name, tensor.datatype, list(tensor.shape), _contents(tensor)))
    wanted = tuple(WantedOutput(t.name, int(t.parameters["classification"].int64_param)) for t in request.outputs)
    return Request(tuple(inputs), wanted, request.id)


def _contents(tensor: Any) -> Any:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        known = tensor.datatype in DTYPES
        raise InputError(
            f"input {tensor.name[:64]!r} has the datatype {tensor.datatype[:32]!r}",
            expected="raw_input_contents for it" if known else f"one of {', '.join(_CONTENTS)}",
        )
    return getattr(tensor.contents, field)


def _answer(response: Response) -> Any:
    """Always with raw contents: tritonclient reads no others."""
    return message("ModelInferResponse")(
        model_name=response.model,
        model_version=response.version,
        id=response.id,
        outputs=[_described(tensor) for tensor in response.outputs],
        raw_output_contents=[to_raw(tensor) for tensor in response.outputs],
    )


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}


async def _abort(context: Any, error: AlexnetDeployError) -> None:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        logger.error("%s", error)
    if isinstance(error, Overloaded):
        context.set_trailing_metadata((("retry-after", str(max(1, round(error.retry_after_s)))),))
    await context.abort(code, str(error))
