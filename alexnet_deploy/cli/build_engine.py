"""`alexnet-deploy build-engine`: ONNX to a TensorRT engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from alexnet_deploy.cli.common import Command, Result, html_option, latest, progress_bars
from alexnet_deploy.cli.preprocess_options import PreprocessOptions, open_or_adopt, preprocess_options
from alexnet_deploy.cli.units import BATCH, Number
from alexnet_deploy.errors import InputError
from alexnet_deploy.types import BatchRange, Flavour, Precision

if TYPE_CHECKING:
    from rich.console import Console


@click.command(cls=Command, name="build-engine")
@click.argument("model", required=False, type=click.Path(path_type=Path), metavar="[MODEL.onnx]")
@click.option("--fp32", "precision", flag_value="fp32", help="The graph as it is, without TF32.")
@click.option("--fp16", "precision", flag_value="fp16", help="Half precision: no pictures needed.")
@click.option("--bf16", "precision", flag_value="bf16", help="bfloat16: FP32's range, 8 bits of precision; from Ampere on.")
@click.option("--int8", "precision", flag_value="int8", help="8-bit integers, calibrated on pictures.")
@click.option("--fp8", "precision", flag_value="fp8", help="8-bit floats (E4M3), calibrated; from Ada on.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The plan.  [MODEL.PRECISION.plan]")
@click.option("--calib", metavar="DIR|demo", help="Pictures to calibrate on.  [what it was trained on]")
@click.option("--calib-method", default="auto", show_default=True, help="auto, minmax, percentile, entropy or mse.")
@click.option("--calib-count", default=512, show_default=True, type=click.IntRange(min=1), help="Pictures to calibrate on.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For drawing them.")
@click.option(
    "--shift/--no-shift",
    default=True,
    show_default=True,
    help="Let INT8 tensors that are hardly ever negative lie in the middle of int8, where that is measured to help.",
)
@click.option("--skip", multiple=True, metavar="LAYER", help="A layer to leave in half precision: its name, first, last or auto.")
@click.option("--max-drop", type=Number(min=0), metavar="POINTS", help="Leave as many layers as that much top-1 accuracy takes.")
@click.option("--data", metavar="DIR|demo:test", help="Labelled pictures to measure --max-drop on.")
@click.option("--min-batch", type=BATCH, help="Smallest batch.  [the graph's]")
@click.option("--opt-batch", type=BATCH, help="The batch to be fastest at.  [the graph's]")
@click.option("--max-batch", type=BATCH, help="Largest batch.  [the graph's]")
@click.option(
    "--sm", default="", metavar="86,89", help="Target GPUs by compute capability, or current.  [all that one plan serves]"
)
@click.option("--target", type=click.Choice([f.value for f in Flavour]), help="[tensorrt if it is here, with a GPU]")
@preprocess_options
@html_option
def command(
    model: Path | None,
    precision: str | None,
    output: Path | None,
    calib: str | None,
    calib_method: str,
    calib_count: int,
    seed: int,
    shift: bool,
    skip: tuple[str, ...],
    max_drop: float | None,
    data: str | None,
    min_batch: int | None,
    opt_batch: int | None,
    max_batch: int | None,
    sm: str,
    target: str | None,
    pictures_as: PreprocessOptions,
    page: Path | None,
) -> Result:
    """Build a TensorRT engine from an ONNX graph.

    Without MODEL, the newest FP32 graph in models/. Without a precision, the graph's own. Graphs that are made on the way
    are kept beside the plan: a machine without a GPU runs them in its stead. A graph without a manifest is adopted first,
    with what --preset, --mean and the like say.

    \b
    Example:
      alexnet-deploy build-engine --int8
      alexnet-deploy build-engine --int8 --calib photos/train --max-drop 0.5 --data photos/val
      alexnet-deploy build-engine models/alexnet.onnx --fp16 --max-batch 128 --sm 86,89
    """
    from alexnet_deploy.engine import CALIBRATED, build_engine, training_pictures
    from alexnet_deploy.manifest import to_builtins
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.report import html
    from alexnet_deploy.report.budget import budget
    from alexnet_deploy.report.engine import engine, engine_page

    onnx = open_or_adopt(model or latest(".onnx", Precision.FP32, fix="alexnet-deploy export"), pictures_as)
    if (kind := onnx.manifest.kind) != "onnx":
        export = f"alexnet-deploy export {onnx.path}" if kind == "checkpoint" else "alexnet-deploy export"
        raise InputError(f"{onnx.path.name} is a {kind}", expected="an ONNX graph", fix=export)
    wanted = Precision(precision) if precision else onnx.manifest.precision
    if output is None:
        output = onnx.path.with_name(_plan_name(onnx.path.stem, onnx.manifest.precision, wanted))
    pictures = PictureSet.open_training(calib) if calib else None  # nobody wants to calibrate on the test pictures
    with progress_bars() as progress:
        calibration = held = None
        if max_drop is not None:
            if wanted not in CALIBRATED:
                raise InputError(f"--max-drop is for int8 and fp8, this is {wanted}", fix="alexnet-deploy verify --max-drop")
            from alexnet_deploy.budget import hold_budget
            from alexnet_deploy.cli.data import held_out
            from alexnet_deploy.quantization.cache import calibrate_once

            measured_on = held_out(data, onnx.manifest)
            calibration = calibrate_once(
                onnx,
                pictures or training_pictures(onnx),
                method=calib_method,
                count=calib_count,
                seed=seed,
                shift=shift,
                progress=progress,
            )
            held = hold_budget(onnx, calibration, measured_on, max_drop=max_drop, skip=skip, precision=wanted, progress=progress)
            skip = held.skipped
        report = build_engine(
            onnx,
            output,
            wanted,
            pictures=pictures,
            method=calib_method,
            count=calib_count,
            seed=seed,
            shift=shift,
            calibration=calibration,
            skip=skip,
            flavour=Flavour(target) if target else None,
            batch=_batch(onnx.manifest.batch, min_batch, opt_batch, max_batch),
            capabilities=[name for name in sm.split(",") if name.strip()],
            progress=progress,
        )

    if page is not None:
        html.write(page, engine_page(report, held))

    def show(console: Console) -> None:
        if held is not None:
            budget(held)(console)
        engine(report)(console)

    return Result({**to_builtins(report), "budget": to_builtins(held)}, show)


def _plan_name(stem: str, own: Precision, wanted: Precision) -> str:
    """alexnet.onnx --int8 -> alexnet.int8.plan; alexnet.int8.onnx, built as it is, too."""
    return f"{stem.removesuffix(f'.{own}')}.{wanted}.plan"


def _batch(graph: BatchRange, smallest: int | None, best: int | None, largest: int | None) -> BatchRange | None:
    """The range asked for; what was left out comes from the graph's, as far as it fits. None when nothing was asked."""
    if smallest is best is largest is None:
        return None
    low = smallest or min(graph.min, best or graph.min, largest or graph.min)
    high = largest or max(graph.max, best or low, low)
    middle = best or min(max(graph.opt, low), high)
    try:
        return BatchRange(low, middle, high)
    except ValueError as error:
        raise InputError(str(error), expected="--min-batch <= --opt-batch <= --max-batch") from error
