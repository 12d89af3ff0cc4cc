"""A model repository for NVIDIA's Triton Inference Server, from artifacts.

DIR/alexnet_int8/config.pbtxt              what Triton reads
                 labels.txt                one class a line
                 1/model.plan, model.plan.json
DIR/alexnet_int8_pixels/config.pbtxt       an ensemble: uint8 pictures in
DIR/alexnet_int8_preprocess/1/model.onnx   its first step
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import structs

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.errors import InputError
from alexnet_deploy.triton.config import TritonModel, Word, tensor, warm_up, write_config, write_text
from alexnet_deploy.triton.containers import choose_image
from alexnet_deploy.triton.ensemble import write_ensemble
from alexnet_deploy.types import GraphForm

_SPEC = re.compile(r"(?P<name>\w[\w-]*)=(?P<path>.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class TritonReport:
    """A repository that was written.

    Attributes:
        image: the container that can read all of it.
        command: starts Triton on it.
    """

    folder: Path
    models: tuple[TritonModel, ...]
    image: str
    command: str


def write_repository(
    specs: Sequence[str],
    folder: str | Path,
    *,
    instances: int = 1,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    max_delay_us: int = 2000,
    pixels: bool = False,
    image: str = "",
) -> TritonReport:
    """Writes a model repository.

    Args:
        specs: artifacts, plans or ONNX graphs; "name=path" names the model, otherwise its file does.
        folder: the repository; models of the same name in it are replaced.
        instances: executions of a model at once, on each device.
        device: where graphs run; plans always run on the GPU.
        max_delay_us: how long Triton waits for a batch to fill, in microseconds.
        pixels: for each model that takes float input, also an ensemble that takes uint8 (N, height, width, 3) pictures of the
            network's size, already cropped.
        image: the container that will serve it, for a TensorRT that the table does not have; chosen by the table when "".

    Raises:
        InputError: a checkpoint, two models of one name, a plan that no Triton reads, or pixels in front of a fixed batch.
        ArtifactError: as `Artifact.open`.
    """
    folder = Path(folder)
    named = [_named(spec) for spec in specs]
    names = [name for name, _ in named]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"two models would be called {twice}", expected="a name of its own for each", fix=f"other={twice}...")
    artifacts = [(name, Artifact.open(path)) for name, path in named]
    image = choose_image([artifact for _, artifact in artifacts], image)
    with_ensemble = [(name, a.manifest) for name, a in artifacts if pixels and a.manifest.input.dtype != "uint8"]
    for name, manifest in with_ensemble:
        if manifest.input.shape[0] is not None:
            raise InputError(
                f"{name} takes batches of {manifest.input.shape[0]} only, which an ensemble cannot pass on",
                expected="a model whose batch is open, to put pixels in front of",
                fix="alexnet-deploy export --input uint8, which needs no ensemble",
            )
    models = [_write_model(folder, name, artifact, instances, device, max_delay_us) for name, artifact in artifacts]
    for name, manifest in with_ensemble:
        models += write_ensemble(folder, name, manifest)
    gpus = "--gpus=all " if any(m.runs == "tensorrt_plan" for m in models) or device != "cpu" else ""
    command = (
        f"docker run --rm {gpus}-p 8000:8000 -p 8001:8001 -p 8002:8002 -v {folder.resolve()}:/models:ro {image} "
        "tritonserver --model-repository=/models"
    )
    return TritonReport(folder, tuple(models), image, command)


def _named(spec: str) -> tuple[str, Path]:
    if match := _SPEC.fullmatch(spec):
        return match["name"], Path(match["path"])
    path = Path(spec)
    return re.sub(r"[^\w-]+", "_", path.stem, flags=re.ASCII), path


def _write_model(folder: Path, name: str, artifact: Artifact, instances: int, device: str, max_delay_us: int) -> TritonModel:
    manifest = artifact.manifest
    runs = "tensorrt_plan" if manifest.kind == "plan" else "onnxruntime_onnx"
    file = f"model{'.plan' if manifest.kind == 'plan' else '.onnx'}"
    kind = "KIND_GPU" if manifest.kind == "plan" or device == "gpu" else "KIND_AUTO"
    if manifest.kind == "onnx" and (device == "cpu" or manifest.form is GraphForm.CPU):
        kind = "KIND_CPU"
    # An engine for one batch size only is a model without batching to Triton, whose batch is an ordinary axis.
    batched = manifest.input.shape[0] is None
    dynamic = {
        "dynamic_batching": {"preferred_batch_size": [manifest.batch.opt], "max_queue_delay_microseconds": max_delay_us},
    }
    config: dict[str, object] = {
        "name": name,
        "platform": runs,
        "default_model_filename": file,
        "max_batch_size": manifest.batch.max if batched else 0,
        "input": tensor(manifest.input, batched),
        "output": tensor(manifest.output, batched) | ({"label_filename": "labels.txt"} if manifest.labels else {}),
        "instance_group": {"count": instances, "kind": Word(kind)},
        **(dynamic if batched else {}),
        "model_warmup": [warm_up(manifest.input, size) for size in sorted({1, manifest.batch.max})] if batched else [],
    }
    # Without its twin: what cannot run in Triton is no use there. The manifest makes the folder readable for `serve` too.
    alone = structs.replace(manifest, twin=None)
    write_artifact(folder / name / "1" / file, alone, lambda path: shutil.copyfile(artifact.path, path))
    write_text(folder / name / "labels.txt", "".join(f"{label}\n" for label in manifest.labels))
    write_config(folder, config)
    return TritonModel(name, runs, file)
