"""The words that every room shares: frozen, and made of nothing but the standard library and msgspec's Struct."""

from enum import StrEnum
from operator import index
from typing import Any, Protocol

from msgspec import Struct

from alexnet_deploy.errors import InputError

MAX_THREADS = 1024  # in one call; onnxruntime tries for hours to start a million of them


class Precision(StrEnum):
    """What a graph computes its convolutions and matrix products in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"
    INT4 = "int4"  # of weights alone, in blocks; activations are quantised by the engine as they come


class GraphForm(StrEnum):
    """Whom a quantised graph is written for.

    TensorRT wants symmetric int8 everywhere; the CPU wants uint8 activations with a zero point.
    One graph cannot serve both, so each INT8 model has two, made from one set of ranges.
    """

    TENSORRT = "tensorrt"
    CPU = "cpu"


class Flavour(StrEnum):
    """Which TensorRT a plan is for: the data-centre library, or TensorRT for RTX."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class OutputKind(StrEnum):
    """What the numbers that leave a graph mean."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"


class TensorSpec(Struct, frozen=True):
    """Name, dtype and shape of a graph's input or output.

    Attributes:
        name: the tensor's name in the graph.
        dtype: a numpy dtype name, such as "float32" or "uint8".
        shape: one entry an axis; None where any length is allowed (the batch).
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        axes = ", ".join("N" if n is None else str(n) for n in self.shape)
        return f"{self.name} {self.dtype} ({axes})"


class BatchRange(Struct, frozen=True):
    """The batch sizes that an artifact takes: from min to max, fastest at opt.

    Raises:
        ValueError: unless 1 <= min <= opt <= max.
    """

    min: int = 1
    opt: int = 8
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"batch range {self.min}..{self.opt}..{self.max} is not 1 <= min <= opt <= max")


def whole_number(value: Any, what: str, most: int | None = None) -> int:
    """`value` as an int from 1 to `most`; numpy's integers count, truth does not. Raises InputError."""
    try:
        number = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        number = 0
    if not 1 <= number <= (most or number):
        wanted = "a whole number, at least 1" if most is None else f"a whole number from 1 to {most:,}"
        raise InputError(f"{what} is {value!r}", expected=wanted)
    return number


class Progress(Protocol):
    """How a long function tells how far it is; the CLI draws it, libraries may ignore it.

    `note` is what is worth knowing at this moment, such as the loss.
    """

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None: ...


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """The Progress that shows nothing."""
