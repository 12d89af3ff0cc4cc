"""What the documentation shows is true: every command block in it is run, in order, and every link leads somewhere.

Blocks fenced as sh, python, toml or console are found in README.md, CONTRIBUTING.md and docs/. A page's blocks run one after the
other in a folder of its own, which holds what the tutorial made: photos/, holidays/ and models/. They run as they stand; only
the sizes are made tiny, by the environment variables that docs/howto/settings.md describes.

A comment just above a block says what is special about it:
    <!-- not run: it needs a GPU -->        the reason is required
    <!-- exit code 1 -->                    how it ends, when that is not with 0
    <!-- file: alexnet-deploy.toml -->      the block is written to that file
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Demo
from tiny import tiny_graph

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/howto").glob("*.md")),
]
TUTORIAL = ROOT / "docs/tutorial.md"
BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>sh|python|toml)\n(?P<text>.*?)^ *```$", re.M | re.S
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:)(?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
TINY = {
    "TRAIN_EPOCHS": "3",
    "TRAIN_WIDTH": "0.05",
    "TRAIN_INPUT_SIZE": "64",
    "TRAIN_BATCH_SIZE": "16",
    "BUILD_ENGINE_CALIB_COUNT": "64",
    "BENCH_SECONDS": "0.05",
}
# Two pages go on to verify what they trained: it has to have learnt something. For the others it is enough that it trains.
LEARNT = {page: {**TINY, "TRAIN_EPOCHS": "25"} for page in (TUTORIAL, ROOT / "README.md")}


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment above it says."""

    line: int
    language: str
    text: str
    note: str

    @property
    def skipped(self) -> bool:
        return self.note.startswith("not run: ")


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(text[: found.start("text")].count("\n") + 1, found["language"], found["text"], found["note"] or "")
        for found in BLOCK.finditer(text)
    ]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH whose `alexnet-deploy` and `python` start at once; see warm.py."""
    folder = tmp_path_factory.mktemp("commands")
    warm, listening = Path(__file__).with_name("warm.py"), folder / "socket"
    # A server is ended by a signal, which has to reach it; one line of Python is not worth a fork.
    as_they_are = {"alexnet-deploy": "serve", "python": "-c"}
    for name, first_word in as_they_are.items():
        script = folder / name
        real = f'[ "$1" = {first_word} ] && exec "{Path(sys.executable).with_name(name)}" "$@"'
        warmed = f'exec "{sys.executable}" -S -E "{warm}" call "{listening}" {name} "$@"'
        script.write_text(f"#!/bin/sh\n{real}\n{warmed}\n")
        script.chmod(0o755)
    server = [sys.executable, str(warm), "server", str(listening)]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield folder
        assert process.stdin
        process.stdin.close()


@pytest.fixture(scope="module")
def after_the_tutorial(tmp_path_factory: pytest.TempPathFactory, commands: Path, demo: Demo) -> Path:
    """A folder of photos in which the tutorial has been followed to its end, beside a model from elsewhere and the demo's."""
    folder = tmp_path_factory.mktemp("tutorial")
    write_photos(folder)
    (folder / "resnet50.onnx").write_bytes(tiny_graph().SerializeToString())
    shutil.copytree(demo.folder, folder / "models/demo")
    run_page(TUTORIAL, folder, commands)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p != TUTORIAL], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_does_what_the_page_says(page: Path, after_the_tutorial: Path, commands: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    # Hard links: artifacts are replaced, never written into.
    subprocess.run(["cp", "-rl", after_the_tutorial, folder], check=True)
    run_page(page, folder, commands)


def test_the_tutorial_leads_from_photos_to_an_answer(after_the_tutorial: Path) -> None:
    assert {"photos.safetensors", "photos.onnx", "photos.int8.plan"} <= {
        p.name for p in (after_the_tutorial / "models").iterdir()
    }


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "docs/decisions").glob("*.md"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text()):
        target = (page.parent / link["target"]).resolve() if link["target"] else page
        assert target.exists(), f"{page.name}: {link[0]}"
        if link["anchor"] and target.suffix == ".md":
            anchors = {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in headings(target)}
            assert link["anchor"] in anchors, f"{page.name}: {link[0]}"


def test_every_command_has_a_page_and_the_index_lists_all() -> None:
    from alexnet_deploy.cli import COMMANDS

    index = (ROOT / "docs/index.md").read_text()
    pages = {page.stem for page in (ROOT / "docs/howto").glob("*.md")}
    assert pages >= set(COMMANDS)
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert page.name == "index.md" or f"({page.name})" in index
    for name in pages:
        assert f"(howto/{name}.md)" in index


def test_the_reference_is_that_of_this_code() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/make_reference.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_block_that_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            kind, _, rest = block.note.partition(": ")
            assert not block.note or kind in {"not run", "file"} or re.fullmatch(r"exit code \d+", block.note), (
                f"{page}:{block.line}"
            )
            assert kind != "not run" or len(rest) > 10, f"{page}:{block.line}"


def headings(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("#")]


def run_page(page: Path, folder: Path, commands: Path) -> None:
    for block in blocks_of(page):
        if not block.skipped:
            run_block(block, page, folder, commands)


def run_block(block: Block, page: Path, folder: Path, commands: Path) -> None:
    where = f"{page.relative_to(ROOT)}:{block.line}"
    if block.note.startswith("file: "):
        (folder / block.note.removeprefix("file: ")).write_text(block.text)
        return
    assert block.language != "toml", f"{where}: a settings block needs <!-- file: ... -->"
    suffix, words = {"sh": (".sh", ["bash", "-eu", "-o", "pipefail"]), "python": (".py", ["python"])}[block.language]
    script = folder / f".block{suffix}"
    script.write_text(block.text)
    expected = int(block.note.removeprefix("exit code ")) if block.note.startswith("exit code") else 0
    ran = subprocess.run(
        [*words, script.name],
        cwd=folder,
        env=environment(page, folder, commands),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    script.unlink()
    assert ran.returncode == expected, f"{where} ended with {ran.returncode}\n{block.text}\n{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stderr, f"{where}\n{ran.stderr}"


def environment(page: Path, folder: Path, commands: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ALEXNET_DEPLOY_", "XDG_"))}
    tiny = {f"ALEXNET_DEPLOY_{name}": value for name, value in LEARNT.get(page, TINY).items()}
    path = f"{commands}:{Path(sys.executable).parent}:{ours['PATH']}"
    return {**ours, **tiny, "PATH": path, "HOME": str(folder / ".home"), "COLUMNS": "100"}


def write_photos(folder: Path) -> None:
    """photos/ with one folder a class, and holidays/ with a few to classify: from the embedded pictures, as JPEG files."""
    from PIL import Image

    from alexnet_deploy.pictures import PictureSet

    for source, part, each in (("demo:train", "train", 24), ("demo:test", "val", 12)):
        pictures = PictureSet.open(source)
        for name in ("bag", "sneaker", "trouser"):
            target = folder / "photos" / part / name
            target.mkdir(parents=True)
            wanted = [i for i, label in enumerate(pictures.labels) if pictures.classes[label] == name]
            for i in wanted[:each]:
                Image.fromarray(pictures.picture(i)).resize((96, 72)).save(target / f"{i:04}.jpg")
    (folder / "holidays").mkdir()
    for number, source in enumerate(sorted((folder / "photos/val").glob("*/*.jpg"))[::9]):
        (folder / f"holidays/{number}.jpg").write_bytes(source.read_bytes())
