"""A float32 graph to FP16, BF16, INT8 or FP8: ONNX to ONNX. Precision lives in the graph; `build` only compiles it.

fp16, bf16      `half.to_half`
int8, fp8       Q/DQ pairs with calibrated ranges (see `qdq`); TensorRT form: what is not quantised is FP16

What was written is read back from the graph: a graph is called int8 only when every layer is, but those left out on purpose.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import structs
from onnx import ModelProto

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import CalibrationError, FallbackWarning, InputError, ModelError
from alexnet_deploy.machine import has_vnni
from alexnet_deploy.manifest import CalibrationRecord, Manifest
from alexnet_deploy.onnx_graph import edit, layer_precisions, load_graph, save_graph
from alexnet_deploy.onnx_graph.session import fused_operators
from alexnet_deploy.quantization.balance import NO_FACTORS
from alexnet_deploy.quantization.calibration import Calibration
from alexnet_deploy.quantization.half import to_half
from alexnet_deploy.quantization.layers import Layer, choose_skipped, find_layers
from alexnet_deploy.quantization.one_scale import one_scale
from alexnet_deploy.quantization.pixels import equal_steps, read_pixels
from alexnet_deploy.quantization.qdq import cpu_form, tensorrt_form
from alexnet_deploy.quantization.weights import INT8_LIMIT, REDUCED_LIMIT
from alexnet_deploy.quantization.width_to_channels import width_to_channels
from alexnet_deploy.types import GraphForm, Precision, Progress, silent

# Largest magnitude in float16; beyond it activations between layers would become infinite.
_HALF_MOST = 65504.0
_INTEGER_KERNELS = {
    "Conv": {"QLinearConv", "ConvInteger"},
    "Gemm": {"QGemm"},
    "MatMul": {"QLinearMatMul", "MatMulIntegerToFloat"},
}


def quantize(
    model: Artifact,
    output: str | Path,
    precision: Precision,
    *,
    form: GraphForm = GraphForm.TENSORRT,
    calibration: Calibration | None = None,
    skip: Sequence[str] = (),
    reduce_range: bool | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Writes the graph in another precision, with its manifest.

    Args:
        model: an FP32 graph.
        output: where it goes; ends in .onnx.
        form: whom an INT8 graph is for: TensorRT (symmetric int8, the rest FP16) or the CPU (U8S8, the rest FP32).
        calibration: the ranges, from `calibrate` on this very graph; needed for INT8 and FP8.
        skip: layers to leave in the precision of the rest: names, "first", "last".
        reduce_range: keep weights of the CPU form to 7 bits, which CPUs without VNNI need to sum without saturating;
            by default decided by this machine's CPU.

    Raises:
        InputError: a precision, form or layer that does not fit the graph.
        CalibrationError: no calibration, or that of another graph.
        ModelError: the graph has nothing to quantise, or a layer stayed as it was.
    """
    _check(model, precision, form, calibration)
    progress(f"write {precision}", 0, 1)
    graph = load_graph(model.path)
    if precision in (Precision.FP16, Precision.BF16):
        written = save_graph(
            to_half(graph, "float16" if precision == Precision.FP16 else "bfloat16"), output, _manifest(model, precision)
        )
    else:
        assert calibration is not None
        written = _quantise(model, graph, Path(output), precision, form, calibration, skip, reduce_range, progress)
    progress(f"write {precision}", 1, 1)
    return written


def _quantise(
    model: Artifact,
    graph: ModelProto,
    output: Path,
    precision: Precision,
    form: GraphForm,
    calibration: Calibration,
    skip: Sequence[str],
    reduce_range: bool | None,
    progress: Progress,
) -> Artifact:
    layers = find_layers(graph)
    skipped = choose_skipped(layers, skip)
    chosen = [layer for layer in layers if layer.name not in skipped]
    reduced = (not has_vnni() if reduce_range is None else reduce_range) if form is GraphForm.CPU else None
    steps = equal_steps(graph, chosen, calibration.factors) if form is GraphForm.CPU else NO_FACTORS
    weights = calibration.weights.quantised(
        graph, chosen, precision, limit=REDUCED_LIMIT if reduced else INT8_LIMIT, factors=steps, progress=progress
    )
    if form is GraphForm.CPU:
        quantised = cpu_form(graph, chosen, calibration.ranges_for(form), weights, {**calibration.factors, **steps})
        read_pixels(quantised)
        width_to_channels(quantised)
        one_scale(quantised)
        _check_kernels(quantised, chosen)
    else:
        quantised = tensorrt_form(
            graph, chosen, calibration.ranges, weights, precision, calibration.factors, calibration.record.shifted
        )
        quantised = to_half(quantised, "float16") if _fits_half(calibration, quantised) else quantised
    _check_written(quantised, chosen, precision)
    manifest = structs.replace(
        _manifest(model, precision), form=form, reduce_range=reduced, calibration=_record(calibration, chosen, form, precision)
    )
    return save_graph(quantised, output, manifest)


def _check(model: Artifact, precision: Precision, form: GraphForm, calibration: Calibration | None) -> None:
    if model.manifest.kind != "onnx" or model.manifest.precision is not Precision.FP32:
        raise InputError(
            f"{model.path.name} is {'no graph' if model.manifest.kind != 'onnx' else model.manifest.precision}",
            expected="an FP32 ONNX graph",
            fix="alexnet-deploy export",
        )
    if precision is Precision.FP32:
        raise InputError("the graph is fp32 already", expected="fp16, bf16, int8 or fp8")
    if form is GraphForm.CPU and precision is not Precision.INT8:
        raise InputError(f"there is no CPU form of {precision}", expected="int8, or the tensorrt form")
    if precision not in (Precision.INT8, Precision.FP8):
        return
    if calibration is None:
        raise CalibrationError(f"{precision} needs ranges", expected="a calibration", fix="--calib FOLDER of pictures")
    if calibration.model_sha256 != model.manifest.sha256:
        raise CalibrationError(
            f"the calibration is of another graph than {model.path.name}", expected="one of this graph", fix="calibrate again"
        )


def _manifest(model: Artifact, precision: Precision) -> Manifest:
    return structs.replace(
        model.manifest, precision=precision, parents=model.lineage(), calibration=None, form=None, training=None
    )


def _record(calibration: Calibration, layers: Sequence[Layer], form: GraphForm, precision: Precision) -> CalibrationRecord:
    """The calibration's record with what this graph uses of it."""
    ranges, record = calibration.ranges_for(form), calibration.record
    used = {layer.data for layer in layers}
    shifted = record.shifted if form is GraphForm.TENSORRT and precision is Precision.INT8 else ()
    if form is GraphForm.TENSORRT:
        ranges = {name: limits for name, limits in ranges.items() if name in used}
    else:
        used |= {layer.output for layer in layers}
    return structs.replace(
        record,
        ranges=ranges,
        balanced=tuple(name for name in record.balanced if name in used),
        shifted=tuple(name for name in shifted if name in used),
    )


def _fits_half(calibration: Calibration, graph: ModelProto) -> bool:
    """Whether no activation that was seen, and no bias, leaves the range of float16; where one does, the rest stays FP32, and
    that is said. A bias may become large by what the data of its layer is shifted by.
    """
    beyond = [n for n, h in calibration.histograms.items() if max(-h.low, h.high) > _HALF_MOST]
    stored = edit.initialisers(graph.graph)
    biases = {name for node in edit.nodes_of(graph.graph, "Conv", "Gemm") for name in node.input[2:] if name in stored}
    beyond += [name for name in sorted(biases) if np.abs(edit.array(stored[name])).max(initial=0) > _HALF_MOST]
    if beyond:
        warnings.warn(
            f"{beyond[0]} reaches values beyond float16 (65504): what is not quantised stays FP32", FallbackWarning, stacklevel=5
        )
    return not beyond


def _check_written(graph: ModelProto, layers: Sequence[Layer], precision: Precision) -> None:
    """Raises ModelError unless each of `layers` computes in `precision`, by what the graph itself says."""
    found = {p.layer: p.precision for p in layer_precisions(graph)}
    wrong = [layer.name for layer in layers if found.get(layer.name) is not precision]
    if wrong:
        raise ModelError(
            f"{', '.join(wrong)} did not become {precision}",
            expected=f"every layer in {precision}",
            fix=f"--skip {','.join(wrong)}",
        )


def _check_kernels(graph: ModelProto, layers: Sequence[Layer]) -> None:
    """Warns where onnxruntime will not run a layer in integers: the file is right, but that layer is slow."""
    kernels = Counter(fused_operators(graph))
    for op, names in _INTEGER_KERNELS.items():
        wanted = sum(layer.op == op for layer in layers)
        fused = sum(kernels[name] for name in names)
        if fused < wanted:
            warnings.warn(
                f"onnxruntime runs {wanted - fused} of {wanted} quantised {op} layers in float on the CPU",
                FallbackWarning,
                stacklevel=5,
            )
