"""Olive's OnnxStaticQuantization on a model and calibration arrays, with its defaults.

Runs in Olive's own environment: python olive_int8.py MODEL.onnx CALIBRATION.npz OUTPUT.onnx
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from olive import run
from olive.data.registry import Registry
from torch.utils.data import Dataset

model, calibration, output = map(Path, sys.argv[1:])


class Arrays(Dataset):
    """One preprocessed picture at a time, as Olive's data loader wants them: (inputs by name, label)."""

    def __init__(self) -> None:
        ((self.name, self.array),) = np.load(calibration).items()

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        return {self.name: self.array[index]}, 0


@Registry.register_dataset()
def calibration_arrays(**_: object) -> Arrays:
    return Arrays()


with tempfile.TemporaryDirectory() as folder:
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": str(model)},
            "data_configs": [{"name": "pictures", "load_dataset_config": {"type": "calibration_arrays"}}],
            "passes": {"int8": {"type": "OnnxStaticQuantization", "data_config": "pictures"}},
            "output_dir": f"{folder}/out",
            "cache_dir": f"{folder}/cache",
            "evaluate_input_model": False,
        }
    )
    (found,) = Path(folder, "out").rglob("*.onnx")
    shutil.copy(found, output)
