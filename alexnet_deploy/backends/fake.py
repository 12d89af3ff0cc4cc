"""A backend without an engine, for tests: yours, of code that calls Runtime, as much as ours.

    from alexnet_deploy.backends.fake import write_fake
    write_fake(tmp_path / "model.onnx", labels=("cat", "dog"), height=8, width=8)
    runtime = Runtime(tmp_path / "model.onnx", backend="fake")

Its answers are the same for the same picture, whatever the batch, the process and the machine's BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.backends.base import Backend, Options
from alexnet_deploy.errors import InputError
from alexnet_deploy.manifest import KIND_OF_SUFFIX, Manifest, PlanRecord, Preprocess
from alexnet_deploy.types import BatchRange, Flavour, TensorSpec

_FEATURES = 32


class FakeBackend(Backend):
    """Loads any artifact without looking into the file; its tensors are those of the manifest.

    Attributes:
        calls: how many rows each `run` was given, in order.
    """

    name: ClassVar[str] = "fake"
    concurrent: ClassVar[bool] = True
    forkable: ClassVar[bool] = True

    def __init__(self, artifact: Artifact, options: Options) -> None:
        manifest = artifact.manifest
        if manifest.classes is None:
            raise InputError(f"the manifest of {artifact.path} states no number of classes", expected="output (N, classes)")
        self.device = options.device
        self.input, self.output, self.batch = manifest.input, manifest.output, manifest.batch
        self.calls: list[int] = []
        self._weights = np.random.default_rng(0).standard_normal((_FEATURES, manifest.classes), np.float32)

    @classmethod
    def load(cls, artifact: Artifact, options: Options) -> FakeBackend:
        return cls(artifact, options)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Every 32nd value of a picture, from 32 places to start at, summed and mixed: cheap, and no row knows of another."""
        self.calls.append(len(batch))
        rows = batch.reshape(len(batch), -1)
        output = np.empty((len(batch), self._weights.shape[1]), np.float32)
        for row, answer in zip(rows, output, strict=True):
            features = np.array([row[start::_FEATURES].sum(dtype=np.float64) for start in range(_FEATURES)])
            answer[:] = (np.tanh(features / 100)[:, None] * self._weights).sum(axis=0)
        return output

    def close(self) -> None:
        self._weights = np.empty((0, 0), np.float32)


def write_fake(
    path: str | Path,
    *,
    labels: Sequence[str] = tuple("0123456789"),
    height: int = 32,
    width: int = 32,
    batch: BatchRange | None = None,
    **fields: Any,
) -> Artifact:
    """Writes an artifact that only the fake backend loads.

    Args:
        path: ends in .onnx, .plan or .safetensors.
        labels: one a class.
        height, width: of its input, float32 (N, 3, height, width).
        batch: the batch sizes it takes; 1..64 when None.
        fields: any other field of the Manifest.
    """
    path = Path(path)
    kind = KIND_OF_SUFFIX[path.suffix]
    if kind == "plan":
        fields.setdefault("plan", PlanRecord(flavour=Flavour.TENSORRT_RTX, version="0", capabilities=("current",)))
    fields.setdefault("preprocess", Preprocess(height=height, width=width))
    fields.setdefault("input", TensorSpec("input", "float32", (None, *fields["preprocess"].input_shape)))
    manifest = Manifest(
        kind=kind,
        output=TensorSpec("logits", "float32", (None, len(labels))),
        batch=batch or BatchRange(),
        labels=tuple(labels),
        **fields,
    )
    return write_artifact(path, manifest, b"not a model: for the fake backend\n")
