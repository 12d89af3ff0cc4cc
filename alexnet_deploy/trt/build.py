"""ONNX to a TensorRT plan. Precision is the graph's own; a build only chooses batch sizes and target GPUs.

TensorRT for RTX builds ahead of time, on any machine, for several GPUs at once. TensorRT builds for the GPU that is here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.errors import BackendMissing, BuildError, DeviceMissing, InputError, ModelError
from alexnet_deploy.gpu import gpus
from alexnet_deploy.manifest import FileReference, LayerPrecision, Manifest, PlanRecord
from alexnet_deploy.onnx_graph import layer_precisions, load_graph
from alexnet_deploy.trt import adapter
from alexnet_deploy.trt.adapter import CURRENT, PACKAGES, BuildMonitor, TensorRt, interruptible
from alexnet_deploy.types import BatchRange, Flavour, GraphForm, Precision, Progress, TensorSpec, silent

# What TensorRT for RTX builds for when nothing is said: "compute capability 8.0, 8.6, 8.9, 12.0, and later".
# https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
PORTABLE: tuple[str, ...] = ("sm80", "sm86", "sm89", "sm120")
# FP8 needs tensor cores that Ampere lacks; a build for all of PORTABLE fails.
PORTABLE_FP8: tuple[str, ...] = ("sm89", "sm120")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build made.

    Attributes:
        artifact: the plan.
        seconds: parsing and building, without the imports.
        batch: the profile it was built with.
        messages: TensorRT's warnings, each once.
    """

    artifact: Artifact
    seconds: float
    batch: BatchRange
    messages: tuple[str, ...] = ()

    @property
    def plan(self) -> PlanRecord:
        record = self.artifact.manifest.plan
        assert record is not None  # a plan's manifest cannot be made without it
        return record


def build(
    model: Artifact,
    output: str | Path,
    *,
    flavour: Flavour | None = None,
    batch: BatchRange | None = None,
    capabilities: Sequence[str] = (),
    twin: Artifact | None = None,
    progress: Progress = silent,
) -> BuildReport:
    """Builds the plan of an ONNX graph, and writes it with its manifest.

    Args:
        model: the graph; strongly typed, so that it says what every layer computes in.
        output: where the plan goes. Nothing is written unless the build succeeds.
        flavour: which TensorRT; by default the one that `choose_flavour` finds.
        batch: batch sizes of the optimisation profile; by default the graph's own.
        capabilities: target GPUs, such as ("sm86", "sm89") or ("current",); by default every GPU that one plan can serve.
        twin: the graph in the plan's folder that a machine without a GPU runs; by default `model`, when it is there.
        progress: told the percentage done.

    Raises:
        BackendMissing: that TensorRT is not installed.
        DeviceMissing: it needs a GPU to build, and there is none.
        InputError: a target or batch size that is not possible.
        ModelError: TensorRT cannot parse the graph, or it is not what its manifest calls it.
        BuildError: TensorRT did not build it; the message ends with TensorRT's own words.
    """
    if model.manifest.kind != "onnx":
        raise InputError(f"{model.path.name} is a {model.manifest.kind}", expected="an ONNX graph", fix="alexnet-deploy export")
    if model.manifest.form is GraphForm.CPU:
        raise InputError(
            f"{model.path.name} is quantised for the CPU, with zero points that TensorRT does not take",
            expected="the graph in TensorRT's form, made from the same ranges",
            fix=f"the file without .cpu in its name: {model.path.name.replace('.cpu.', '.')}",
        )
    output = Path(output)
    bindings = adapter.load(flavour or choose_flavour())
    targets = choose_targets(bindings, capabilities, model.manifest.precision)
    batch = _fitting_batch(model, batch)
    layers = _read_back(model)
    twin = twin or (model if model.path.resolve().parent == output.resolve().parent else None)
    started = time.perf_counter()
    plan, messages = _compile(bindings, model, batch, targets, progress)
    seconds = time.perf_counter() - started
    manifest = _manifest_of_plan(
        model, batch, layers, PlanRecord(flavour=bindings.flavour, version=bindings.version, capabilities=_as_built(targets))
    )
    if twin is not None:
        manifest = structs.replace(manifest, twin=FileReference(file=twin.path.name, sha256=twin.manifest.sha256))
    return BuildReport(artifact=write_artifact(output, manifest, plan), seconds=seconds, batch=batch, messages=messages)


def choose_flavour() -> Flavour:
    """TensorRT where it is installed and a GPU is here, else TensorRT for RTX. Raises BackendMissing when neither is there."""
    if adapter.installed(Flavour.TENSORRT) and gpus():
        return Flavour.TENSORRT
    if adapter.installed(Flavour.TENSORRT_RTX):
        return Flavour.TENSORRT_RTX
    raise BackendMissing(
        "no TensorRT is installed that could build here",
        expected="tensorrt-rtx (any machine), or tensorrt and a GPU",
        fix=f"pip install 'alexnet-deploy[{PACKAGES[Flavour.TENSORRT_RTX].extra}]'",
    )


def choose_targets(bindings: TensorRt, wanted: Sequence[str], precision: Precision) -> tuple[str, ...]:
    """Checks the names of target GPUs, and knows the default.

    Args:
        wanted: "86", "8.6", "sm86" and "sm_86" all mean the same; "current" is the GPU that is here. () is the default.
        precision: of the graph; FP8 runs on fewer GPUs.

    Returns:
        Names as in `bindings.capabilities()`, each once, in order of age.

    Raises:
        InputError: a name that this TensorRT does not know, or "current" beside another.
        DeviceMissing: "current", and there is no GPU.
    """
    known = bindings.capabilities()
    if not wanted:
        targets = (CURRENT,) if not bindings.portable else PORTABLE_FP8 if precision is Precision.FP8 else PORTABLE
    else:
        names = {_plain_name(name) for name in wanted}
        unknown = sorted(names - set(known))
        if unknown:
            raise InputError(
                f"{bindings} cannot build for {', '.join(unknown)}",
                expected=f"--sm with some of {', '.join(known)}",
                fix=_instead_of(unknown[0], bindings),
            )
        if CURRENT in names and len(names) > 1:
            raise InputError("--sm current cannot stand beside other targets", expected="current alone, or targets by name")
        targets = tuple(name for name in known if name in names)
    if targets == (CURRENT,) and not gpus():
        raise DeviceMissing(
            f"{bindings} builds for the GPU that is here, and no usable GPU is",
            expected="an NVIDIA GPU with its driver",
            fix="--target tensorrt-rtx --sm 86,89 builds without one",
        )
    return targets


def _plain_name(name: str) -> str:
    text = name.strip().lower().removeprefix("sm").removeprefix("_").replace(".", "")
    return text if text == CURRENT else f"sm{text}"


def _instead_of(name: str, bindings: TensorRt) -> str:
    if not bindings.portable:
        return "--target tensorrt-rtx, or build on the machine that will run the plan, without --sm"
    if name in ("sm90", "sm100", "sm103"):
        return "data-centre GPUs of these generations are TensorRT's: --target tensorrt, on the machine that has one"
    return "leave --sm out for a plan that runs on every GPU from sm80 on"


def _as_built(targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets for the manifest: "current" says nothing on another machine, the GPU's own name does."""
    return (gpus()[0].sm,) if targets == (CURRENT,) else targets


def _fitting_batch(model: Artifact, wanted: BatchRange | None) -> BatchRange:
    fixed = model.manifest.input.shape[0]
    if fixed is None:
        return wanted or model.manifest.batch
    if wanted is not None and wanted != BatchRange(fixed, fixed, fixed):
        raise InputError(
            f"{model.path.name} has a fixed batch of {fixed}, not {wanted.min} to {wanted.max}",
            expected="a graph with a dynamic batch",
            fix=f"leave the batch options out, or export it again with a dynamic batch ({model.path.name})",
        )
    return BatchRange(fixed, fixed, fixed)


def _compile(
    bindings: TensorRt, model: Artifact, batch: BatchRange, targets: tuple[str, ...], progress: Progress
) -> tuple[bytes, tuple[str, ...]]:
    """Parses and builds. Returns the plan, and TensorRT's warnings."""
    monitor = BuildMonitor(progress, f"build {model.path.stem}")
    with bindings.log.collect() as messages, interruptible(monitor.cancel):
        builder = bindings.trt.Builder(bindings.logger)
        network, parser = _parsed(bindings, builder, model, messages)
        config = bindings.config(builder, targets if targets != PORTABLE else ())
        _add_profile(builder, config, model.manifest.input, batch)
        shown = monitor.attach(bindings.trt, config)
        plan = builder.build_serialized_network(network, config)
        del shown, parser  # until here, for TensorRT does not keep them alive
        if monitor.error is not None:
            raise monitor.error
        if plan is None:
            raise BuildError(
                f"{bindings} did not build {model.path.name} for {', '.join(targets)}: {_last(messages)}",
                fix=_advice(messages, model.manifest.precision),
            )
        return bytes(plan), tuple(dict.fromkeys(message.strip() for message in messages))


def check_parses(bindings: TensorRt, model: Artifact) -> None:
    """Raises ModelError where TensorRT cannot parse a graph. Half a second of CPU time for a graph of 244 MB."""
    with bindings.log.collect() as messages, interruptible():
        _parsed(bindings, bindings.trt.Builder(bindings.logger), model, messages)


def _parsed(bindings: TensorRt, builder: Any, model: Artifact, messages: Sequence[str]) -> tuple[Any, Any]:
    """A graph as TensorRT's network, and the parser, which holds its weights. Raises ModelError."""
    network = bindings.network(builder)
    parser = bindings.trt.OnnxParser(network, bindings.logger)
    if not parser.parse_from_file(str(model.path)):
        raise ModelError(
            f"{bindings} cannot parse {model.path.name}: {_parser_errors(parser) or _last(messages)}",
            expected="operators and types that TensorRT has",
        )
    _check_io(network, model)
    return network, parser


def _check_io(network: Any, model: Artifact) -> None:
    """TensorRT must see the same single input and output as the manifest tells of."""
    inputs = [network.get_input(i).name for i in range(network.num_inputs)]
    outputs = [network.get_output(i).name for i in range(network.num_outputs)]
    expected = model.manifest
    if inputs != [expected.input.name] or outputs != [expected.output.name]:
        raise ModelError(
            f"TensorRT reads inputs {inputs} and outputs {outputs} from {model.path.name}",
            expected=f"{expected.input} and {expected.output}, as the manifest says",
        )


def _add_profile(builder: Any, config: Any, spec: TensorSpec, batch: BatchRange) -> None:
    profile = builder.create_optimization_profile()
    rest = spec.shape[1:]
    profile.set_shape(spec.name, *((n, *rest) for n in (batch.min, batch.opt, batch.max)))
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"TensorRT refuses a profile of {batch.min}, {batch.opt}, {batch.max} for {spec}",
            expected="batch sizes that the graph takes",
            fix="--max-batch, or an ONNX graph with a dynamic batch",
        )


def _read_back(model: Artifact) -> tuple[LayerPrecision, ...]:
    """What each Conv and Gemm computes in, as the graph itself types it: TensorRT has no say in a strongly typed network.

    Raises:
        ModelError: no layer computes in what the manifest calls the graph, or one computes in something else than it says.
    """
    layers = layer_precisions(load_graph(model.path))
    said = model.manifest
    if layers and said.precision not in {layer.precision for layer in layers}:
        found = ", ".join(sorted({layer.precision for layer in layers}))
        raise ModelError(
            f"{model.path.name} is called {said.precision}, its layers compute in {found}",
            expected=f"at least one {said.precision} layer",
            fix=f"alexnet-deploy build-engine --{said.precision}, from the FP32 graph",
        )
    if said.layers and layers != said.layers:
        differs = next((a.layer for a, b in zip(layers, said.layers, strict=False) if a != b), "their number")
        raise ModelError(
            f"the layers of {model.path.name} are not those that its manifest lists ({differs})",
            expected="a graph that was written together with its manifest",
        )
    return layers


def _manifest_of_plan(model: Artifact, batch: BatchRange, layers: tuple[LayerPrecision, ...], record: PlanRecord) -> Manifest:
    """What the graph's manifest says still holds for its plan; batch sizes, layers and lineage are the plan's own."""
    return structs.replace(
        model.manifest, kind="plan", batch=batch, layers=layers, plan=record, parents=model.lineage(), twin=None
    )


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}".strip(" :") for e in errors)


def _last(messages: Sequence[str]) -> str:
    """The end of the log: TensorRT's errors follow one another, and the last ones say why."""
    return " | ".join(messages[-3:]) or "TensorRT gave no reason"


def _advice(messages: Sequence[str], precision: Precision) -> str:
    text = " ".join(messages)
    if "Turing" in text and precision is Precision.FP32:
        return "alexnet-deploy build-engine --fp16 --sm 75; Turing has no FP32 kernels in TensorRT for RTX"
    if "out of memory" in text.lower():
        return "a smaller --max-batch"
    return ""
