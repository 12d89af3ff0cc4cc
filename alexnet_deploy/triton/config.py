"""config.pbtxt, in protobuf's text format.

The schema is model_config.proto of https://github.com/triton-inference-server/common.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import replacing
from alexnet_deploy.types import TensorSpec

_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}


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


class Word(str):
    """A word of the schema, written without quotation marks: TYPE_FP32."""

    __slots__ = ()


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


def tensor(spec: TensorSpec, batched: bool) -> dict[str, object]:
    if spec.dtype not in _TYPES:
        raise InputError(f"{spec} is of a type that is not written here", expected=", ".join(_TYPES))
    shape = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": Word(_TYPES[spec.dtype]), "dims": [-1 if n is None else n for n in shape]}


def warm_up(spec: TensorSpec, batch: int) -> dict[str, object]:
    value = {"data_type": Word(_TYPES[spec.dtype]), "dims": [-1 if n is None else n for n in spec.shape[1:]], "zero_data": True}
    return {"name": f"batch of {batch}", "batch_size": batch, "inputs": [{"key": spec.name, "value": value}]}


def write_config(repository: Path, config: dict[str, object]) -> None:
    """Writes the configuration of the model that it names."""
    write_text(repository / str(config["name"]) / "config.pbtxt", config_text(config))


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
