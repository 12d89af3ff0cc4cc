"""NVIDIA ModelOpt's INT8 on a model and calibration arrays, on the CPU: what TensorRT 11's migration guide points to.

Runs in ModelOpt's own environment: python modelopt_int8.py MODEL.onnx CALIBRATION.npz OUTPUT.onnx
"""

import sys

import numpy as np
from modelopt.onnx.quantization import quantize

model, calibration, output = sys.argv[1:]
((name, array),) = np.load(calibration).items()
quantize(model, quantize_mode="int8", calibration_data={name: array}, calibration_eps=["cpu"], output_path=output)
