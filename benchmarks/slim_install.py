"""What an application installs, and what it waits for: a wheel built here, in an environment that is empty but for it.

    python benchmarks/slim_install.py                       # [rtx], [cpu] and [cpu,serve]; some minutes, and the network for pip
    python benchmarks/slim_install.py --extras rtx

Sizes are those of the files on disk, pip and setuptools left out. Import times are CPU seconds of `python -c`, less those of an
empty program, the median of several; the bytecode is compiled before.

Writes benchmarks/results/slim-install.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import to_builtins

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "slim-install.json"
RUNS = 7
NOT_COUNTED = ("pip", "setuptools", "_distutils_hack", "distutils-precedence.pth")
PROGRAMS = {
    "import alexnet_deploy": "import alexnet_deploy",
    "import Runtime": "from alexnet_deploy import Runtime",
}
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt_rtx", "starlette", "grpc", "pyarrow", "rich", "click")


def build_wheel(folder: Path) -> Path:
    pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    return next(folder.glob("*.whl"))


def pip(python: Path, *words: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], check=True)


def install(folder: Path, wheel: Path, extras: str) -> Path:
    """The Python of a new environment that holds the wheel with these extras."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip(python, "install", "-c", str(ROOT / "constraints.txt"), f"{wheel}[{extras}]")
    subprocess.run([python, "-m", "compileall", "-q", folder / "lib"], check=False, stdout=subprocess.DEVNULL)
    return python


def sizes_mb(python: Path) -> dict[str, float]:
    """Of everything in site-packages, the largest first; what is below a megabyte stands under "the rest"."""
    packages = next((python.parent.parent / "lib").glob("python*/site-packages"))
    found: dict[str, float] = {}
    rest = 0.0
    for entry in packages.iterdir():
        if entry.name.startswith(NOT_COUNTED):
            continue
        files = (
            [entry]
            if entry.is_file()
            else [path for path in entry.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        )
        size_mb = sum(path.stat().st_size for path in files) / 1e6
        if size_mb >= 1:
            found[entry.name] = round(size_mb, 1)
        else:
            rest += size_mb
    ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
    return {"in all": round(sum(found.values()) + rest, 1), **ordered, "the rest": round(rest, 1)}


def cpu_s(python: Path, program: str) -> float:
    """CPU seconds of a program: the process's own, with what it takes Python to start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-c", program], check=True, cwd="/", env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imports(python: Path) -> dict[str, float]:
    """Milliseconds of CPU time that each import takes, the empty program's taken off; taken in turns."""
    programs = {"": "pass", **PROGRAMS}
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(RUNS):
        for name, program in programs.items():
            taken[name].append(1e3 * cpu_s(python, program))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    empty_ms = medians.pop("")
    return {"python itself": round(empty_ms, 1), **{name: round(ms - empty_ms, 1) for name, ms in medians.items()}}


def loaded(python: Path) -> list[str]:
    """Heavy packages that are loaded with Runtime."""
    program = f"import sys; from alexnet_deploy import Runtime; print(*(m for m in {HEAVY} if m in sys.modules))"
    return subprocess.run([python, "-c", program], check=True, cwd="/", capture_output=True, text=True).stdout.split()


def absent(python: Path) -> list[str]:
    """Heavy packages that are not installed at all."""
    program = f"from importlib.util import find_spec; print(*(m for m in {HEAVY} if find_spec(m) is None))"
    return subprocess.run([python, "-c", program], check=True, cwd="/", capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="+", default=["rtx", "cpu", "cpu,serve"])
    parser.add_argument("--note", default="", help="kept with the figures")
    asked = parser.parse_args()
    installs = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        for number, extras in enumerate(asked.extras):
            python = install(folder / str(number), wheel, extras)
            installs[extras] = {
                "mb": sizes_mb(python),
                "cpu_ms": imports(python),
                "loaded_with_runtime": loaded(python),
                "not_installed": absent(python),
            }
            print(extras, json.dumps(installs[extras], indent=2), flush=True)
        wheel_mb = round(wheel.stat().st_size / 1e6, 2)
    result = {"machine": to_builtins(Machine.here()), "note": asked.note, "wheel_mb": wheel_mb, "installs": installs}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
