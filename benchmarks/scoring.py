"""What batch scoring costs as the work grows: time and memory of `alexnet-deploy score`, in one process and on Ray.

    python benchmarks/scoring.py                         # 1,000 to 16,000 pictures; some minutes on two cores
    python benchmarks/scoring.py --counts 100000 --ray 2

The pictures are PNG files of 96 px made from the demo set, in Parquet with 1,000 rows a row group; the model is an untrained
AlexNet of a quarter of the width. Each run is a process of its own, its start included.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import Preprocess, to_builtins
from alexnet_deploy.pictures import PictureSet

PIXELS = 96
ROWS = 1000


def make_model(folder: Path) -> Path:
    import torch

    from alexnet_deploy.export import export
    from training import checkpoint
    from training.model import ModelConfig, build_model

    torch.manual_seed(0)
    config = ModelConfig(classes=10, width=0.25, input_size=PIXELS)
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
    """One run: what it reports, its whole time, and the largest resident size of its driver."""
    program = str(Path(sys.executable).with_name("alexnet-deploy"))
    command = ["/usr/bin/env", "time", "-v", program, "score", str(pictures), str(output), "-m", str(model), "--json"]
    command += ["--ray", str(workers)] if workers else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise SystemExit(done.stderr)
    report = json.loads(done.stdout)
    return {
        "pictures": report["scored"],
        "ray_workers": workers,
        "score_s": round(report["seconds"], 2),
        "pictures_per_s": round(report["scored"] / report["seconds"], 1),
        "cpu_s": round(sum(float(s) for s in re.findall(r"(?:User|System) time \(seconds\): ([\d.]+)", done.stderr)), 2),
        "driver_peak_mb": round(int(re.findall(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)[0]) / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--ray", type=int, nargs="*", default=[], help="Ray workers to try besides one process")
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/scoring.json"))
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder)
        for count in arguments.counts:
            make_pictures(folder / f"{count}.parquet", count)
            for workers in (0, *arguments.ray):
                runs.append(run(model, folder / f"{count}.parquet", folder / f"out-{count}-{workers}", workers))
                print(json.dumps(runs[-1]), flush=True)
    result = {
        "machine": to_builtins(Machine.here()),
        "load_average_1min": round(os.getloadavg()[0], 1),
        "note": arguments.note,
        "runs": runs,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
