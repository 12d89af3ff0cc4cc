"""The manifest: what stands beside every artifact, and makes it one.

`engine.plan` has `engine.plan.json` beside it (never inside, so that trtexec and Triton can read the plan). A manifest
says what goes in, what comes out, how pictures become input, what was done to get here, and the SHA-256 of the file, so
that a changed file is refused. Here is what it says; `artifact.py` reads and writes it.

These are Structs and no dataclasses, and their annotations are no strings: each dataclass takes Runtime a millisecond to
import, each string 30 us when the first manifest is read (docs/decisions/0522-*.md).
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import msgspec
from msgspec import structs

from alexnet_deploy import __version__
from alexnet_deploy.types import MAX_THREADS, BatchRange, Flavour, GraphForm, OutputKind, Precision, TensorSpec, whole_number

FORMAT = "alexnet-deploy/1"
_MAX_FILE_NAME_BYTES = 255
PICTURE_DIGITS = 12  # of a hash: enough to tell a million pictures apart
_SHA256 = re.compile(r"[0-9a-f]{64}")

Kind = Literal["checkpoint", "onnx", "plan"]
KIND_OF_SUFFIX: dict[str, Kind] = {".safetensors": "checkpoint", ".onnx": "onnx", ".plan": "plan", ".engine": "plan"}


class Preprocess(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture becomes a network's input. `preprocess.py` carries it out.

    value = (pixel * scale - mean) / std, a channel at a time.

    Attributes:
        height, width: what the network takes, in pixels.
        resize: the shorter side is scaled to this many pixels, then the centre is cropped to height x width;
            None scales straight to height x width, without regard to the aspect.
        interpolation: the resampling filter, always with anti-aliasing when shrinking (as Pillow does).
        scale: what an 8-bit pixel value is multiplied by first (1/255 gives 0..1; 1.0 keeps 0..255).
        mean, std: one number a channel, in the order of `channel_order`, after scaling.
        channel_order: of the channels in the network's input; "grey" is one channel.
        layout: of the network's input, "nchw" or "nhwc".
    """

    height: int
    width: int
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: Literal["rgb", "bgr", "grey"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"

    def __post_init__(self) -> None:
        if not (1 <= self.height <= 8192 and 1 <= self.width <= 8192):
            raise ValueError(f"an input of {self.height}x{self.width} pixels is not within 1..8192")
        if self.resize is not None and not max(self.height, self.width) <= self.resize <= 16384:
            raise ValueError(f"resize {self.resize} is smaller than the {self.height}x{self.width} crop (or over 16384)")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} numbers for {self.channel_order}")
        finite = all(abs(v) < 1e9 for v in (self.scale, *self.mean, *self.std))  # False for NaN too
        if not finite or self.scale <= 0 or min(self.std) <= 0:
            raise ValueError("scale and std must be positive, mean finite")

    @property
    def channels(self) -> int:
        return 1 if self.channel_order == "grey" else 3

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one preprocessed picture: (C, H, W), or (H, W, C) where the layout is nhwc."""
        if self.layout == "nchw":
            return (self.channels, self.height, self.width)
        return (self.height, self.width, self.channels)

    def digest(self) -> str:
        """SHA-256 over every field: two recipes with the same digest give the same input."""
        import hashlib  # here: see files.file_sha256

        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class FileReference(msgspec.Struct, frozen=True, kw_only=True):
    """Another file in the same folder, by name and content."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        _check_file_name(self.file)
        _check_sha256(self.sha256)


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that this one was made from. It may have moved: only the hash is binding."""

    kind: Kind
    file: str
    sha256: str

    def __post_init__(self) -> None:
        _check_file_name(self.file)
        _check_sha256(self.sha256)


class DataReference(msgspec.Struct, frozen=True, kw_only=True):
    """A picture set: where it was found, and what was in it.

    Attributes:
        location: "demo:train", "demo:test", or the folder's absolute path at the time.
        count: pictures used.
        sha256: PictureSet.digest() of the pictures used.
    """

    location: str
    count: int
    sha256: str


class CalibrationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where activation ranges came from.

    Attributes:
        data: the calibration pictures.
        method: the method that was kept: "minmax", "percentile", "entropy" or "mse" (with its parameter, "percentile-99.99").
        chosen_by: "request", or "auto" when it was the best of several on pictures held back.
        seed: of the sampling of the pictures.
        preprocess_sha256: Preprocess.digest() of the recipe used.
        ranges: for each quantised activation, (low, high).
        balanced: those whose channels are multiplied to one width before they are rounded; their range is that of the widest.
        shifted: those that TensorRT's form shifts to the middle of int8, because they are hardly ever negative.
        pictures: all that it was made with, those included that thin layers were fitted to: the first PICTURE_DIGITS hex digits
            of the SHA-256 of each, sorted, run together.
    """

    data: DataReference
    method: str
    chosen_by: Literal["request", "auto"]
    seed: int
    preprocess_sha256: str
    ranges: dict[str, tuple[float, float]] = {}
    balanced: tuple[str, ...] = ()
    shifted: tuple[str, ...] = ()
    pictures: str = ""

    def shared(self, sha256: Sequence[str]) -> int:
        """How many of these pictures, by the hash of their content, were calibrated on; 0 where that is not recorded."""
        own = self._digits()
        return sum(one[:PICTURE_DIGITS] in own for one in sha256)

    def with_pictures(self, sha256: Iterable[str]) -> Self:
        """This record, of a graph that was made with other pictures as well."""
        return structs.replace(self, pictures=picture_digits([*self._digits(), *sha256]))

    def _digits(self) -> set[str]:
        return {self.pictures[i : i + PICTURE_DIGITS] for i in range(0, len(self.pictures), PICTURE_DIGITS)}


def picture_digits(sha256: Iterable[str]) -> str:
    """`CalibrationRecord.pictures` of pictures with these hashes."""
    return "".join(sorted({one[:PICTURE_DIGITS] for one in sha256}))


class LayerPrecision(msgspec.Struct, frozen=True, kw_only=True):
    """What one Conv or Gemm computes in, as read back from the finished graph or engine."""

    layer: str
    op: str
    precision: Precision


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan was built with and for.

    Attributes:
        flavour, version: the TensorRT that built it; only the same can read it.
        capabilities: the targets, such as ("sm80", "sm86") or ("current",).
    """

    flavour: Flavour
    version: str
    capabilities: tuple[str, ...]


class TunedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact is fastest on one machine, as `alexnet-deploy tune` found; Runtime follows it there, unless told otherwise.

    Attributes:
        backend, device, threads: as Runtime takes them.
        batch: the batch size that it was tuned for.
        latency_ms: the median at that batch size.
        cpu, cores: the machine; the record does not hold on another.
    """

    backend: str
    device: str
    threads: int | None
    batch: int
    latency_ms: float
    cpu: str
    cores: int

    def __post_init__(self) -> None:
        if self.threads is not None:
            whole_number(self.threads, "threads", MAX_THREADS)


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a checkpoint was trained: the data, and the settings as the command took them."""

    data: DataReference | None = None
    settings: dict[str, str | int | float | bool | None] = {}
    epochs_done: int = 0
    figures: dict[str, float] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known about one artifact. See the attributes' own types for units.

    Attributes:
        file, size_bytes, sha256: the artifact itself; filled in by `write_artifact`.
        input, output: the graph's only input and output, batch first.
        output_kind: whether the output is logits or probabilities.
        batch: the batch sizes it takes.
        preprocess: how a picture becomes input.
        labels: one name a class, in the order of the output, or () when unknown.
        precision: what it computes in; for INT8 and FP8 also `form`.
        layers: the precision of each Conv and Gemm, read back from the file.
        reduce_range: INT8 weights keep to 7 bits, for CPUs without VNNI; None where it does not matter.
        model: the architecture's configuration, as `training.model` writes it (checkpoints, and what was exported from them).
        pictures: the set it was trained on; commands that need pictures and were given none take it from here.
        held_out: where the pictures are that it was measured on while it was trained; commands that measure, and were told of
            no others, look at these.
        parents: what it was made from, nearest first.
        twin: for a plan, the graph that a machine without a GPU can run.
        tuned: how it is fastest on the machine that it was tuned on.
        notes: free text for people.
    """

    kind: Kind
    input: TensorSpec
    output: TensorSpec
    preprocess: Preprocess
    batch: BatchRange
    file: str = ""
    size_bytes: int = 0
    sha256: str = ""
    format: str = FORMAT
    created: str = ""
    created_by: str = f"alexnet-deploy {__version__}"
    output_kind: OutputKind = OutputKind.LOGITS
    labels: tuple[str, ...] = ()
    precision: Precision = Precision.FP32
    form: GraphForm | None = None
    layers: tuple[LayerPrecision, ...] = ()
    reduce_range: bool | None = None
    model: dict[str, str | int | float | bool] | None = None
    pictures: DataReference | None = None
    held_out: str = ""
    training: TrainingRecord | None = None
    calibration: CalibrationRecord | None = None
    plan: PlanRecord | None = None
    parents: tuple[Lineage, ...] = ()
    twin: FileReference | None = None
    tuned: TunedRecord | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format!r} is not {FORMAT!r}")
        if not self.output.shape:
            raise ValueError("the output has no axes")
        if self.labels and self.classes is not None and len(self.labels) != self.classes:
            raise ValueError(f"{len(self.labels)} labels for {self.classes} classes")
        if self.kind == "plan" and self.plan is None:
            raise ValueError("a plan's manifest needs the record `plan`")

    @property
    def classes(self) -> int | None:
        return self.output.shape[-1]

    def label(self, index: int) -> str:
        return self.labels[index] if self.labels else f"class {index}"


def to_builtins(value: object) -> Any:
    """Dataclasses, enums, tuples and paths as the plain dicts, strings and lists that json.dumps takes."""
    return msgspec.to_builtins(value, enc_hook=os.fspath)


def _check_file_name(name: str) -> None:
    """A manifest may only name files in its own folder."""
    too_long = len(name.encode(errors="replace")) > _MAX_FILE_NAME_BYTES
    if not name or too_long or name in (".", "..") or any(c in name for c in "/\\\0"):
        raise ValueError(f"{name[:64]!r} is not a plain file name")


def _check_sha256(text: str) -> None:
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is not a SHA-256")
