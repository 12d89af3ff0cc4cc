"""alexnet-deploy demo: the whole way, on the embedded pictures."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, models_folder, note, progress_bars


@click.command(cls=Command, short_help="The whole way, from training to a report, on the embedded data.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for all files.  [models/demo]")
@click.option("--quick", is_flag=True, help="Small pictures and little training: half a minute, and poor accuracy.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the training.")
def command(output: Path | None, quick: bool, seed: int) -> Result:
    """Train an AlexNet on 5,000 pictures of clothes, export it, calibrate, build the FP16 and INT8 engines, compare every
    artifact with PyTorch on 1,000 other pictures, time them, and write report.json and report.html. No GPU is needed.

    \b
    Example:
      alexnet-deploy demo
      alexnet-deploy demo --quick -o /tmp/demo
    """
    from dataclasses import replace

    from alexnet_deploy.demo import QUICK, Effort, Stopwatch, build_and_prove
    from alexnet_deploy.export import export
    from alexnet_deploy.extras import extra
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.report import html
    from alexnet_deploy.report.demo import demo, demo_page
    from alexnet_deploy.trt import adapter
    from alexnet_deploy.trt.build import choose_flavour
    from alexnet_deploy.types import BatchRange

    with extra("train", "the demo"):
        from training import checkpoint
        from training.settings import demo_settings
        from training.train import train
    with extra("cpu", "the demo"):  # a missing package is said now, not after a minute of training
        import onnxruntime  # noqa: F401
    adapter.load(choose_flavour())
    folder = output or models_folder() / "demo"
    settings = demo_settings(seed)
    if quick:
        settings = replace(settings, input_size=64, epochs=2)
    effort = QUICK if quick else Effort()
    pictures = PictureSet.open("demo:test").sample(effort.test_pictures)
    watch = Stopwatch()
    with progress_bars() as progress:
        train(settings, folder / "alexnet.safetensors", progress=progress)
        watch.lap("train")
        model, trained = checkpoint.load(folder / "alexnet.safetensors")
        onnx = export(model, trained, folder / "alexnet.onnx", batch=BatchRange(), pictures=pictures, progress=progress).artifact
        watch.lap("export")
        found = build_and_prove(trained, onnx, pictures, watch, effort, progress=progress)
    _write_json(folder / "report.json", found)
    html.write(folder / "report.html", demo_page(found, pictures))
    note(f"{len(found.verification.files)} artifacts, each with its manifest, are in {folder}/")
    return Result(found, demo(found))


def _write_json(path: Path, report: object) -> None:
    import json

    from alexnet_deploy.files import replacing
    from alexnet_deploy.manifest import to_builtins

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(to_builtins(report), indent=1, allow_nan=False), encoding="utf-8")
