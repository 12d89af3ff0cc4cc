"""Polygraphy's way to an INT8 engine, with TensorRT for RTX, which builds without a GPU.

Runs in Polygraphy's own environment: python polygraphy_int8.py MODEL.onnx CALIBRATION.npz OUTPUT
"""

import os
import subprocess
import sys
from pathlib import Path

model, _, output = sys.argv[1:]
program = Path(sys.executable).with_name("polygraphy")
words = [program, "convert", model, "--int8", "--convert-to", "trt", "-o", output]
sys.exit(subprocess.run(words, env={**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}).returncode)
