"""The peer "OpenVINO + NNCF" of benchmarks/runtime.py; in an environment of its own, since NNCF pins other versions:

python -m venv nncf && nncf/bin/pip install nncf openvino onnx numpy
nncf/bin/python benchmarks/nncf_peer.py .cache/benchmarks/alexnet.onnx .cache/benchmarks/nncf.xml
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import openvino

source, target = sys.argv[1:]
random = np.random.default_rng(0)
batches = [random.standard_normal((1, 3, 224, 224), np.float32) for _ in range(32)]
quantised = nncf.quantize(openvino.Core().read_model(source), nncf.Dataset(batches), subset_size=len(batches))
openvino.save_model(quantised, target)
