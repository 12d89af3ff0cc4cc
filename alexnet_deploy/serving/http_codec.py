"""The protocol's JSON and binary tensors, to and from what the models take and give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from alexnet_deploy.errors import InputError
from alexnet_deploy.serving.tensors import Request, Response, WantedOutput, from_raw, from_values, to_raw, to_values

# Output name -> wanted in binary; "" stands for the outputs that are not named.
Binary = dict[str, bool]


@dataclass(frozen=True, slots=True)
class _JsonTensor:
    """An input or a wanted output, as the protocol's JSON has it."""

    name: str
    datatype: str = ""
    shape: list[int] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    data: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class _JsonRequest:
    inputs: list[_JsonTensor]
    outputs: list[_JsonTensor] = field(default_factory=list)
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


def parse(body: bytes, header_bytes: int) -> tuple[Request, Binary]:
    """A request, and which outputs it wants in binary.

    Args:
        body: JSON, then the binary tensors in the order in which the JSON names them.
        header_bytes: the length of the JSON.

    Raises:
        InputError: anything that does not fit.
    """
    try:
        parsed = msgspec.json.decode(memoryview(body)[:header_bytes], type=_JsonRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"the request is not the protocol's JSON: {error}", expected="inputs of name, shape, datatype and data"
        ) from error
    rest = memoryview(body)[header_bytes:]
    inputs = []
    for tensor in parsed.inputs:
        size_bytes = tensor.parameters.get("binary_data_size")
        if size_bytes is None:
            inputs.append(from_values(tensor.name, tensor.datatype, tensor.shape, tensor.data or []))
        elif isinstance(size_bytes, int) and 0 <= size_bytes <= len(rest):
            inputs.append(from_raw(tensor.name, tensor.datatype, tensor.shape, rest[:size_bytes]))
            rest = rest[size_bytes:]
        else:
            raise InputError(f"binary_data_size of {tensor.name[:64]!r} is {size_bytes!r:.32}", expected=f"0 to {len(rest):,}")
    if len(rest):
        raise InputError(f"{len(rest):,} bytes follow the last tensor", expected="none")
    wanted = tuple(WantedOutput(t.name, _classes(t.parameters.get("classification", 0))) for t in parsed.outputs)
    binary = {t.name: t.parameters.get("binary_data") is True for t in parsed.outputs}
    return Request(tuple(inputs), wanted, parsed.id), {"": parsed.parameters.get("binary_data_output") is True, **binary}


def _classes(value: object) -> int:
    if not isinstance(value, int):
        raise InputError(f"classification is {value!r:.32}", expected="a number of classes")
    return value


def answer(response: Response, binary: Binary) -> tuple[bytes, int | None]:
    """A response's body, and the length of its JSON where binary tensors follow it."""
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor in response.outputs:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.array.shape)}
        if binary.get(tensor.name, binary[""]):
            raw.append(to_raw(tensor))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = to_values(tensor)
        outputs.append(output)
    said = {"model_name": response.model, "model_version": response.version, "outputs": outputs}
    header = msgspec.json.encode({"id": response.id, **said} if response.id else said)
    return b"".join([header, *raw]), len(header) if raw else None
