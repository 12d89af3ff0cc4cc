"""A model repository for NVIDIA's Triton Inference Server, from artifacts.

    DIR/alexnet_int8/config.pbtxt              what Triton reads
                     labels.txt                one class a line
                     1/model.plan, model.plan.json
    DIR/alexnet_int8_pixels/config.pbtxt       an ensemble: uint8 pictures in
    DIR/alexnet_int8_preprocess/1/model.onnx   its first step

The configuration's schema is model_config.proto of https://github.com/triton-inference-server/common.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import replacing
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.types import Flavour, GraphForm, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGE = "nvcr.io/nvidia/tritonserver"
# Release of the container -> its TensorRT, in the image whose tag ends in -trtllm-python-py3; a plan is read by no other version.
# https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md, as of release 26.08: none of
# them holds TensorRT 11, and no table of the other images (tags ending in -py3) was to be found. `image` is for those.
TABLE_AS_OF = "26.08"
TENSORRT_IN_CONTAINER = {
    "26.07": "10.14.1.48",
    "26.06": "10.14.1.48",
    "26.05": "10.14.1.48",
    "26.04": "10.14.1.48",
    "26.03": "10.14.1.48",
    "26.02": "10.13.3.9",
    "26.01": "10.13.3.9",
    "25.12": "10.13.3.9",
    "25.11": "10.13.3.9",
    "25.10": "10.11.0.33",
    "25.09": "10.11.0.33",
    "25.08": "10.11.0.33",
    "25.07": "10.10.0.31",
    "25.06": "10.10.0.31",
    "25.05": "10.9.0.34",
    "25.04": "10.9.0.34",
    "25.03": "10.9.0.34",
    "25.02": "10.8.0.43",
    "25.01": "10.8.0.43",
}
# For graphs alone: the newest release of that table, with onnxruntime 1.28.
GRAPHS_IMAGE = f"{IMAGE}:{TABLE_AS_OF}-py3"

_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}
_SPEC = re.compile(r"(?P<name>\w[\w-]*)=(?P<path>.+)", re.ASCII)


class Word(str):
    """A word of the schema, written without quotation marks: TYPE_FP32."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TritonModel:
    """One model of a repository.

    Attributes:
        name: the folder's, and what clients ask for.
        runs: Triton's platform: "tensorrt_plan", "onnxruntime_onnx" or "ensemble".
        file: of the model, or "" for an ensemble.
    """

    name: str
    runs: str
    file: str


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
        InputError: a checkpoint, two models of one name, or a plan that no Triton reads.
        ArtifactError: as `Artifact.open`.
    """
    folder = Path(folder)
    named = [_named(spec) for spec in specs]
    names = [name for name, _ in named]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"two models would be called {twice}", expected="a name of its own for each", fix=f"other={twice}...")
    artifacts = [(name, Artifact.open(path)) for name, path in named]
    image = choose_image([artifact for _, artifact in artifacts], image)
    models: list[TritonModel] = []
    for name, artifact in artifacts:
        models.append(_write_model(folder, name, artifact, instances, device, max_delay_us))
        if pixels and artifact.manifest.input.dtype != "uint8":
            models += _write_ensemble(folder, name, artifact)
    gpus = "--gpus=all " if any(m.runs == "tensorrt_plan" for m in models) or device != "cpu" else ""
    command = (
        f"docker run --rm {gpus}-p 8000:8000 -p 8001:8001 -p 8002:8002 -v {folder.resolve()}:/models:ro {image} "
        "tritonserver --model-repository=/models"
    )
    return TritonReport(folder, tuple(models), image, command)


def choose_image(artifacts: Sequence[Artifact], named: str = "") -> str:
    """The newest container that reads all of these, or the one that was named, unless the table says that it does not.

    Raises:
        InputError: a checkpoint, a graph written for TensorRT, a plan of TensorRT for RTX, or plans of a version that no
            container has, or of several.
    """
    versions: dict[str, str] = {}
    for artifact in artifacts:
        plan = artifact.manifest.plan
        if artifact.manifest.kind == "checkpoint":
            raise InputError(
                f"Triton reads no {artifact.path.name}", expected="an ONNX graph or a plan", fix="alexnet-deploy export"
            )
        if plan is None and artifact.manifest.form is GraphForm.TENSORRT:
            raise InputError(
                f"{artifact.path.name} is written for TensorRT, and Triton's onnxruntime would round it once more",
                expected="a plan that is built from it, or the graph of the CPU form",
                fix="alexnet-deploy build-engine --target tensorrt, on a machine with a GPU",
            )
        if plan is not None and plan.flavour is not Flavour.TENSORRT:
            twin = artifact.manifest.twin
            raise InputError(
                f"{artifact.path.name} is of {plan.flavour}, which Triton does not have",
                expected="a plan of TensorRT itself, or an ONNX graph",
                fix=f"its graph {twin.file}"
                if twin
                else "alexnet-deploy build-engine --target tensorrt, on a machine with a GPU",
            )
        if plan is not None:
            versions[plan.version] = artifact.path.name
    if not versions:
        return named or GRAPHS_IMAGE
    if len(versions) > 1:
        raise InputError(
            f"the plans are of TensorRT {' and '.join(sorted(versions))}", expected="plans of one version: a container has one"
        )
    (version,) = versions
    if named:
        in_table = re.fullmatch(rf"{re.escape(IMAGE)}:(\d\d\.\d\d)-trtllm-python-py3", named)
        holds = TENSORRT_IN_CONTAINER.get(in_table[1]) if in_table else None
        if holds not in (None, version):
            raise InputError(f"{versions[version]} is of TensorRT {version}", expected=f"{holds}, which {named} holds")
        return named
    release = next((release for release, holds in TENSORRT_IN_CONTAINER.items() if holds == version), None)
    if release is None:
        raise InputError(
            f"{versions[version]} is of TensorRT {version}, which no Triton container in the table (of {TABLE_AS_OF}) has",
            expected=f"one of {', '.join(sorted(set(TENSORRT_IN_CONTAINER.values())))}",
            fix=f"--image {IMAGE}:TAG, if you know one that holds it, or build the plan inside the container that will serve it",
        )
    return f"{IMAGE}:{release}-trtllm-python-py3"


def preprocessing_graph(recipe: Preprocess, prepared: TensorSpec) -> ModelProto:
    """The recipe's arithmetic alone, as ONNX: uint8 (N, height, width, 3) RGB "pixels" to `prepared`."""
    from onnx import TensorProto, helper

    from alexnet_deploy.onnx_graph.raw_input import accept_pixels

    # `accept_pixels` goes in front of a classifier; behind this smallest one, everything is cut off again.
    nodes = [
        helper.make_node("Identity", ["input"], [prepared.name]),
        helper.make_node("Flatten", [prepared.name], ["flat"]),
        helper.make_node("Concat", ["flat", "flat"], ["classes"], axis=1),
    ]
    shape = ["N", *recipe.input_shape]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
    classes = helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["N", 2 * math.prod(recipe.input_shape)])
    model = helper.make_model(
        helper.make_graph(nodes, "preprocess", [given], [classes]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    accept_pixels(model, recipe)
    del model.graph.node[-2:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(prepared.name, TensorProto.FLOAT, shape))
    return model


def config_text(values: dict[str, object], indent: str = "") -> str:
    """Protobuf's text format. Lists repeat their field, dicts are messages, plain words stand without quotation marks."""
    lines: list[str] = []
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                lines += [f"{indent}{name} {{", config_text(item, indent + "  ").rstrip("\n"), f"{indent}}}"]
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}")
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (Word, int)):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


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
        "input": _tensor(manifest.input, batched),
        "output": _tensor(manifest.output, batched) | ({"label_filename": "labels.txt"} if manifest.labels else {}),
        "instance_group": {"count": instances, "kind": Word(kind)},
        **(dynamic if batched else {}),
        "model_warmup": [_warm_up(manifest.input, size) for size in sorted({1, manifest.batch.max})] if batched else [],
    }
    # Without its twin: what cannot run in Triton is no use there. The manifest makes the folder readable for `serve` too.
    alone = replace(manifest, twin=None)
    write_artifact(folder / name / "1" / file, alone, lambda path: shutil.copyfile(artifact.path, path))
    _write_text(folder / name / "labels.txt", "".join(f"{label}\n" for label in manifest.labels))
    _write_text(folder / name / "config.pbtxt", config_text(config))
    return TritonModel(name, runs, file)


def _write_ensemble(folder: Path, name: str, artifact: Artifact) -> list[TritonModel]:
    """A graph that turns pixels into input, and the two steps after one another."""
    manifest = artifact.manifest
    recipe = manifest.preprocess
    first, both = f"{name}_preprocess", f"{name}_pixels"
    pixels = TensorSpec("pixels", "uint8", (None, recipe.height, recipe.width, 3))
    prepared = TensorSpec("prepared", "float32", (None, *recipe.input_shape))
    with replacing(folder / first / "1" / "model.onnx") as temporary:
        temporary.write_bytes(preprocessing_graph(recipe, prepared).SerializeToString())
    shared = {"max_batch_size": manifest.batch.max}
    _write_text(
        folder / first / "config.pbtxt",
        config_text(
            {
                "name": first,
                "platform": "onnxruntime_onnx",
                **shared,
                "input": _tensor(pixels, True),
                "output": _tensor(prepared, True),
            }
        ),
    )
    steps = [
        _step(first, (pixels.name, pixels.name), (prepared.name, prepared.name)),
        _step(name, (manifest.input.name, prepared.name), (manifest.output.name, manifest.output.name)),
    ]
    _write_text(
        folder / both / "config.pbtxt",
        config_text(
            {
                "name": both,
                "platform": "ensemble",
                **shared,
                "input": _tensor(pixels, True),
                "output": _tensor(manifest.output, True),
                "ensemble_scheduling": {"step": steps},
            }
        ),
    )
    (folder / both / "1").mkdir(parents=True, exist_ok=True)  # Triton wants a version, even an empty one
    return [TritonModel(first, "onnxruntime_onnx", "model.onnx"), TritonModel(both, "ensemble", "")]


def _step(model: str, given: tuple[str, str], taken: tuple[str, str]) -> dict[str, object]:
    """One step of an ensemble; each pair is the model's own name of a tensor, and the ensemble's."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": {"key": given[0], "value": given[1]},
        "output_map": {"key": taken[0], "value": taken[1]},
    }


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, object]:
    if spec.dtype not in _TYPES:
        raise InputError(f"{spec} is of a type that is not written here", expected=", ".join(_TYPES))
    shape = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": Word(_TYPES[spec.dtype]), "dims": [-1 if n is None else n for n in shape]}


def _warm_up(spec: TensorSpec, batch: int) -> dict[str, object]:
    value = {"data_type": Word(_TYPES[spec.dtype]), "dims": [-1 if n is None else n for n in spec.shape[1:]], "zero_data": True}
    return {"name": f"batch of {batch}", "batch_size": batch, "inputs": [{"key": spec.name, "value": value}]}


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
