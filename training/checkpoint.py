"""Checkpoints: weights in safetensors, everything else in the manifest. Nothing is ever pickled."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.errors import ArtifactCorrupt, InputError, ManifestError, ModelError
from alexnet_deploy.manifest import CalibrationRecord, DataReference, Lineage, Manifest, Preprocess, TrainingRecord
from alexnet_deploy.types import BatchRange, OutputKind, TensorSpec
from training.family import FAMILY
from training.model import AlexNet, ModelConfig, build_with_weights
from training.tensors import write_tensors

INPUT_NAME = "input"
OUTPUT_NAMES = {OutputKind.LOGITS: "logits", OutputKind.PROBABILITIES: "probabilities"}
BATCH = BatchRange(min=1, opt=32, max=256)  # PyTorch takes any; this bounds the memory of one call


def save(
    model: AlexNet,
    path: str | Path,
    *,
    preprocess: Preprocess,
    labels: tuple[str, ...] = (),
    pictures: DataReference | None = None,
    held_out: str = "",
    training: TrainingRecord | None = None,
    parents: tuple[Lineage, ...] = (),
    calibration: CalibrationRecord | None = None,
    batch: BatchRange = BATCH,
    notes: str = "",
) -> Artifact:
    """Writes a model's weights and the manifest that says what they are.

    Args:
        model: as `build_model` made it; its `config` goes into the manifest.
        path: ends in .safetensors.
        preprocess: how pictures become its input.
        labels: one name a class, or () when unknown.
        pictures: the set it was trained on.
        held_out: where the pictures are that it was measured on meanwhile.
        training: how it was trained.
        parents: what it was fine-tuned from.
        calibration: by which ranges it was trained to be quantised.
        batch: how many pictures one call of the backend is given.

    Raises:
        InputError: the path has another suffix, or the recipe does not fit the model.
    """
    path = checkpoint_path(path)
    if preprocess.layout != "nchw" or preprocess.channels != 3:
        raise InputError(f"preprocessing to {preprocess.input_shape}", expected="3 channels, in the layout nchw")
    output = OutputKind.PROBABILITIES if FAMILY[model.config.arch].softmax else OutputKind.LOGITS
    manifest = Manifest(
        kind="checkpoint",
        input=TensorSpec(INPUT_NAME, "float32", (None, *preprocess.input_shape)),
        output=TensorSpec(OUTPUT_NAMES[output], "float32", (None, model.config.classes)),
        output_kind=output,
        preprocess=preprocess,
        batch=batch,
        labels=labels,
        model=model.config.to_dict(),
        pictures=pictures,
        held_out=held_out,
        training=training,
        parents=parents,
        calibration=calibration,
        notes=notes,
    )
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return write_artifact(path, manifest, lambda temporary: write_tensors(weights, temporary))


def checkpoint_path(path: str | Path) -> Path:
    """`path` as a Path. Raises InputError unless it ends in .safetensors."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} does not end in .safetensors", expected="a checkpoint's name, such as alexnet.safetensors")
    return path


def load(path: str | Path) -> tuple[AlexNet, Artifact]:
    """The model in evaluation mode, on the CPU, and its artifact.

    Raises:
        ArtifactMissing: there is no such file.
        ManifestError: it has no manifest, or one that describes no checkpoint.
        ArtifactCorrupt: the file is damaged, or its tensors are not those of the model that the manifest names.
    """
    artifact = Artifact.open(path)
    return load_model(artifact), artifact


def load_model(artifact: Artifact) -> AlexNet:
    """The model of an opened checkpoint, in evaluation mode, on the CPU. Raises as `load` does."""
    manifest = artifact.manifest
    if manifest.kind != "checkpoint" or manifest.model is None:
        raise ManifestError(
            f"{artifact.path} is of kind {manifest.kind}" + ("" if manifest.model else " and names no model"),
            expected="a checkpoint",
            fix="alexnet-deploy train makes one",
        )
    try:
        config = ModelConfig.from_dict(manifest.model)
    except InputError as error:
        raise ManifestError(
            f"{artifact.path} describes a model that cannot be built: {error}", fix="copy the file and its .json together"
        ) from error
    try:
        weights = load_file(artifact.path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactCorrupt(
            f"{artifact.path} cannot be read as safetensors ({error})",
            expected="a whole checkpoint",
            fix="alexnet-deploy train, or copy it again",
        ) from error
    try:
        model = build_with_weights(config, weights)
    except ModelError as error:
        raise ArtifactCorrupt(
            f"{artifact.path} does not hold what its manifest describes: {error}", fix="copy the file and its .json together"
        ) from error
    if manifest.output_kind is OutputKind.PROBABILITIES:
        model.end_in_softmax()
    return model.eval()
