"""kill -9 at random moments of train, export and build-engine --int8, which calibrates, quantises and builds.

    python -m tests.kills COUNT SEED     prints what was found, as JSON

Half of the kills fall anywhere, the others within milliseconds of a temporary file's appearance, when something is being written.
Afterwards every artifact must be whole, by its manifest's hash and by its own reader, or be refused with a typed error.
"""

from __future__ import annotations

import json
import os
import random as randomness
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import onnx
import onnxruntime  # noqa: F401  (imported once here, and not by every child)
import torch  # noqa: F401
from safetensors.numpy import load_file

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli import main as command_line
from alexnet_deploy.errors import AlexnetDeployError
from tests.colour_photos import write_photos

os.environ["OMP_NUM_THREADS"] = "1"
SUFFIXES = (".safetensors", ".onnx", ".plan")


def stages(folder: Path, photos: Path) -> dict[str, list[str]]:
    checkpoint, graph, plan = (str(folder / f"m{suffix}") for suffix in (".safetensors", ".onnx", ".int8.plan"))
    network = ["--width", "0.05", "--input-size", "63", "--epochs", "1", "--batch-size", "8"]
    return {
        "train": ["train", "--data", str(photos), *network, "-o", checkpoint],
        "export": ["export", checkpoint, "-o", graph],
        "build": ["build-engine", graph, "--int8", "--calib", str(photos / "val"), "--calib-count", "32", "-o", plan],
    }


def start(words: list[str]) -> int:
    """The process id of a child that runs this command."""
    child = os.fork()
    if child:
        return child
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    code = 1
    with suppress(BaseException):
        try:
            command_line(words, prog_name="alexnet-deploy")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    os._exit(code)


def finish(words: list[str]) -> float:
    """Runs a command to its end; how many seconds it took."""
    begun = time.perf_counter()
    _, status = os.waitpid(start(words), 0)
    assert status == 0, f"{words} ended with {status}"
    return time.perf_counter() - begun


def killed(words: list[str], seconds: float, folder: Path, random: randomness.Random) -> bool:
    """Starts a command and kills it; False where it was done before."""
    child = start(words)
    if random.random() < 0.5:
        time.sleep(random.uniform(0, seconds))
    else:
        while not any(folder.glob(".*.tmp")):
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                return False
            time.sleep(0.0002)
        time.sleep(random.choice((0, 0.001, 0.01)) * random.random())
    os.kill(child, signal.SIGKILL)  # one that has ended is still there until it is waited for
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def look(folder: Path) -> Counter[str]:
    """What became of each artifact. One that is accepted is read as well: it must be whole."""
    found: Counter[str] = Counter()
    for path in folder.iterdir():
        if path.suffix not in SUFFIXES or path.name.startswith("."):
            continue
        try:
            Artifact.open(path)
        except AlexnetDeployError as error:
            found[type(error).__name__] += 1
            continue
        if path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path), full_check=True)
        elif path.suffix == ".safetensors":
            load_file(path)
        found["whole"] += 1
    found["temporary files left"] += sum(1 for _ in folder.glob(".*.tmp"))
    return found


def main(count: int, seed: int) -> dict[str, object]:
    random = randomness.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        photos = write_photos(Path(root) / "photos", train=8, val=12)
        sound = Path(root) / "sound"
        sound.mkdir()
        seconds = {name: finish(words) for name, words in stages(sound, photos).items()}
        outcomes: Counter[str] = Counter()
        kills: Counter[str] = Counter()
        for number in range(count):
            folder = Path(root) / f"{number}"
            shutil.copytree(sound, folder)
            name = random.choice(list(seconds))
            words = stages(folder, photos)[name]
            if random.random() < 0.5:  # nothing there that would be written over
                made = Path(words[words.index("-o") + 1])
                for path in folder.glob(f"{made.name}*"):
                    path.unlink()
            kills[name] += killed(words, seconds[name], folder, random)
            outcomes += look(folder)
            shutil.rmtree(folder)
        return {"killed": dict(kills), "artifacts": dict(outcomes)}


if __name__ == "__main__":
    json.dump(main(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
