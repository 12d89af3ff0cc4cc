"""One quantiser, run in a process of its own: `compare.py` calls this, in the environment that the tool is installed in.

    python quantisers.py TOOL METHOD FORM MODEL.onnx DATA COUNT OUT.onnx

Writes the quantised graph, and prints one JSON object: seconds, peak_mb (largest resident size), version.
All of them calibrate on the same pictures, preprocessed by the same code.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.machine import has_vnni, peak_memory_bytes
from alexnet_deploy.pictures import PictureSet

BATCH = 16


def batches(model: Artifact, data: str, count: int) -> Iterator[npt.NDArray[np.float32]]:
    pictures = PictureSet.open(data).sample(count, 0)
    return (batch for batch, _ in pictures.batches(model.manifest.preprocess, BATCH))


def ours(method: str, form: str, model: Artifact, data: str, count: int, out: Path) -> str:
    from alexnet_deploy.quantization.calibration import calibrate
    from alexnet_deploy.quantization.quantize import quantize
    from alexnet_deploy.types import GraphForm, Precision

    if method == "fp16":
        quantize(model, out, Precision.FP16)
        return "alexnet-deploy"
    calibration = calibrate(model, PictureSet.open(data), method=method, count=count)
    quantize(model, out, Precision.INT8, form=GraphForm(form), calibration=calibration)
    return "alexnet-deploy"


def onnxruntime(method: str, form: str, model: Artifact, data: str, count: int, out: Path) -> str:
    """As its documentation advises for each target: symmetric int8 for TensorRT, U8S8 for the CPU, weights a channel each."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = ({model.manifest.input.name: batch} for batch in batches(model, data, count))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    tensorrt = form == "tensorrt"
    quantize_static(
        str(model.path),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"] if tensorrt else None,
        per_channel=True,
        reduce_range=not tensorrt and not has_vnni(),
        activation_type=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[{"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[method]],
        extra_options={
            "ActivationSymmetric": tensorrt,
            "WeightSymmetric": True,
            **({"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"]} if tensorrt else {}),
            **({"QDQKeepRemovableActivations": True} if tensorrt else {}),
        },
    )
    return "onnxruntime"


def nncf(method: str, form: str, model: Artifact, data: str, count: int, out: Path) -> str:
    import nncf as library
    import onnx

    name = model.manifest.input.name
    dataset = library.Dataset(list(batches(model, data, count)), lambda batch: {name: batch})
    quantised = library.quantize(
        onnx.load(str(model.path)),
        dataset,
        subset_size=-(-count // BATCH),
        target_device=library.TargetDevice.CPU,
        fast_bias_correction=method != "accurate",
    )
    onnx.save(quantised, str(out))
    return "nncf"


def modelopt(method: str, form: str, model: Artifact, data: str, count: int, out: Path) -> str:
    from modelopt.onnx.quantization import quantize

    feed = np.concatenate(list(batches(model, data, count)))
    quantize(
        str(model.path),
        quantize_mode="int8",
        calibration_data={model.manifest.input.name: feed},
        calibration_method=method,
        calibration_eps=["cpu"],
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        output_path=str(out),
    )
    return "nvidia-modelopt"


TOOLS: dict[str, Callable[[str, str, Artifact, str, int, Path], str]] = {
    "ours": ours,
    "onnxruntime": onnxruntime,
    "nncf": nncf,
    "modelopt": modelopt,
}


def main() -> None:
    tool, method, form, model, data, count, out = sys.argv[1:]
    started = time.perf_counter()
    package = TOOLS[tool](method, form, Artifact.open(model), data, int(count), Path(out))
    seconds = time.perf_counter() - started
    json.dump(
        {"seconds": seconds, "peak_mb": peak_memory_bytes() / 1e6, "version": importlib.metadata.version(package)}, sys.stdout
    )


if __name__ == "__main__":
    main()
