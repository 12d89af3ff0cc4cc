"""Files from elsewhere, without a manifest: what the caller says about them, and then the engine itself."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from alexnet_deploy.artifact import Artifact, existing_file
from alexnet_deploy.backends import FLAVOURS
from alexnet_deploy.backends.base import Backend
from alexnet_deploy.errors import ArtifactCorrupt, ManifestError, ModelError
from alexnet_deploy.manifest import KIND_OF_SUFFIX, Manifest, PlanRecord, Preprocess
from alexnet_deploy.types import BatchRange, Flavour, OutputKind, TensorSpec

_UNKNOWN = TensorSpec("", "float32", (None,))
_FOREIGN_NOTE = "loaded without a manifest: names, shapes and dtypes are those that the engine states"


def foreign(
    path: str | Path, backend: str | None, preprocess: Preprocess | None, labels: tuple[str, ...], output_kind: OutputKind | None
) -> Artifact:
    """A file without a manifest, as an Artifact whose manifest says what the caller said; `completed` adds what the engine says.

    Raises:
        ManifestError: no backend was named, or the file is a checkpoint, which is nothing without its manifest.
    """
    path = existing_file(path)
    kind = KIND_OF_SUFFIX.get(path.suffix)
    if kind is None:
        raise ArtifactCorrupt(f"{path.name} is no artifact: its name ends in {path.suffix!r}", expected=", ".join(KIND_OF_SUFFIX))
    if backend is None or kind == "checkpoint":
        raise ManifestError(
            f"{path} has no manifest ({path.name}.json)",
            expected="the .json that is written beside every artifact",
            fix=f"alexnet-deploy adopt {path} --help, or name a backend for a file from elsewhere"
            if kind == "onnx"
            else "copy it together with the file, or make the artifact again",
        )
    plan = None
    if kind == "plan":
        plan = PlanRecord(flavour=FLAVOURS.get(backend, Flavour.TENSORRT), version="", capabilities=())
    return Artifact(
        path,
        Manifest(
            kind=kind,
            input=_UNKNOWN,
            output=_UNKNOWN,
            preprocess=preprocess or Preprocess(height=1, width=1),
            batch=BatchRange(),
            labels=labels,
            output_kind=output_kind or OutputKind.LOGITS,
            plan=plan,
            notes=_FOREIGN_NOTE,
        ),
    )


def is_foreign(artifact: Artifact) -> bool:
    """Whether `artifact` comes from `foreign`, and not from a manifest on the disk (which is never without a file's name)."""
    return artifact.manifest.file == ""


def completed(artifact: Artifact, engine: Backend) -> Artifact:
    """A foreign file's Artifact with what its engine states about itself. Raises ModelError where that is no classifier."""
    try:
        manifest = structs.replace(
            artifact.manifest, file=artifact.path.name, input=engine.input, output=engine.output, batch=engine.batch
        )
    except ValueError as error:
        raise ModelError(f"{artifact.path}: {error}", expected="a single-input image classifier") from error
    return structs.replace(artifact, manifest=manifest)
