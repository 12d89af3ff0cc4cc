"""An FP32 graph to an engine, in one call: calibrate, quantise in both forms, build. Each step leaves its file beside the plan.

alexnet.onnx --int8-->  alexnet.int8.onnx      what TensorRT is built from
                        alexnet.int8.cpu.onnx  the plan's twin, for a machine without a GPU
                        alexnet.int8.plan
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_deploy.artifact import Artifact, manifest_path, write_artifact
from alexnet_deploy.errors import CalibrationError, InputError
from alexnet_deploy.manifest import CalibrationRecord
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.cache import calibrate_once
from alexnet_deploy.quantization.calibration import Calibration, Distribution
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.quantization.sensitivity import choose_skip
from alexnet_deploy.trt import adapter
from alexnet_deploy.trt.build import build, check_parses, choose_flavour, choose_targets
from alexnet_deploy.types import BatchRange, Flavour, GraphForm, Precision, Progress, silent

# What TensorRT computes in; 4-bit weights are onnxruntime's on the CPU.
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8)
CALIBRATED = (Precision.INT8, Precision.FP8)
AUTO = "auto"
SENSITIVITY_PICTURES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What `build_engine` made.

    Attributes:
        artifacts: every file written, in order; the plan is the last.
        seconds: for each step, by its name: "calibrate", "choose layers", "quantize", "build".
        calibration: where the ranges came from; None when none were needed.
        skipped: layers left in half precision, as asked for or chosen.
        batch: the plan's batch sizes.
        messages: TensorRT's warnings.
        activations: what was calibrated, tensor by tensor.
    """

    artifacts: tuple[Artifact, ...]
    seconds: dict[str, float]
    calibration: CalibrationRecord | None
    batch: BatchRange
    skipped: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    activations: tuple[Distribution, ...] = ()

    @property
    def plan(self) -> Artifact:
        return self.artifacts[-1]


@dataclass
class _Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def build_engine(
    onnx: Artifact,
    output: str | Path,
    precision: Precision,
    *,
    pictures: PictureSet | None = None,
    method: str = "auto",
    count: int = 512,
    seed: int = 0,
    shift: bool = True,
    calibration: Calibration | None = None,
    skip: Sequence[str] = (),
    flavour: Flavour | None = None,
    batch: BatchRange | None = None,
    capabilities: Sequence[str] = (),
    progress: Progress = silent,
) -> EngineReport:
    """Builds an engine of any precision from an FP32 graph, or one of a graph's own precision from any graph.

    Args:
        onnx: the graph.
        output: where the plan goes; graphs made on the way go beside it.
        pictures: to calibrate INT8 and FP8 on; by default the set that the manifest says it was trained on.
        method, count, seed, shift: of the calibration; see `calibration.calibrate`.
        calibration: of this graph, made before; None for one now.
        skip: layers to leave in half precision: names, "first", "last", and "auto" for those that cost the most agreement.
        flavour, batch, capabilities: see `build.build`.

    Raises:
        InputError: the graph is quantised already, to another precision, or the precision is not TensorRT's.
        CalibrationError: INT8 or FP8 without pictures, or with pictures that would give wrong ranges.
        BackendMissing, DeviceMissing, ModelError, BuildError: as `build.build`.
    """
    output = Path(output)
    if precision not in PRECISIONS:
        raise InputError(f"TensorRT engines do not compute in {precision}", expected=f"one of {', '.join(PRECISIONS)}")
    # What cannot be built is said before minutes of calibration, not after.
    bindings = adapter.load(flavour or choose_flavour())
    choose_targets(bindings, capabilities, precision)
    watch = _Stopwatch()
    if precision is onnx.manifest.precision:
        calibration, skip = None, ()
        graphs = [_beside(onnx, output.parent)]
    else:
        if onnx.manifest.precision is not Precision.FP32:
            raise InputError(
                f"{onnx.path.name} is {onnx.manifest.precision} already",
                expected=f"an FP32 graph to make {precision} of",
                fix=f"--{onnx.manifest.precision}, or the FP32 graph that it was made from",
            )
        if precision in CALIBRATED:
            check_parses(bindings, onnx)
            chosen = pictures or training_pictures(onnx)
            if calibration is None:
                with watch.time("calibrate"):
                    calibration = calibrate_once(
                        onnx, chosen, method=method, count=count, seed=seed, shift=shift, progress=progress
                    )
            if AUTO in skip:
                with watch.time("choose layers"):
                    some = chosen.sample(SENSITIVITY_PICTURES, seed)
                    sensitive = choose_skip(onnx, calibration, some, precision=precision, progress=progress)
                    skip = (*(name for name in skip if name != AUTO), *sensitive)
        with watch.time("quantize"):
            graphs = [
                quantize(onnx, output.parent / name, precision, form=form, calibration=calibration, skip=skip, progress=progress)
                for name, form in _forms(graph_stem(output, precision), precision)
            ]
    twin = _twin(onnx, graphs, output.parent)
    with watch.time("build"):
        report = build(
            graphs[0],
            output,
            flavour=bindings.flavour,
            batch=batch,
            capabilities=capabilities,
            twin=twin,
            progress=progress,
        )
    return EngineReport(
        artifacts=(*graphs, *([twin] if twin and twin not in graphs else []), report.artifact),
        seconds=watch.seconds,
        calibration=calibration.record if calibration else None,
        batch=report.batch,
        skipped=tuple(skip),
        messages=report.messages,
        activations=calibration.distributions() if calibration else (),
    )


def graph_stem(plan: Path, precision: Precision) -> str:
    """What graphs made for a plan are called: alexnet.int8.plan and alexnet.plan both give "alexnet.int8" for INT8."""
    return plan.stem if plan.stem.endswith(f".{precision}") else f"{plan.stem}.{precision}"


def _forms(stem: str, precision: Precision) -> list[tuple[str, GraphForm]]:
    """File name and form of each graph to write: what TensorRT builds from first, the twin last."""
    forms = [(f"{stem}.onnx", GraphForm.TENSORRT)]
    if precision is Precision.INT8:
        forms.append((f"{stem}.cpu.onnx", GraphForm.CPU))
    return forms


def _twin(onnx: Artifact, graphs: Sequence[Artifact], folder: Path) -> Artifact | None:
    """The graph in `folder` that a machine without a GPU runs in the plan's stead; None where there is none that it could.

    onnxruntime's CPU provider has no kernels for bfloat16, so a BF16 plan falls back to the FP32 graph. An INT8 graph in
    TensorRT's form falls back to its CPU form, if `quantize` left that beside it.
    """
    graph = graphs[-1]
    if graph.manifest.precision is Precision.BF16:
        return _beside(onnx, folder) if onnx.manifest.precision is Precision.FP32 else None
    cpu_form = onnx.path.with_suffix(".cpu.onnx")
    if graph is graphs[0] and graph.manifest.precision is Precision.INT8 and manifest_path(cpu_form).exists():
        return _beside(Artifact.open(cpu_form), folder)
    return graph


def _beside(graph: Artifact, folder: Path) -> Artifact:
    if graph.path.resolve().parent == folder.resolve():
        return graph
    return write_artifact(folder / graph.path.name, graph.manifest, graph.path.read_bytes())


def training_pictures(onnx: Artifact) -> PictureSet:
    """The set that a graph's manifest says it was trained on. Raises CalibrationError where it says nothing."""
    if onnx.manifest.pictures is None:
        raise CalibrationError(
            f"{onnx.path.name} does not say what it was trained on",
            expected="pictures like those it will see, to calibrate on",
            fix="--calib FOLDER",
        )
    return PictureSet.open(onnx.manifest.pictures.location)
