"""What is in an artifact, read from the file without running it and without the library that made it, where possible."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.artifact import existing_file, read_manifest
from alexnet_deploy.errors import ArtifactCorrupt, InputError, ManifestError
from alexnet_deploy.files import file_sha256
from alexnet_deploy.manifest import KIND_OF_SUFFIX, Kind, Manifest

if TYPE_CHECKING:
    from alexnet_deploy.onnx_graph.statistics import GraphStatistics

_MAX_HEADER_BYTES = 100 << 20  # of a safetensors file, as its own library has it
_PLAN_MAGICS = {b"vtrt": "TensorRT for RTX", b"ftrt": "TensorRT"}
_VERSION_AT = 24


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class PlanHeader:
    """The first bytes of a plan.

    Attributes:
        library: which TensorRT's magic bytes it starts with, "" when they are not known.
        version: bytes 24 to 27, where TensorRT writes its version (undocumented), "" when they make none.
    """

    library: str
    version: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in one file.

    Attributes:
        path, kind, size_bytes, sha256: of the file itself.
        manifest: what stands beside it, or None.
        problem: what is wrong with the manifest or its fit with the file, "" when nothing is.
        graph: of an ONNX file.
        tensors: of a checkpoint.
        header: of a plan.
    """

    path: Path
    kind: Kind
    size_bytes: int
    sha256: str
    manifest: Manifest | None
    problem: str = ""
    graph: GraphStatistics | None = None
    tensors: tuple[StoredTensor, ...] = ()
    header: PlanHeader | None = None


def inspect(path: str | Path) -> Inspection:
    """Looks into an artifact, or into a file that has no manifest.

    Raises:
        ArtifactMissing: there is no such file.
        InputError: its suffix is none of ours.
        ArtifactCorrupt, ModelError: it cannot be read as what its suffix says.
    """
    path = existing_file(path)
    kind = KIND_OF_SUFFIX.get(path.suffix)
    if kind is None:
        raise InputError(f"{path.name} is no artifact", expected=f"a file ending in {', '.join(KIND_OF_SUFFIX)}")
    sha256 = file_sha256(path)
    manifest, problem = _manifest(path, sha256)
    graph: GraphStatistics | None = None
    tensors: tuple[StoredTensor, ...] = ()
    header: PlanHeader | None = None
    match kind:
        case "onnx":
            from alexnet_deploy.onnx_graph import load_graph
            from alexnet_deploy.onnx_graph.statistics import statistics

            graph = statistics(load_graph(path))
        case "checkpoint":
            tensors = stored_tensors(path)
        case "plan":
            header = plan_header(path)
    return Inspection(path, kind, path.stat().st_size, sha256, manifest, problem, graph, tensors, header)


def _manifest(path: Path, sha256: str) -> tuple[Manifest | None, str]:
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        return None, error.found
    if manifest.sha256 != sha256:
        return manifest, f"the file is not the one that its manifest was written for (SHA-256 {manifest.sha256[:12]}…)"
    return manifest, ""


def stored_tensors(path: Path) -> tuple[StoredTensor, ...]:
    """Names, types and shapes in a safetensors file, from its header alone.

    Raises:
        ArtifactCorrupt: it is no whole safetensors file.
    """
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size_bytes - 8):
                raise ValueError(f"its header would have {length:,} bytes")
            header = json.loads(file.read(length))
        tensors = []
        end = 0
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            tensors.append(StoredTensor(str(name), str(entry["dtype"]), tuple(int(n) for n in entry["shape"])))
            end = max(end, int(entry["data_offsets"][1]))
        if 8 + length + end != size_bytes:
            raise ValueError(f"it should have {8 + length + end:,} bytes and has {size_bytes:,}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ArtifactCorrupt(
            f"{path} is no whole safetensors file ({error})",
            expected="a checkpoint",
            fix="copy it again, or alexnet-deploy train",
        ) from error
    return tuple(tensors)


def plan_header(path: Path) -> PlanHeader:
    """Which TensorRT wrote a plan, by its first 28 bytes.

    Raises:
        ArtifactCorrupt: it is shorter than that.
    """
    with path.open("rb") as file:
        head = file.read(_VERSION_AT + 4)
    if len(head) < _VERSION_AT + 4:
        raise ArtifactCorrupt(f"{path} has {len(head)} bytes", expected="a plan", fix="alexnet-deploy build-engine")
    numbers = head[_VERSION_AT:]
    library = _PLAN_MAGICS.get(head[:4], "")
    return PlanHeader(library, ".".join(str(n) for n in numbers) if library else "")
