"""What really ran: the name that every figure in a report stands beside."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_deploy.manifest import Kind
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import GraphForm, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One artifact as it was run.

    Attributes:
        file: the artifact that was asked for.
        kind, precision, form, size_bytes, sha256: of that artifact.
        backend, device: what ran, and where.
        running: the file that ran; differs from `file` where a plan's twin ran in its stead.
        twin_of: the plan's name where its twin ran: **the plan itself did not run**. None otherwise.
    """

    file: str
    kind: Kind
    precision: Precision
    form: GraphForm | None
    size_bytes: int
    sha256: str
    backend: str
    device: str
    running: str
    twin_of: str | None

    @classmethod
    def of(cls, runtime: Runtime) -> Ran:
        manifest = runtime.manifest
        return cls(
            file=manifest.file,
            kind=manifest.kind,
            precision=manifest.precision,
            form=manifest.form,
            size_bytes=manifest.size_bytes,
            sha256=manifest.sha256,
            backend=runtime.backend,
            device=runtime.device,
            running=runtime.running.path.name,
            twin_of=runtime.twin_of.name if runtime.twin_of else None,
        )
