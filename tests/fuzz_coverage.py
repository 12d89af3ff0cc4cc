"""Fuzzing led by coverage: atheris keeps the inputs that reach new lines, and changes these further.

    pip install atheris
    python -m tests.fuzz_coverage manifests -runs=20000      manifests, graphs or pictures; options are libFuzzer's

Ends with a report and its input where anything but a typed error came out.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
from PIL import Image

with atheris.instrument_imports(include=["alexnet_deploy"]):
    from alexnet_deploy.artifact import manifest_path, read_manifest
    from alexnet_deploy.errors import AlexnetDeployError
    from alexnet_deploy.manifest import Preprocess
    from alexnet_deploy.onnx_graph import load_graph
    from alexnet_deploy.onnx_graph.classifier import describe
    from alexnet_deploy.preprocess import decode_fitted
from tests.tiny import picture_batch, tiny_artifact

MOST_BYTES = 20_000


def target(what: str, folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """What takes the bytes, and sound examples of them."""
    artifact = tiny_artifact(folder / "model.onnx")
    if what == "manifests":
        beside = manifest_path(artifact.path)

        def manifest(content: bytes) -> None:
            beside.write_bytes(content)
            read_manifest(artifact.path)

        return manifest, [beside.read_bytes()]
    if what == "graphs":

        def graph(content: bytes) -> None:
            artifact.path.write_bytes(content)
            describe(load_graph(artifact.path))

        return graph, [artifact.path.read_bytes()]
    recipe = Preprocess(height=16, width=16, resize=20)
    sound = []
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        file = io.BytesIO()
        Image.fromarray(picture_batch(1, 40, 50)[0]).save(file, form)
        sound.append(file.getvalue())
    return lambda content: _decode(content, recipe), sound


def _decode(content: bytes, recipe: Preprocess) -> None:
    assert decode_fitted(content, recipe).shape == (16, 16, 3)


def main() -> None:
    what, *options = sys.argv[1:]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "corpus").mkdir()
    take, sound = target(what, folder)
    for number, content in enumerate(sound):
        (folder / "corpus" / str(number)).write_bytes(content)

    def one(content: bytes) -> None:
        with suppress(AlexnetDeployError):
            take(content)

    atheris.Setup(
        [sys.argv[0], f"-max_len={MOST_BYTES}", "-timeout=30", "-rss_limit_mb=4096", *options, str(folder / "corpus")], one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
