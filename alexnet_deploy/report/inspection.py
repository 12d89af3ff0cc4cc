"""What `inspect` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alexnet_deploy.report import terminal, words

if TYPE_CHECKING:
    from rich.console import Console

    from alexnet_deploy.inspection import Inspection
    from alexnet_deploy.manifest import Manifest, Preprocess
    from alexnet_deploy.onnx_graph.statistics import GraphStatistics, LayerStatistics


_NAMED_LABELS = 5


def inspected(found: Inspection) -> terminal.Show:
    def show(console: Console) -> None:
        facts: list[tuple[str, terminal.Cell]] = [
            ("file", f"{found.path} ({found.kind}, {words.size(found.size_bytes)})"),
            ("sha256", found.sha256),
        ]
        if found.manifest is not None:
            facts += _manifest(found.manifest)
        if found.header is not None:
            library = found.header.library or "not a plan's usual first bytes"
            facts.append(("plan header", f"{library} {found.header.version}".strip()))
        if found.graph is not None:
            facts += _file(found.graph) if found.kind == "onnx" else []
            facts += _work(found.graph)
        if found.tensors:
            total = sum(tensor.parameters for tensor in found.tensors)
            facts.append(("parameters", f"{total:,} in {words.count(len(found.tensors), 'tensor')}"))
        terminal.facts(console, facts)
        console.print()
        if found.graph is not None:
            _layers(console, found.graph)
        elif found.tensors:
            rows = [(t.name, t.dtype, _shape(t.shape), f"{t.parameters:,}") for t in found.tensors]
            terminal.table(console, ["tensor", "?type", "shape", ">parameters"], rows)
        elif found.manifest is not None and found.manifest.layers:
            layers = found.manifest.layers
            terminal.table(console, ["layer", "operator", "precision"], [(x.layer, x.op, x.precision) for x in layers])
        if found.problem:
            terminal.lines(console, [f"Manifest: {found.problem}."], style="yellow")

    return show


def designed(config: Mapping[str, object], graph: GraphStatistics) -> terminal.Show:
    """A network without weights: its configuration, its layers, its work."""

    def show(console: Console) -> None:
        facts: list[tuple[str, terminal.Cell]] = [(name.replace("_", " "), str(value)) for name, value in config.items()]
        facts.append(("parameters", f"{sum(layer.parameters for layer in graph.layers):,}"))
        terminal.facts(console, [*facts, *_work(graph)])
        console.print()
        _layers(console, graph)

    return show


def _manifest(of: Manifest) -> list[tuple[str, terminal.Cell]]:
    recipe = of.preprocess
    facts: list[tuple[str, terminal.Cell]] = [
        ("input", str(of.input)),
        ("output", f"{of.output}, {of.output_kind}"),
        ("batch", f"{of.batch.min} to {of.batch.max}, fastest at {of.batch.opt}"),
        ("precision", f"{of.precision}" + (f", {of.form} form" if of.form else "")),
        (
            "pictures",
            f"{_resized(recipe)}{recipe.height}x{recipe.width} {recipe.channel_order}, {recipe.layout}, {_arithmetic(recipe)}",
        ),
    ]
    if of.labels:
        named = [*of.labels[:_NAMED_LABELS], *(["…"] if len(of.labels) > _NAMED_LABELS else [])]
        facts.append(("labels", f"{words.count(len(of.labels), 'class', 'classes')}: {', '.join(named)}"))
    if of.calibration is not None:
        data = of.calibration.data
        facts.append(("calibrated", f"{of.calibration.method} on {data.count:,} pictures of {data.location}"))
    if of.plan is not None:
        facts.append(("built by", f"{of.plan.flavour} {of.plan.version} for {', '.join(of.plan.capabilities)}"))
    if of.twin is not None:
        facts.append(("twin", of.twin.file))
    if of.tuned is not None:
        threads = words.count(of.tuned.threads, "thread") if of.tuned.threads else "its own choice of threads"
        speed = f"{words.milliseconds(of.tuned.latency_ms)} ms at batch {of.tuned.batch}"
        facts.append(("tuned", f"{of.tuned.backend} on {of.tuned.device}, {threads}: {speed} on {of.tuned.cpu}"))
    if of.parents:
        facts.append(("made from", ", ".join(parent.file for parent in of.parents)))
    if of.notes:
        facts.append(("notes", of.notes))
    facts.append(("made", f"{of.created} by {of.created_by}"))
    return facts


def _file(of: GraphStatistics) -> list[tuple[str, terminal.Cell]]:
    return [
        ("opset", str(of.opset)),
        ("operators", ", ".join(f"{count} {op}" for op, count in of.ops.items())),
        ("parameters", f"{of.parameters:,} ({words.size(of.parameter_bytes)})"),
    ]


def _work(of: GraphStatistics) -> list[tuple[str, terminal.Cell]]:
    return [
        ("multiply-adds", f"{of.multiply_adds:,} a picture"),
        ("activations", f"at most {words.size(of.peak_bytes)} at a time, a picture"),
    ]


def _layers(console: Console, graph: GraphStatistics) -> None:
    def row(layer: LayerStatistics) -> tuple[str, ...]:
        parameters = f"{layer.parameters:,}" if layer.parameters else ""
        work = f"{layer.multiply_adds / 1e6:,.2f}" if layer.multiply_adds else ""
        return (layer.name, layer.op, _shape(layer.shape), parameters, work, layer.precision or "")

    columns = ["layer", "operator", "output", ">parameters", ">M mult-adds", "precision"]
    terminal.table(console, columns, [row(layer) for layer in graph.layers])


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape) or words.NONE


def _resized(recipe: Preprocess) -> str:
    return f"shorter side to {recipe.resize}, centre " if recipe.resize else ""


def _arithmetic(recipe: Preprocess) -> str:
    if (recipe.scale, set(recipe.mean), set(recipe.std)) == (1.0, {0.0}, {1.0}):
        return "pixels as they are"
    return f"(pixel * {recipe.scale:.6g} - {_numbers(recipe.mean)}) / {_numbers(recipe.std)}"


def _numbers(values: tuple[float, ...]) -> str:
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else f"[{', '.join(f'{v:g}' for v in values)}]"
