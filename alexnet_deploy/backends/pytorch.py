"""The checkpoint itself in PyTorch: the reference that every other artifact is compared with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.base import Backend, Options
from alexnet_deploy.errors import BackendError, BackendMissing, DeviceMissing

if TYPE_CHECKING:
    from training.model import AlexNet

_process_settings = threading.Lock()


class PyTorchBackend(Backend):
    """Runs in float32, without autocast or TF32, so that its result is the network's own."""

    name: ClassVar[str] = "pytorch"
    concurrent: ClassVar[bool] = True

    def __init__(self, model: AlexNet, artifact: Artifact, options: Options) -> None:
        self.device = options.device
        self.input = artifact.manifest.input
        self.output = artifact.manifest.output
        self.batch = artifact.manifest.batch
        self._threads = options.threads
        self._model: AlexNet | None = model.to(options.device)

    @classmethod
    def load(cls, artifact: Artifact, options: Options) -> PyTorchBackend:
        try:
            import torch

            from training.checkpoint import load_model
        except ImportError as error:
            raise BackendMissing(
                f"a checkpoint needs PyTorch ({error})",
                expected="the packages torch and safetensors",
                fix="pip install 'alexnet-deploy[train]', or use the exported .onnx",
            ) from error
        if options.device == "cuda" and not torch.cuda.is_available():
            raise DeviceMissing(
                f"PyTorch {torch.__version__} sees no CUDA GPU",
                expected="a GPU, its driver, and a CUDA build of torch",
                fix='device="cpu"; alexnet-deploy doctor tells more',
            )
        return cls(load_model(artifact), artifact, options)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        import torch

        assert self._model is not None
        owned = batch if batch.flags.writeable else batch.copy()  # torch warns of memory that it may not write to
        try:
            with torch.inference_mode(), self._settings():
                logits: npt.NDArray[np.float32] = self._model(torch.from_numpy(owned).to(self.device)).cpu().numpy()
                return logits
        except RuntimeError as error:
            raise BackendError(
                f"PyTorch failed on a batch of {batch.shape}: {error}", fix="smaller batches, if memory is what it lacks"
            ) from error

    def close(self) -> None:
        self._model = None

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """The number of threads, and float32 convolutions without TF32 on a GPU.

        Both are settings of the process: they are put back after each call, and only one caller changes them at a time.
        """
        import torch

        if self._threads is None and self.device == "cpu":
            yield
            return
        with _process_settings, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads or before)
            try:
                yield
            finally:
                torch.set_num_threads(before)
