"""What batch scoring costs as the work grows: time and memory of `alexnet-deploy score`, in one process and on Ray.

    python benchmarks/scoring.py                         # 1,000 to 100,000 pictures; five minutes on two cores
    python benchmarks/scoring.py --counts 1000 4000 --ray 1

The pictures are PNG files of 64 px made from the demo set, in Parquet with 1,000 rows a row group; the model is an untrained
AlexNet of a tenth of the width: small, so that what the work around them costs can be seen. Each run is a process of its own.
Its seconds count from when the model is loaded, Ray's start included; its CPU time and its memory are those of all its processes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import Preprocess, to_builtins
from alexnet_deploy.pictures import PictureSet

PIXELS = 64
ROWS = 1000


def make_model(folder: Path) -> Path:
    import torch

    from alexnet_deploy.export import export
    from training import checkpoint
    from training.model import ModelConfig, build_model

    torch.manual_seed(0)
    config = ModelConfig(classes=10, width=0.1, input_size=PIXELS)
    model = build_model(config)
    source = checkpoint.save(model, folder / "alexnet.safetensors", preprocess=Preprocess(height=PIXELS, width=PIXELS))
    return export(model.eval(), source, folder / "alexnet.onnx").artifact.path


def make_pictures(path: Path, count: int) -> None:
    """`count` PNG files; the 1,000 of the demo set again and again."""
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    demo = PictureSet.open("demo:test")
    files = []
    for index in range(ROWS):
        file = io.BytesIO()
        Image.fromarray(demo.picture(index)).resize((PIXELS, PIXELS)).save(file, "PNG")
        files.append(file.getvalue())
    schema = pyarrow.schema([("name", pyarrow.string()), ("image", pyarrow.binary())])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, count, ROWS):
            rows = min(ROWS, count - start)
            writer.write_table(pyarrow.table([[f"p{start + i}" for i in range(rows)], files[:rows]], schema=schema), ROWS)


def run(model: Path, pictures: Path, output: Path, workers: int) -> dict[str, float]:
    """One run: what it reports, its CPU time with all its processes, and its memory.

    `driver_peak_mb` and `worker_peak_mb` are the largest resident size of one process; `all_peak_mb` the largest sum of what
    its processes, Ray's own among them, had to themselves at one time.
    """
    program = str(Path(sys.executable).with_name("alexnet-deploy"))
    command = [program, "score", str(pictures), str(output), "-m", str(model), "--json"]
    command += ["--ray", str(workers)] if workers else []
    cpu_s = 0.0
    peaks_mb: dict[str, float] = {}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdout=said, stderr=complained, text=True)
        seen: dict[int, float] = {}
        while process.poll() is None:
            all_mb = 0.0
            for pid in _family(process.pid):
                with contextlib.suppress(OSError, IndexError):  # it has just ended
                    seen[pid] = _cpu_s(pid)
                    all_mb += _memory_mb(pid, "RssAnon")
                    name = "worker" if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::") else "driver"
                    if name == "worker" or pid == process.pid:
                        peaks_mb[name] = max(peaks_mb.get(name, 0.0), _memory_mb(pid, "VmHWM"))
            peaks_mb["all"] = max(peaks_mb.get("all", 0.0), all_mb)
            time.sleep(0.2)
        cpu_s = sum(seen.values())
        said.seek(0)
        complained.seek(0)
        if process.returncode:
            raise SystemExit(complained.read())
        report = json.load(said)
    return {
        "pictures": report["scored"],
        "ray_workers": workers,
        "score_s": round(report["seconds"], 2),
        "pictures_per_s": round(report["scored"] / report["seconds"], 1),
        "cpu_s": round(cpu_s, 2),
        "cpu_ms_a_picture": round(1e3 * cpu_s / report["scored"], 3),
        **{f"{name}_peak_mb": round(peak) for name, peak in sorted(peaks_mb.items())},
    }


def _family(root: int) -> list[int]:
    """A process and all that come from it. Ray's own are among them: its driver starts them."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def _fields(pid: int) -> list[str]:
    """/proc/PID/stat from its third field on; the second, the name, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_s(pid: int) -> float:
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--ray", type=int, nargs="*", default=[1, 2], help="Ray workers to try besides one process")
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/scoring.json"))
    arguments = parser.parse_args()
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder)
        for count in arguments.counts:
            make_pictures(folder / f"{count}.parquet", count)
            for workers in (0, *arguments.ray):
                runs.append(run(model, folder / f"{count}.parquet", folder / f"out-{count}-{workers}", workers))
                print(json.dumps(runs[-1]), flush=True)
                keep(runs, arguments.note, arguments.output)


def keep(runs: list[dict[str, float]], note: str, path: Path) -> None:
    machine = {"machine": to_builtins(Machine.here()), "load_average_1min": round(os.getloadavg()[0], 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine, "note": note, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
