"""The contract of a backend: it moves one checked batch through one engine, and nothing else.

Policy (checking, preprocessing, chunking, softmax, locking) belongs to Runtime. A backend may rely on what it is given:
a C-contiguous array of `input`'s dtype and shape, with batch.min <= N <= batch.max rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends import BACKENDS
from alexnet_deploy.errors import BackendMissing, InputError
from alexnet_deploy.types import BatchRange, TensorSpec

Array = npt.NDArray[Any]


class Options(Struct, frozen=True):
    """What a caller may ask of a backend; each takes what it knows, and raises on what it cannot honour.

    Attributes:
        device: "cpu" or "cuda"; never "auto", which Runtime has resolved by then.
        threads: CPU threads inside one call; None leaves the choice to the backend.
    """

    device: str = "cpu"
    threads: int | None = None


class Backend(ABC):
    """One loaded artifact.

    Attributes:
        name: as in the table of `alexnet_deploy.backends`.
        device: where it really runs, "cpu" or "cuda", not where it was asked to.
        input, output: the tensors as the loaded engine itself describes them.
        batch: the batch sizes that `run` takes.
        concurrent: whether several threads may call `run` at once; Runtime holds a lock around it otherwise.
        forkable: whether it can be loaded anew in a process forked from one that had it loaded (CUDA cannot).
    """

    name: ClassVar[str]
    concurrent: ClassVar[bool] = False
    forkable: ClassVar[bool] = False
    device: str
    input: TensorSpec
    output: TensorSpec
    batch: BatchRange

    @classmethod
    @abstractmethod
    def load(cls, artifact: Artifact, options: Options) -> Backend:
        """Opens an artifact.

        Raises:
            BackendMissing: a package is not installed; names the extra to install.
            DeviceMissing: `options.device` is not here. Never falls back to another.
            ArtifactCorrupt: the file is damaged, or made by or for something else.
        """

    @abstractmethod
    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """One inference.

        Args:
            batch: (N, ...) as `input` says, contiguous, batch.min <= N <= batch.max.

        Returns:
            float32 (N, classes), the graph's raw output, in memory that the caller owns.

        Raises:
            BackendError: the engine failed; the cause is attached.
        """

    def run_each(self, batches: Iterable[Array]) -> Generator[npt.NDArray[np.float32], None, None]:
        """`run` on one batch after another; where copies and computing can overlap, a backend does it here.

        A generator: Runtime closes it before the next call begins, also where it wants no more answers.
        """
        yield from map(self.run, batches)

    def run_while(self, batch: npt.NDArray[Any], work: Callable[[], None]) -> npt.NDArray[np.float32]:
        """`run`, and `work` in the meantime where the engine computes beside the CPU, else before.

        What `work` raises comes in place of the answer: Runtime looks at a batch for NaN this way, while a GPU has it.
        """
        work()
        return self.run(batch)

    def run_on_device(self, batch: object, out: object | None = None) -> object:
        """A batch of any length that lives on the GPU to an answer that stays there; only backends on the GPU have this.

        Args:
            batch, out: arrays with __dlpack__ or __cuda_array_interface__; a new one is made for the answer when `out` is None.

        Raises:
            InputError: this backend does not run on the GPU, or the arrays do not fit.
        """
        raise self._not_on_gpu()

    def run_from_device(self, batch: object) -> npt.NDArray[np.float32]:
        """`run_on_device` for an answer in memory of the host that the caller owns: float32 (N, classes).

        Raises:
            InputError: as `run_on_device`.
        """
        raise self._not_on_gpu()

    def _not_on_gpu(self) -> InputError:
        return InputError(
            f"{self.name} on {self.device} takes no arrays on the GPU",
            expected="a plan on a GPU",
            fix="batch.cpu().numpy(), or a plan and device='cuda'",
        )

    @abstractmethod
    def close(self) -> None:
        """Releases everything. Runtime calls it once, with no `run` under way."""


def own_errors(module: str) -> tuple[type[Exception], ...]:
    """What an engine raises: the classes of its module, which share no base, and Python's own that C++'s become.

    Whatever else comes out of a call is somebody else's, of a signal handler that ends what takes too long, say, and must pass.
    """
    own = (kind for kind in vars(import_module(module)).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, TypeError, ValueError, MemoryError)


def missing(backend: str, error: ImportError) -> BackendMissing:
    """What to raise when the package that `backend` stands on does not import."""
    line = BACKENDS[backend]
    return BackendMissing(
        f"{backend} needs the package {line.needs}, which does not import here ({error})",
        fix=f"pip install 'alexnet-deploy[{line.extra}]'",
    )


def batch_of(engine_input: TensorSpec, artifact: Artifact) -> BatchRange:
    """The batch sizes of an engine that states its input's shape: fixed there, or free and then as the manifest says."""
    fixed = engine_input.shape[0] if engine_input.shape else None
    return artifact.manifest.batch if fixed is None else BatchRange(fixed, fixed, fixed)
