"""`alexnet-deploy inspect`: what is in an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alexnet_deploy.cli.common import Command, Result, note
from alexnet_deploy.cli.family import ARCHITECTURES

if TYPE_CHECKING:
    from alexnet_deploy.inspection import Inspection
    from alexnet_deploy.onnx_graph.statistics import GraphStatistics


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path), metavar="ARTIFACT|NAME")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the layers, to scale.")
@click.option("--layers", is_flag=True, help="Of a checkpoint: trace it, to tell shapes and multiply-adds. Needs PyTorch.")
@click.option("--width", type=float, help="Of a NAME: scales every layer.")
@click.option("--classes", type=click.IntRange(min=1), help="Of a NAME: number of outputs.")
@click.option("--dropout", type=float, help="Of a NAME: probability that a unit is left out of a step.")
@click.option("--input-size", type=click.IntRange(min=63), help="Of a NAME: height and width of the input in pixels.")
def command(artifact: Path, svg: Path | None, layers: bool, **options: Any) -> Result:
    """Show what is in an artifact, without running it; or what a member of the family (such as alexnet-2012) is made of.

    Manifest, layers with their shapes, parameters, multiply-adds and precision, and the header of a plan. Files without a
    manifest are shown too.

    \b
    Example:
      alexnet-deploy inspect models/alexnet.int8.onnx
      alexnet-deploy inspect models/alexnet.onnx --svg alexnet.svg
      alexnet-deploy inspect models/alexnet.int8.plan --json
      alexnet-deploy inspect alexnet-2012 --width 0.5 --classes 10 --svg half.svg
    """
    from alexnet_deploy.errors import InputError
    from alexnet_deploy.inspection import inspect
    from alexnet_deploy.report.inspection import inspected

    given = {name: value for name, value in options.items() if value is not None}
    if not artifact.exists() and str(artifact) in ARCHITECTURES:
        return _member(str(artifact), given, svg)
    if given:
        raise InputError(f"--{next(iter(given)).replace('_', '-')} with a file", expected=f"one of {', '.join(ARCHITECTURES)}")
    found = inspect(artifact)
    if found.kind == "checkpoint" and (layers or svg is not None):
        found = _traced(found)
    if svg is not None:
        _draw(found, svg)
    return Result(found, inspected(found))


def _traced(found: Inspection) -> Inspection:
    """With the graph that a checkpoint would be exported as."""
    from dataclasses import replace

    from alexnet_deploy.export import to_onnx
    from alexnet_deploy.extras import extra
    from alexnet_deploy.onnx_graph.statistics import statistics

    with extra("train", "tracing a checkpoint"):
        from training import checkpoint
    model, source = checkpoint.load(found.path)
    return replace(found, graph=statistics(to_onnx(model, (2, *source.manifest.preprocess.input_shape))))


def _member(arch: str, options: dict[str, Any], svg: Path | None) -> Result:
    """A network that nobody has trained yet."""
    from alexnet_deploy.export import to_onnx
    from alexnet_deploy.extras import extra
    from alexnet_deploy.onnx_graph.statistics import statistics
    from alexnet_deploy.report.inspection import designed

    with extra("train", "the family"):
        from torch import nn

        from training.family import FAMILY
        from training.model import ModelConfig, build_model
    config = ModelConfig(**{"arch": arch, "input_size": FAMILY[arch].input_size, **options})
    model = build_model(config).eval()
    for weight in model.parameters():
        nn.init.normal_(weight)  # biases that are all zero would be stored, and counted, once
    if FAMILY[arch].softmax:
        model.end_in_softmax()
    graph = statistics(to_onnx(model, (2, 3, config.input_size, config.input_size)))
    if svg is not None:
        _write(svg, graph, arch)
    return Result({"model": config.to_dict(), "graph": graph}, designed(config.to_dict(), graph))


def _draw(found: Inspection, target: Path) -> None:
    from alexnet_deploy.errors import InputError

    if found.graph is None:
        raise InputError(
            f"a {found.kind} does not tell the shapes of its layers",
            expected="an ONNX graph to draw",
            fix="alexnet-deploy export",
        )
    _write(target, found.graph, found.path.name)


def _write(target: Path, graph: GraphStatistics, name: str) -> None:
    from alexnet_deploy.files import replacing
    from alexnet_deploy.report.architecture import architecture

    with replacing(target) as temporary:
        temporary.write_text(architecture(graph, name), "utf-8")
    note(f"drew {target}")
