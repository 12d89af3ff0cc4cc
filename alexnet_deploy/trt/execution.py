"""Running a TensorRT engine: its memory on both sides, the copies between them, and CUDA graphs.

A small batch is one CUDA graph: copy in, compute, copy out, launched by one call. There is a graph for each of a few batch
sizes ("buckets"); a batch between two of them is computed as the larger, and the rows too many are dropped.

Larger batches, and several in a row, go through two slots in turn: while the GPU computes one, the host fills the other.

    host     | fill 0 | fill 1 |        | fill 0 |
    copy in      | -> 0 |  -> 1 |           | -> 0 |
    compute             | run 0   | run 1   |   ...
    copy out                      | 0 ->    | 1 ->
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from alexnet_deploy import logs
from alexnet_deploy.errors import BackendError, FallbackWarning, InputError
from alexnet_deploy.trt import cuda
from alexnet_deploy.trt.adapter import Context, TensorRt
from alexnet_deploy.trt.device_arrays import DeviceArray, DeviceView, view
from alexnet_deploy.types import BatchRange, TensorSpec

log = logs.logger(__name__)

Array = npt.NDArray[Any]

SLOTS = 2
# Up to here launching costs more than copying, so that one graph for all of it is fastest; above, the copy is cut in pieces.
GRAPH_BYTES = 4 << 20
# What the host copies into pinned memory at a time, while the GPU fetches the piece before.
PIECE_BYTES = 4 << 20
# What TensorRT asks of the addresses of tensors.
ALIGNMENT = 256
# Graphs kept for batches that are on the GPU already, one for each pair of addresses.
DEVICE_GRAPHS = 16


class _Slot:
    """Memory for one batch on its way through the GPU.

    Attributes:
        rows_in, rows_out: all of the pinned memory, as arrays.
        graphs: for each bucket, everything from copying in to copying out.
        done: what to wait for until its latest answer is there.
        rows: of its latest batch.
        source: that batch, kept alive while the GPU may read it.
    """

    def __init__(self, owned: ExitStack, input: TensorSpec, output: TensorSpec) -> None:
        """Allocates for whole specs: shapes without None."""
        self.host_input = owned.enter_context(cuda.PinnedBuffer(_size_bytes(input)))
        self.host_output = owned.enter_context(cuda.PinnedBuffer(_size_bytes(output)))
        self.rows_in = self.host_input.array(input.dtype, _whole(input))
        self.rows_out = self.host_output.array(output.dtype, _whole(output))
        self.input = owned.enter_context(cuda.DeviceBuffer(_size_bytes(input)))
        self.output = owned.enter_context(cuda.DeviceBuffer(_size_bytes(output)))
        self.arrived = owned.enter_context(cuda.Event())
        self.computed = owned.enter_context(cuda.Event())
        self.returned = owned.enter_context(cuda.Event())
        self.graphs: dict[int, cuda.Graph] = {}
        self.done: cuda.Stream | cuda.Event = self.returned
        self.rows = 0
        self.source: Array | None = None


class Execution:
    """One execution context with all that it needs; to be used by one thread at a time. It closes the context, too.

    Attributes:
        buckets: the batch sizes that are computed.
        on_new_bucket: called after a bucket has run for the first time.
    """

    def __init__(
        self,
        bindings: TensorRt,
        context: Context,
        input: TensorSpec,
        output: TensorSpec,
        batch: BatchRange,
        *,
        graphs: bool = True,
        on_new_bucket: Callable[[], None] = lambda: None,
    ) -> None:
        self.buckets = buckets(batch)
        self.on_new_bucket = on_new_bucket
        self._bindings = bindings
        self._context = context
        self._input = structs.replace(input, shape=(batch.max, *input.shape[1:]))
        self._output = structs.replace(output, shape=(batch.max, *output.shape[1:]))
        self._row_bytes = _size_bytes(self._input) // batch.max
        self._answer_bytes = _size_bytes(self._output) // batch.max
        self._seen: set[int] = set()
        self._used: deque[tuple[int, int, int]] = deque(maxlen=DEVICE_GRAPHS)
        self._device_graphs: dict[tuple[int, int, int], cuda.Graph] = {}
        with ExitStack() as owned:
            self._compute = owned.enter_context(cuda.Stream())
            self._copy_in = owned.enter_context(cuda.Stream())
            self._copy_out = owned.enter_context(cuda.Stream())
            self._slots = [self._new_slot(owned)]
            self._owned = owned.pop_all()
        self._graphs = graphs and bindings.capturable(context.raw, self._compute.handle)
        if graphs and not self._graphs:
            log.info("this engine allocates memory while it runs: it runs without CUDA graphs")

    def run(self, batch: Array, meanwhile: Callable[[], None] | None = None) -> npt.NDArray[np.float32]:
        """One batch, contiguous, of the input's dtype. Returns float32 (N, classes) that the caller owns.

        Args:
            meanwhile: what to do while the GPU computes; what it raises comes in place of the answer.

        Raises:
            BackendError: TensorRT or CUDA failed.
        """
        slot = self._slots[0]
        try:
            self._start(slot, batch)
            if meanwhile is not None:
                meanwhile()
            return self._collect(slot)
        except BaseException:
            self._settle()
            raise

    def run_each(self, batches: Iterable[Array]) -> Iterator[npt.NDArray[np.float32]]:
        """`run` for one batch after another; large ones are copied while the one before is computed.

        The next batch is asked for, or found not to be there, before the GPU is waited for.
        """
        under_way: deque[_Slot] = deque()
        try:
            for batch in batches:
                while under_way and (self._by_graph(batch) or len(under_way) == SLOTS):
                    yield self._collect(under_way.popleft())
                slot = self._free_slot(under_way)
                under_way.append(slot)
                self._start(slot, batch)
            while under_way:
                yield self._collect(under_way.popleft())
        except BaseException:  # also of a caller that wants no more: the GPU may still read what it was given
            self._settle()
            raise

    def run_on_device(self, batch: object, out: object | None = None) -> object:
        """A batch that lives on the GPU, to an answer that does.

        Nothing is copied where the addresses are aligned and N is one of the buckets. Any other goes by way of a slot: TensorRT
        for RTX compiles for every batch size that it meets, which takes longer than many copies.

        Args:
            batch: C-contiguous, of the input's dtype and shape, any N; with __dlpack__ or __cuda_array_interface__.
            out: where the answer goes, (N, classes) of the output's dtype; a new DeviceArray when None.

        Returns:
            The answer, complete: it may be used on any stream.

        Raises:
            InputError: arrays that do not fit.
            BackendError: TensorRT or CUDA failed.
        """
        source = view(batch, self._compute)
        self._check("batch", source, self._input)
        if out is None:
            out = DeviceArray(self._output.dtype, (source.shape[0], *_whole(self._output)[1:]))
        target = view(out, self._compute, to_write=True)
        self._check("out", target, self._output)
        if source.shape[0] != target.shape[0]:
            raise InputError(f"out has {target.shape[0]} rows", expected=f"{source.shape[0]}, as the batch")
        rows = 0
        try:
            for start in range(0, source.shape[0], self.buckets[-1]):
                rows = min(self.buckets[-1], source.shape[0] - start)
                self._queue_on_device(source.address + start * self._row_bytes, target.address + start * self._answer_bytes, rows)
        finally:
            self._compute.synchronize()  # also where one was refused: those before it may still read the caller's memory
        if rows:
            self._note(self._bucket(rows))
        return out

    def run_from_device(self, batch: object) -> npt.NDArray[np.float32]:
        """`run_on_device` for an answer on the host, float32 (N, classes), owned by the caller. Allocates no memory of CUDA's."""
        source = view(batch, self._compute)
        self._check("batch", source, self._input)
        slot = self._slots[0]
        answer = np.empty((source.shape[0], *_whole(self._output)[1:]), np.float32)
        for start in range(0, source.shape[0], self.buckets[-1]):
            rows = min(self.buckets[-1], source.shape[0] - start)
            try:
                self._queue_on_device(source.address + start * self._row_bytes, slot.output.address, rows)
                cuda.copy_async(slot.host_output.address, slot.output.address, rows * self._answer_bytes, self._compute)
            finally:
                self._compute.synchronize()
            self._note(self._bucket(rows))
            answer[start : start + rows] = slot.rows_out[:rows]
        return answer

    def close(self) -> None:
        """Waits for what is under way, and frees everything; every part is freed even where another fails."""
        with ExitStack() as ending:
            ending.push(self._owned.pop_all())
            ending.callback(self._context.close)
            for graph in (*self._device_graphs.values(), *(g for slot in self._slots for g in slot.graphs.values())):
                ending.callback(graph.close)
            ending.callback(self._compute.synchronize)

    def _check(self, what: str, array: DeviceView, spec: TensorSpec) -> None:
        if array.dtype != spec.dtype or array.shape[1:] != spec.shape[1:]:
            raise InputError(
                f"{what} is {array.dtype} {array.shape}", expected=str(structs.replace(spec, shape=(None, *spec.shape[1:])))
            )

    def _queue_on_device(self, source: int, target: int, rows: int) -> None:
        """Runs from one address on the GPU to another; by way of a slot where TensorRT cannot use them as they are."""
        key = (source, target, rows)
        graph = self._device_graphs.get(key)
        if graph is not None:
            graph.launch(self._compute)
            return
        if rows in self.buckets and source % ALIGNMENT == target % ALIGNMENT == 0:
            self._enqueue(*key)
            self._remember(key)
            return
        slot = self._slots[0]
        cuda.copy_async(slot.input.address, source, rows * self._row_bytes, self._compute)
        self._enqueue(slot.input.address, slot.output.address, self._bucket(rows))
        if target != slot.output.address:
            cuda.copy_async(target, slot.output.address, rows * self._answer_bytes, self._compute)

    def _remember(self, key: tuple[int, int, int]) -> None:
        """Makes a graph for addresses that come for the second time: applications often use the same memory again."""
        if not self._graphs:
            return
        if key not in self._used:
            self._used.append(key)
            return
        while len(self._device_graphs) >= DEVICE_GRAPHS:
            self._device_graphs.pop(next(iter(self._device_graphs))).close()
        if graph := self._captured(self._enqueue_again):
            self._device_graphs[key] = graph

    def _new_slot(self, owned: ExitStack) -> _Slot:
        return _Slot(owned, self._input, self._output)

    def _free_slot(self, under_way: Container[_Slot]) -> _Slot:
        """One of the slots that are not under way; the second is only made when two batches follow one another."""
        for slot in self._slots:
            if slot not in under_way:
                return slot
        self._slots.append(self._new_slot(self._owned))
        return self._slots[-1]

    def _bucket(self, rows: int) -> int:
        return self.buckets[bisect_left(self.buckets, rows)]

    def _by_graph(self, batch: Array) -> bool:
        return self._graphs and batch.nbytes <= GRAPH_BYTES

    def _start(self, slot: _Slot, batch: Array) -> None:
        """Queues all that makes the answer to a batch."""
        slot.rows, slot.source = len(batch), batch
        if self._by_graph(batch):
            self._launch(slot, batch)
        else:
            self._submit(slot, batch)

    def _launch(self, slot: _Slot, batch: Array) -> None:
        """A small batch: the graph of its bucket, or the same plainly the first time, and then captured."""
        bucket = self._bucket(len(batch))
        slot.rows_in[: len(batch)] = batch
        graph = slot.graphs.get(bucket)
        if graph is not None:
            graph.launch(self._compute)
        else:
            self._queue_all(slot, bucket, lambda: self._enqueue(slot.input.address, slot.output.address, bucket))
            # At once, while the context is set to this bucket and these addresses: another slot may be next.
            if graph := self._captured(lambda: self._queue_all(slot, bucket, self._enqueue_again)):
                slot.graphs[bucket] = graph
            self._note(bucket)
        slot.done = self._compute

    def _queue_all(self, slot: _Slot, bucket: int, enqueue: Callable[[], None]) -> None:
        """Copy in, compute, copy out, all on one stream."""
        cuda.copy_async(slot.input.address, slot.host_input.address, bucket * self._row_bytes, self._compute)
        enqueue()
        cuda.copy_async(slot.host_output.address, slot.output.address, bucket * self._answer_bytes, self._compute)

    def _captured(self, work: Callable[[], None]) -> cuda.Graph | None:
        """A graph of work that has run once without: the first run still allocates and compiles. None where that fails."""
        try:
            return cuda.Graph(self._compute, work)
        except BackendError as error:
            self._graphs = False
            warnings.warn(f"CUDA graphs are off: {error.found}", FallbackWarning, stacklevel=2)
            return None

    def _submit(self, slot: _Slot, batch: Array) -> None:
        bucket = self._bucket(len(batch))
        self._stage(slot, batch)
        slot.arrived.record(self._copy_in)
        self._compute.wait(slot.arrived)
        self._enqueue(slot.input.address, slot.output.address, bucket)
        slot.computed.record(self._compute)
        self._copy_out.wait(slot.computed)
        cuda.copy_async(slot.host_output.address, slot.output.address, len(batch) * self._answer_bytes, self._copy_out)
        slot.returned.record(self._copy_out)
        slot.done = slot.returned
        self._note(bucket)

    def _stage(self, slot: _Slot, batch: Array) -> None:
        """Queues the copy of a batch to the GPU: directly from pinned memory, else through the slot's, piece by piece."""
        address = cuda.address_of(batch)
        if cuda.is_pinned(address):
            cuda.copy_async(slot.input.address, address, batch.nbytes, self._copy_in)
            return
        source = batch.reshape(-1).view(np.uint8)
        pinned = slot.rows_in.reshape(-1).view(np.uint8)
        for start in range(0, len(source), PIECE_BYTES):
            stop = min(start + PIECE_BYTES, len(source))
            pinned[start:stop] = source[start:stop]
            cuda.copy_async(slot.input.address + start, slot.host_input.address + start, stop - start, self._copy_in)

    def _collect(self, slot: _Slot) -> npt.NDArray[np.float32]:
        slot.done.synchronize()
        slot.source = None
        return slot.rows_out[: slot.rows].astype(np.float32)

    def _settle(self) -> None:
        for stream in (self._copy_in, self._compute, self._copy_out):
            stream.synchronize()

    def _enqueue(self, source: int, target: int, rows: int) -> None:
        """Queues the engine itself, between two addresses on the GPU.

        Raises:
            BackendError: TensorRT refused, with its log.
        """
        cuda.make_current()  # of a thread that comes here first; kernels are compiled in the thread's own CUDA context
        context = self._context.raw
        with self._bindings.log.collect() as messages:
            done = (
                context.set_input_shape(self._input.name, (rows, *self._input.shape[1:]))
                and context.set_tensor_address(self._input.name, source)
                and context.set_tensor_address(self._output.name, target)
                and context.execute_async_v3(self._compute.handle)
            )
        if not done:
            raise self._refused(f"did not run a batch of {rows}", messages)

    def _enqueue_again(self) -> None:
        """The same as before, for a graph: the first run after set_input_shape allocates, which cannot be captured.

        Raises:
            BackendError: TensorRT refused, with its log.
        """
        with self._bindings.log.collect() as messages:
            done = self._context.raw.execute_async_v3(self._compute.handle)
        if not done:
            raise self._refused("did not run while it was captured", messages)

    def _refused(self, what: str, messages: list[str]) -> BackendError:
        return BackendError(
            f"{self._bindings} {what}: {' | '.join(messages) or 'it gave no reason'}",
            fix="alexnet-deploy doctor, and build the engine again on this machine",
        )

    def _note(self, bucket: int) -> None:
        if bucket not in self._seen:
            self._seen.add(bucket)
            self.on_new_bucket()


def _whole(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of a spec that leaves no axis open."""
    return tuple(n for n in spec.shape if n is not None)


def _size_bytes(spec: TensorSpec) -> int:
    return np.dtype(spec.dtype).itemsize * math.prod(_whole(spec))


def buckets(batch: BatchRange) -> tuple[int, ...]:
    """The batch sizes that are computed: powers of two and their halfway points, so that at most a third is wasted.

    >>> buckets(BatchRange(1, 8, 20))
    (1, 2, 3, 4, 6, 8, 12, 16, 20)
    """
    sizes = {batch.min, batch.opt, batch.max}
    power = 1
    while power <= batch.max:
        sizes |= {power, power + power // 2}
        power *= 2
    return tuple(sorted(n for n in sizes if batch.min <= n <= batch.max))
