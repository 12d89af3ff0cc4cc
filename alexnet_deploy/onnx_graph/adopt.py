"""A manifest for a graph that somebody else made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError, ModelError
from alexnet_deploy.files import file_sha256
from alexnet_deploy.manifest import Lineage, Manifest, Preprocess
from alexnet_deploy.onnx_graph import edit
from alexnet_deploy.onnx_graph.classifier import describe, only_input
from alexnet_deploy.onnx_graph.files import load_graph, save_graph
from alexnet_deploy.onnx_graph.normalise import normalise
from alexnet_deploy.onnx_graph.raw_input import accept_pixels
from alexnet_deploy.onnx_graph.running import Batch, function
from alexnet_deploy.onnx_graph.widths import to_float32
from alexnet_deploy.preprocess import normalise as to_input
from alexnet_deploy.types import BatchRange, OutputKind, TensorSpec

MAX_BATCH = 64
_TOLERANCE = 1e-4  # of the largest output: folding rounds differently, nothing else may differ


def adopt(
    path: str | Path,
    preprocess: Preprocess,
    labels: Sequence[str] = (),
    output: str | Path | None = None,
    *,
    pixels_in: bool = False,
    head: str | None = None,
) -> Artifact:
    """Makes an artifact of any single-input ONNX classifier; the file itself is left as it is.

    The graph is brought into the dialect of `normalise`, and both are run on the same input to prove that they agree.

    Args:
        path: the ONNX file.
        preprocess: how its author turned pictures into input.
        labels: one a class, or none.
        output: where the artifact goes; None for `<stem>.adopted.onnx` beside the original.
        pixels_in: put the recipe into the graph, which then takes uint8 (N, H, W, 3) RGB.
        head: of several outputs, the one with the classes; None where only one can be it.

    Raises:
        ArtifactError: it is broken, no classifier, or cannot be brought into the dialect.
        InputError: the recipe or the labels do not fit the graph.
    """
    path = Path(path)
    target = Path(output) if output is not None else path.with_name(f"{path.stem}.adopted.onnx")
    if target.resolve() == path.resolve():
        raise InputError(f"{target} is the original", expected="another name for the normalised graph", fix="-o OTHER.onnx")
    original = load_graph(path)
    try:
        model, adds_up, batch, changes = _normalised(original, preprocess, head, open_batch=True)
    except ModelError:
        model, adds_up, batch, changes = _normalised(original, preprocess, head, open_batch=False)
    if pixels_in or describe(model)[0].dtype == "uint8":
        preprocess = accept_pixels(model, preprocess)
    given, result, kind = describe(model)
    if labels and len(labels) != result.shape[1]:
        raise InputError(f"{len(labels)} labels for {result.shape[1]} classes", expected="one label a class, one a line")
    manifest = Manifest(
        kind="onnx",
        input=given,
        output=result,
        output_kind=OutputKind.PROBABILITIES if adds_up else kind,
        preprocess=preprocess,
        batch=batch,
        labels=tuple(labels),
        parents=(Lineage(kind="onnx", file=path.name, sha256=file_sha256(path)),),
        notes=f"adopted from {path.name}" + (f": {', '.join(changes)}" if changes else ""),
    )
    return save_graph(model, target, manifest)


def _normalised(
    original: ModelProto, recipe: Preprocess, head: str | None, *, open_batch: bool
) -> tuple[ModelProto, bool, BatchRange, list[str]]:
    """The graph in the dialect, proven to answer as the original does.

    Returns:
        The graph; whether its answers add up to 1, as probabilities do; the batches it takes; what was changed.
    """
    model = ModelProto()
    model.CopyFrom(original)
    changes = normalise(model, open_batch=open_batch, head=head)
    given, _, _ = describe(model)
    _check_recipe(given, recipe)
    # An open height or width becomes the recipe's.
    for axis, length in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], recipe.input_shape, strict=True):
        axis.dim_value = length
    if not open_batch and _batch(model) is None and not _runs(model, _noise(given, recipe, 2)):
        # Exporters write down an open batch for whoever asks, and sizes of the one picture that they traced beside it.
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        changes.append("batch fixed to 1")
    adds_up = _prove(original, model, given, recipe)
    fixed = _batch(model)
    return model, adds_up, BatchRange(fixed, fixed, fixed) if fixed else BatchRange(1, 8, MAX_BATCH), changes


def _runs(model: ModelProto, pictures: Batch) -> bool:
    try:
        function(model)(pictures)
    except ModelError:
        return False
    return True


def _check_recipe(given: TensorSpec, recipe: Preprocess) -> None:
    """Raises InputError unless the recipe makes what the graph takes."""
    expected = given.shape[1:]
    made = recipe.input_shape
    if any(want not in (None, have) for want, have in zip(expected, made, strict=True)):
        raise InputError(
            f"the recipe makes pictures of {made} ({recipe.layout}), the graph takes {given}",
            expected="a size, layout and number of channels that fit",
            fix="--crop, --layout nhwc, --channel-order grey",
        )
    if given.dtype == "uint8" and (recipe.scale != 1 or any(recipe.mean) or set(recipe.std) != {1.0}):
        raise InputError(
            "the graph takes uint8 pixels, the recipe scales them",
            expected="the pixels themselves",
            fix="--scale 1 --mean 0 --std 1",
        )


def _batch(model: ModelProto) -> int | None:
    """The batch size that a graph is fixed to, or None."""
    return (edit.dims(only_input(model.graph).type) or (None,))[0]


def _prove(original: ModelProto, model: ModelProto, given: TensorSpec, recipe: Preprocess) -> bool:
    """Runs both graphs on the same noise, and the new one on more pictures at once than the original takes.

    Returns:
        Whether all answers add up to 1, as probabilities do, whatever they were made by.

    Raises:
        ModelError: they disagree, or the answer for a picture depends on its neighbours.
    """
    count = _batch(model) or 2 * (_batch(original) or 1)
    held = _batch(original) or count
    pictures = _noise(given, recipe, count)
    answer = function(_in_float32(original), model.graph.output[0].name)
    expected = np.concatenate([answer(pictures[i : i + held]) for i in range(0, count, held)])
    expected = expected.reshape(count, -1)
    if not np.isfinite(expected).all():
        raise ModelError("the graph answers NaN or infinity", expected="finite numbers for any picture")
    normalised = function(model)
    found = normalised(pictures)
    if found.shape != expected.shape:
        raise ModelError(f"{count} pictures give an output of {found.shape}", expected=f"{expected.shape}: one row a picture")
    limit = _TOLERANCE * max(float(np.abs(expected).max()), 1e-6)
    worst = float(np.abs(found - expected).max())
    if not worst <= limit:
        raise ModelError(
            f"the normalised graph answers {worst:.3g} away from the original",
            expected=f"at most {limit:.3g}",
            fix="export it again, with a newer opset and a dynamic batch",
        )
    others = _noise(given, recipe, count, seed=1)
    others[0] = pictures[0]
    if not np.abs(normalised(others)[0] - found[0]).max() <= limit:
        raise ModelError(
            "the answer for a picture depends on its neighbours in the batch",
            expected="rows that stand alone",
            fix="export it in evaluation mode; of a graph that was quantised dynamically, take the one in float32",
        )
    return bool((found >= 0).all() and np.allclose(found.sum(axis=1), 1, rtol=0, atol=_TOLERANCE))


def _in_float32(model: ModelProto) -> ModelProto:
    """A copy that computes in float32: onnxruntime has few of its operators in other widths, and those round as they like."""
    copy = ModelProto()
    copy.CopyFrom(model)
    to_float32(copy)
    return copy


def _noise(given: TensorSpec, recipe: Preprocess, count: int, seed: int = 0) -> Batch:
    """Pictures of noise, as the graph takes them: enough to compare two graphs with each other."""
    generator = np.random.default_rng(seed)
    if given.dtype == "uint8":
        return generator.integers(0, 256, (count, *recipe.input_shape), np.uint8)
    return to_input(generator.integers(0, 256, (count, recipe.height, recipe.width, 3), np.uint8), recipe)
