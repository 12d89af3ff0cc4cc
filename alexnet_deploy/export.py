"""A PyTorch module to ONNX, compared with PyTorch on real pictures before a file is written."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from msgspec import structs

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import DataError, InputError, ModelError
from alexnet_deploy.extras import extra
from alexnet_deploy.onnx_graph import describe, edit, save_graph
from alexnet_deploy.onnx_graph.normalise import BATCH_AXIS, raise_opset, tidy
from alexnet_deploy.onnx_graph.raw_input import accept_pixels
from alexnet_deploy.onnx_graph.running import function
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.preprocess import normalise
from alexnet_deploy.types import BatchRange, Progress, silent

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto
    from torch import nn

INPUT, OUTPUT = "input", "logits"
OPSET = 20
OPSETS = range(18, 24)
TOLERANCE = 1e-4  # of the largest logit
PICTURES = 32
_BATCH_SIZE = 8
_TASK = "export"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """An exported graph, and how near to PyTorch it is.

    Attributes:
        artifact: the ONNX file and its manifest.
        pictures, location: how many pictures both were run on, and where those came from.
        max_abs_error: the largest difference of any logit.
        largest_logit: the largest logit, by magnitude, that the error is measured by.
        agreement: the share of pictures with the same best class.
        seconds: from start to finish.
    """

    artifact: Artifact
    pictures: int
    location: str
    max_abs_error: float
    largest_logit: float
    agreement: float
    seconds: float


def export(
    model: nn.Module,
    source: Artifact,
    output: str | Path,
    *,
    batch: BatchRange | None = None,
    input_dtype: Literal["float32", "uint8"] = "float32",
    opset: int = OPSET,
    pictures: PictureSet | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Writes `model` as ONNX with a dynamic batch, ending in logits.

    Args:
        model: in evaluation mode, float32 (N, C, H, W) to float32 (N, classes).
        source: the checkpoint it came from; its manifest says how pictures become input.
        output: where the graph goes.
        batch: what the manifest says about batch sizes; the graph itself takes any.
        input_dtype: "uint8" puts the preprocessing into the graph, which then takes uint8 (N, H, W, 3) RGB.
        opset: of the default operator set, 18 to 23.
        pictures: what to compare on; None for the set that the checkpoint was trained on, or else the demo pictures.
        progress: told of the steps.

    Raises:
        ModelError: the graph does not agree with PyTorch to 1e-4 of the largest logit; nothing is written.
        InputError: an option out of range.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset}", expected=f"{OPSETS.start} to {OPSETS.stop - 1}", fix=f"--opset {OPSET}")
    started = time.perf_counter()
    recipe = source.manifest.preprocess
    chosen = _pictures(source, pictures)
    progress(_TASK, 0, 3)
    graph = to_onnx(model, (2, *recipe.input_shape))
    raise_opset(graph, opset)
    progress(_TASK, 1, 3)
    fed = accept_pixels(graph, recipe) if input_dtype == "uint8" else recipe
    given, result, kind = describe(graph)

    answer = function(graph)
    expected, found = [], []
    for pixels, _ in chosen.pixels(recipe, _BATCH_SIZE):
        expected.append(_forward(model, normalise(pixels, recipe)))
        found.append(answer(pixels if input_dtype == "uint8" else normalise(pixels, recipe)))
    wanted, had = np.concatenate(expected), np.concatenate(found)
    error, largest = float(np.abs(had - wanted).max()), float(np.abs(wanted).max())
    if not error <= TOLERANCE * largest:
        raise ModelError(
            f"the exported graph's logits are up to {error:.3g} away from PyTorch's on {len(chosen)} pictures",
            expected=f"at most {TOLERANCE * largest:.3g} ({TOLERANCE:g} of the largest logit); nothing was written",
        )
    progress(_TASK, 2, 3)
    manifest = structs.replace(
        source.manifest,
        kind="onnx",
        input=given,
        output=result,
        output_kind=kind,
        preprocess=fed,
        batch=batch or BatchRange(),
        parents=source.lineage(),
        notes="preprocessing is part of the graph" if input_dtype == "uint8" else "",
    )
    artifact = save_graph(graph, output, manifest)
    progress(_TASK, 3, 3)
    return ExportReport(
        artifact=artifact,
        pictures=len(chosen),
        location=chosen.location,
        max_abs_error=error,
        largest_logit=largest,
        agreement=float((had.argmax(1) == wanted.argmax(1)).mean()),
        seconds=time.perf_counter() - started,
    )


def to_onnx(model: nn.Module, input_shape: tuple[int, ...]) -> ModelProto:
    """The module as an ONNX graph of opset 20, float32 `input` to `logits`, tidied and with its modules' names.

    Args:
        model: in evaluation mode.
        input_shape: of an example, (N, C, H, W) with N of at least 2; N stays open in the graph.

    Raises:
        ModelError: PyTorch cannot export it.
        AlexnetDeployError: torch or onnxscript is not installed.
    """
    with extra("train", "exporting"):
        import onnxscript  # noqa: F401  (torch.onnx needs it, and says so less clearly)
        import torch
    example = torch.zeros(input_shape)
    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS, min=1)},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever the tracer, the decompositions and the translation raise
        raise ModelError(f"PyTorch cannot export the model: {edit.first_line(error)}", expected="a traceable module") from error
    if program is None:
        raise ModelError("PyTorch exported nothing", expected="an ONNX program")
    graph = program.model_proto
    name_after_modules(graph.graph)
    tidy(graph)
    return graph


def name_after_modules(graph: GraphProto) -> None:
    """Nodes and the tensors between them are called after the modules they come from: features.0, classifier.1."""
    fixed = {value.name for value in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
    taken = set(fixed)
    renamed: dict[str, str] = {}
    for node in graph.node:
        node.name = _unused(_module(node) or node.op_type.lower(), taken)
        taken.add(node.name)
        for index, name in enumerate(node.output):
            if name and name not in fixed:
                renamed[name] = node.name if index == 0 else f"{node.name}:{index}"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def _module(node: NodeProto) -> str:
    """The path of the module that a node comes from: that of its weights, else as the exporter noted it.

    The exporter's note is a list from the outermost to the call: ['', 'features', 'features.0', 'conv2d']. It is wrong for
    a convolution that a BatchNorm was folded into.
    """
    weight = node.input[1] if len(node.input) > 1 else ""
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    path = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")]
    return path[-2] if len(path) > 1 else ""


def _unused(wish: str, taken: set[str]) -> str:
    name, count = wish, 0
    while name in taken:
        count += 1
        name = f"{wish}/{count}"
    return name


def _pictures(source: Artifact, given: PictureSet | None) -> PictureSet:
    """At most 32 pictures: those given, else the checkpoint's own set, else the demo's."""
    if given is not None:
        if not len(given):
            raise DataError(f"{given.location} holds no pictures", expected="pictures to compare the export on")
        return given.sample(PICTURES)
    known = source.manifest.pictures
    if known is not None:
        with contextlib.suppress(DataError):  # the folder has moved since: any real pictures will do
            return PictureSet.open(known.location).sample(PICTURES)
    return PictureSet.open("demo:test").sample(PICTURES)


def _forward(model: nn.Module, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = model(torch.from_numpy(batch)).numpy()
    return logits


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the exporter's prints, warnings and log lines out of a user's sight."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
