"""The options with which a user says how a foreign model wants its pictures; shared by every command that takes one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from alexnet_deploy.errors import InputError

if TYPE_CHECKING:
    from alexnet_deploy.artifact import Artifact
    from alexnet_deploy.manifest import Preprocess
    from alexnet_deploy.types import TensorSpec

MAX_LABEL_BYTES = 16 << 20
_Function = TypeVar("_Function", bound=Callable[..., Any])

# name -> scale, mean, std, channel order: the ways in which published classifiers were trained.
PRESETS: dict[str, tuple[float, tuple[float, ...], tuple[float, ...], Literal["rgb", "bgr"]]] = {
    "torchvision": (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb"),
    "caffe": (1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "bgr"),
    "tensorflow": (1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "rgb"),
    "zero-to-one": (1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"),
    "pixels": (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"),
}


@dataclass(frozen=True, slots=True)
class PreprocessOptions:
    """What the user said; None where nothing was said. See `Preprocess` for the meaning of each.

    Attributes:
        crop: (height, width).
        labels: a text file with one label a line.
    """

    preset: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    channel_order: Literal["rgb", "bgr", "grey"] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    resize: int | None = None
    crop: tuple[int, int] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    labels: Path | None = None
    head: str | None = None

    @property
    def given(self) -> bool:
        return self != PreprocessOptions()

    def recipe(self, takes: TensorSpec) -> Preprocess:
        """The whole recipe for a graph with this input; what the graph itself tells need not be said.

        Raises:
            InputError: the numbers are not said, or do not fit together.
        """
        from alexnet_deploy.manifest import Preprocess

        if not (self.preset or self.mean or self.std or self.scale or takes.dtype == "uint8"):
            raise InputError(
                "how the model wants its pictures is not known",
                expected="what it was trained with: nothing changes the accuracy more",
                fix=f"--preset {' or '.join(PRESETS)}; or --scale, --mean and --std",
            )
        # Without a preset, pixels as they are for uint8 graphs, and 0..1 for all others.
        scale, mean, std, order = PRESETS[self.preset or ("pixels" if takes.dtype == "uint8" else "zero-to-one")]
        layout = self.layout or ("nchw" if takes.shape[1] in (1, 3) else "nhwc")
        channels, height, width = (takes.shape[i] for i in ((1, 2, 3) if layout == "nchw" else (3, 1, 2)))
        if self.crop is not None:
            height, width = self.crop
        if height is None or width is None:
            raise InputError(f"the graph takes any size ({takes})", expected="the size to crop to", fix="--crop 224")
        grey = channels == 1
        try:
            return Preprocess(
                height=height,
                width=width,
                resize=self.resize,
                interpolation=self.interpolation or "bilinear",
                scale=scale if self.scale is None else self.scale,
                mean=_for_each(self.mean or mean[:channels], channels),
                std=_for_each(self.std or std[:channels], channels),
                channel_order=self.channel_order or ("grey" if grey else order),
                layout=layout,
            )
        except ValueError as error:
            raise InputError(str(error), expected="numbers that fit the model") from error

    def read_labels(self) -> tuple[str, ...]:
        """One label a line; () without a file. Raises InputError for a file that is no text."""
        if self.labels is None:
            return ()
        try:
            if self.labels.stat().st_size > MAX_LABEL_BYTES:
                raise InputError(f"{self.labels} is over {MAX_LABEL_BYTES >> 20} MB", expected="one label a line")
            lines = self.labels.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.labels} is no UTF-8 text", expected="one label a line") from error
        except OSError as error:
            raise InputError(
                f"{self.labels} cannot be read: {error.strerror}", expected="a text file, one label a line"
            ) from error
        return tuple(line.strip() for line in lines if line.strip())


def preprocess_options(function: _Function) -> _Function:
    """Adds the options to a command; its function gets them as one argument, `pictures_as: PreprocessOptions`."""

    @functools.wraps(function)
    def collected(*args: Any, **values: Any) -> Any:
        own = {name: values.pop(name) for name in PreprocessOptions.__slots__}
        return function(*args, **values, pictures_as=PreprocessOptions(**own))

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected  # type: ignore[return-value]


def open_or_adopt(path: Path, pictures_as: PreprocessOptions, output: Path | None = None) -> Artifact:
    """The artifact at `path`; an ONNX file without a manifest is adopted with what the options say.

    Args:
        output: where an adopted graph goes; None for models/<stem>.adopted.onnx.

    Raises:
        InputError: options for a file that has a manifest, or none for one that has not.
        ArtifactError: as `Artifact.open` and `adopt`.
    """
    from alexnet_deploy.artifact import Artifact, existing_file, manifest_path
    from alexnet_deploy.cli.common import models_folder, note

    path = existing_file(path)
    if manifest_path(path).is_file():
        if pictures_as.given:
            raise InputError(
                f"{path} has a manifest, which says how it wants its pictures",
                expected="no preprocessing options",
                fix=f"leave them out, or alexnet-deploy adopt {path} to say it anew",
            )
        return Artifact.open(path)
    if path.suffix != ".onnx" or not pictures_as.given:
        return Artifact.open(path)  # raises, and says what to do
    adopted = adopt_with(path, pictures_as, output or models_folder() / f"{path.stem}.adopted.onnx")
    note(f"{path} has no manifest; adopted as {adopted.path}")
    return adopted


def adopt_with(path: Path, pictures_as: PreprocessOptions, output: Path, *, pixels_in: bool = False) -> Artifact:
    """Adopts a graph with the recipe that the options and the graph's own input make together."""
    from alexnet_deploy.onnx_graph import adopt, describe, load_graph, normalise

    graph = load_graph(path)
    normalise(graph, head=pictures_as.head)
    takes, _, _ = describe(graph)
    recipe = pictures_as.recipe(takes)
    return adopt(path, recipe, pictures_as.read_labels(), output, pixels_in=pixels_in, head=pictures_as.head)


def _for_each(numbers: tuple[float, ...], channels: int | None) -> tuple[float, ...]:
    """One number a channel; a single one counts for all of them."""
    return numbers * channels if channels is not None and len(numbers) == 1 else numbers


def _numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 0.485,0.456,0.406") from None


def _size(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, _, width = text.lower().partition("x")
        return int(height), int(width or height)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a size such as 224 or 224x320") from None


_OPTIONS = (
    click.option("--preset", type=click.Choice([*PRESETS]), help="The usual numbers of a family of models."),
    click.option("--scale", type=float, help="What an 8-bit pixel is multiplied by first.  [1/255]"),
    click.option(
        "--mean", callback=_numbers, metavar="R,G,B", help="Subtracted next, in the order of the channels; or one for all.  [0]"
    ),
    click.option("--std", callback=_numbers, metavar="R,G,B", help="Divided by last; or one for all.  [1]"),
    click.option("--channel-order", type=click.Choice(["rgb", "bgr", "grey"]), help="[rgb]"),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="[as the graph's input has it]"),
    click.option("--resize", type=click.IntRange(1, 16384), metavar="PIXELS", help="Shorter side before the crop.  [no crop]"),
    click.option("--crop", callback=_size, metavar="HxW", help="What the network takes.  [as the graph's input has it]"),
    click.option("--interpolation", type=click.Choice(["bilinear", "bicubic", "nearest"]), help="[bilinear]"),
    click.option("--labels", type=click.Path(path_type=Path, dir_okay=False), help="Text file, one label a line."),
    click.option("--head", metavar="NAME", help="Of several outputs, the one to take.  [the only one of (N, classes)]"),
)
