"""One served model: a Runtime behind its queue.

Its input may come in three forms, under the one name that the graph gives it: the graph's own tensor; UINT8 pictures
(N, H, W, 3) of any size, RGB; or BYTES, one picture file a row. Its outputs are the graph's own, and where that is logits
also "probabilities".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import InputError, RequestTooLarge
from alexnet_deploy.preprocess import Pixels, decode_fitted, normalise, prepare
from alexnet_deploy.runtime import Runtime, softmax
from alexnet_deploy.serving.batching import Batcher, BatchRecord
from alexnet_deploy.serving.cost import Cost
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.tensors import DATATYPES, Request, Response, Tensor, WantedOutput, strings
from alexnet_deploy.types import OutputKind, TensorSpec

Rows = npt.NDArray[Any]
PROBABILITIES = "probabilities"
_UNKNOWN_AXIS = -1
_SMALL_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the protocol's metadata has it; -1 stands for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """A model as the protocol describes it."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class ServedModel:
    """One version of one model, answering requests until it is closed.

    Attributes:
        name, version: how requests call it.
        runtime: what computes.
        batcher: the queue before it.
    """

    def __init__(
        self,
        name: str,
        version: str,
        runtime: Runtime,
        cost: Cost,
        settings: Settings,
        preparing: ThreadPoolExecutor,
        record: Callable[[BatchRecord], None],
        behind: Callable[[], bool],
    ) -> None:
        """To be made in the event loop that will use it; `cost` comes from `measure`, the rest is as Batcher takes it."""
        self.name = name
        self.version = version
        self.runtime = runtime
        self.batcher = Batcher(
            self._run,
            cost,
            max_batch=settings.max_batch,
            max_delay_s=settings.max_delay_s,
            max_wait_s=settings.max_wait_s,
            instances=settings.instances,
            record=record,
            behind=behind,
        )
        self._max_rows = settings.max_rows
        self._preparing = preparing
        self._input = runtime.running.manifest.input
        self._output = runtime.running.manifest.output
        self._gives_logits = runtime.running.manifest.output_kind is OutputKind.LOGITS
        self._leases = 0
        self._returned = asyncio.Event()

    @contextmanager
    def leased(self) -> Iterator[ServedModel]:
        """Keeps the model from closing while the block runs."""
        self._leases += 1
        try:
            yield self
        finally:
            self._leases -= 1
            self._returned.set()

    async def close(self) -> None:
        """Waits for every lease, then releases the engine."""
        while self._leases:
            self._returned.clear()
            await self._returned.wait()
        await self.batcher.close()
        await asyncio.to_thread(self.runtime.close)

    async def infer(self, request: Request) -> Response:
        """Answers one request.

        Raises:
            InputError: the request does not fit the model, or holds NaN or infinity.
            PictureError: a BYTES row is no picture.
            RequestTooLarge: more rows than the server takes.
            Overloaded: the queue is full.
            BackendError: the engine failed.
        """
        tensor = self._check(request)
        if tensor.rows == 0:
            raw = np.empty((0, self.classes), np.float32)
        else:
            raw = await self.batcher.answer(tensor.rows, partial(self._rows, tensor))
        wanted = request.wanted or tuple(WantedOutput(name) for name in self._outputs())
        return Response(self.name, self.version, tuple(self._give(want, raw) for want in wanted), request.id)

    async def probabilities(self, picture: bytes) -> npt.NDArray[np.float32]:
        """float32 (classes,): the answer to one picture file."""
        array = np.empty(1, object)
        array[0] = picture
        request = Request((Tensor(self._input.name, "BYTES", array),), (WantedOutput(self._outputs()[-1]),))
        answer: npt.NDArray[np.float32] = (await self.infer(request)).outputs[0].array[0]
        return answer

    @property
    def classes(self) -> int:
        classes = self._output.shape[-1]
        assert classes is not None  # Runtime refuses an open number of classes
        return classes

    def metadata(self, versions: tuple[str, ...]) -> Metadata:
        return Metadata(
            self.name,
            versions,
            f"{self.runtime.backend.replace('-', '_')}_{self.runtime.running.manifest.kind}",
            (_info(self._input),),
            tuple(TensorInfo(name, "FP32", (_UNKNOWN_AXIS, self.classes)) for name in self._outputs()),
        )

    def _outputs(self) -> tuple[str, ...]:
        """Names of the outputs; the last gives probabilities."""
        own = self._output.name
        return (own, PROBABILITIES) if self._gives_logits and own != PROBABILITIES else (own,)

    def _check(self, request: Request) -> Tensor:
        """The request's one input, if the request fits."""
        if len(request.inputs) != 1 or request.inputs[0].name != self._input.name:
            names = ", ".join(repr(t.name[:64]) for t in request.inputs[:4]) or "none"
            raise InputError(f"the inputs are {names}", expected=f"one input, {self._input.name!r}")
        for want in request.wanted:
            if want.name not in self._outputs():
                raise InputError(f"there is no output {want.name[:64]!r}", expected=f"one of {', '.join(self._outputs())}")
            if want.classes < 0:
                raise InputError(f"classification is {want.classes}", expected="a number of classes")
        tensor = request.inputs[0]
        shape = tensor.array.shape
        own = (
            tensor.datatype == DATATYPES[self._input.dtype]
            and len(shape) == len(self._input.shape)
            and all(e in (None, n) for e, n in zip(self._input.shape[1:], shape[1:], strict=True))
        )
        pictures = tensor.datatype == "UINT8" and len(shape) == 4 and shape[-1] == 3 and 0 not in shape[1:3]
        files = tensor.datatype == "BYTES" and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
        if not (own or pictures or files):
            info = _info(self._input)
            raise InputError(
                f"input {tensor.name!r} is {tensor.datatype} {list(shape)}",
                expected=f"{info.datatype} {list(info.shape)}, UINT8 [-1, height, width, 3] (RGB), or BYTES [-1] (picture files)",
            )
        if tensor.rows > self._max_rows:
            raise RequestTooLarge(f"the request has {tensor.rows:,} pictures", expected=f"at most {self._max_rows:,}")
        return tensor

    async def _rows(self, tensor: Tensor) -> Rows:
        """The engine's own input. Everything that takes longer than a turn of a thread happens in one."""
        if tensor.datatype == "BYTES":
            in_thread = partial(asyncio.get_running_loop().run_in_executor, self._preparing)
            # One picture a thread's turn: a request of many does not keep the others waiting.
            fitted = await asyncio.gather(*(in_thread(self._fitted, file) for file in tensor.array.ravel()))
            return await in_thread(self._pictures_to_rows, np.stack(fitted))
        if tensor.datatype == "UINT8":
            if tensor.array.shape[1:] == self._input.shape[1:] and self._input.dtype == "uint8":
                return tensor.array
            if tensor.array.nbytes <= _SMALL_BYTES:
                return self._pictures_to_rows(tensor.array)
            return await asyncio.get_running_loop().run_in_executor(self._preparing, self._pictures_to_rows, tensor.array)
        if not np.isfinite(tensor.array).all():
            raise InputError(f"input {tensor.name!r} holds NaN or infinity", expected="finite numbers")
        return tensor.array

    def _fitted(self, file: bytes) -> Pixels:
        return decode_fitted(file, self.runtime.recipe)

    def _pictures_to_rows(self, pictures: Rows) -> Rows:
        fitted = prepare(pictures, self.runtime.recipe)
        return fitted if self._input.dtype == "uint8" else normalise(fitted, self.runtime.recipe)

    def _run(self, rows: Rows) -> npt.NDArray[np.float32]:
        """The graph's raw output."""
        return self.runtime.logits(rows) if self._gives_logits else self.runtime.predict(rows)

    def _give(self, want: WantedOutput, raw: npt.NDArray[np.float32]) -> Tensor:
        values = softmax(raw) if want.name == PROBABILITIES and self._gives_logits else raw
        if not want.classes:
            return Tensor(want.name, "FP32", values)
        order = np.argsort(-values, axis=1, kind="stable")[:, : want.classes]
        label = self.runtime.manifest.label
        rows = [[f"{row[i]:f}:{i}:{label(int(i))}" for i in best] for row, best in zip(values, order, strict=True)]
        return strings(want.name, rows)


def measure(runtime: Runtime, max_batch: int) -> Cost:
    """Warms a Runtime up and measures it."""
    shape = tuple(n or 1 for n in runtime.running.manifest.input.shape[1:])
    dtype = runtime.running.manifest.input.dtype
    return Cost.measure(lambda rows: runtime.logits(np.zeros((rows, *shape), dtype)), max_batch)


def _info(spec: TensorSpec) -> TensorInfo:
    return TensorInfo(spec.name, DATATYPES[spec.dtype], tuple(_UNKNOWN_AXIS if n is None else n for n in spec.shape))
