"""Every member of the family on its way: exported with its own preprocessing, and equal to PyTorch on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from alexnet_deploy.export import export
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange
from training import checkpoint
from training.family import FAMILY
from training.model import ModelConfig, build_model, preprocessing

OPERATORS = {"Conv", "Relu", "MaxPool", "Gemm", "Reshape", "Resize"}


@pytest.mark.parametrize("arch", FAMILY)
def test_a_member_runs_in_onnxruntime_as_in_pytorch(arch: str, tmp_path: Path) -> None:
    config = ModelConfig(arch=arch, classes=10, width=0.1, input_size=max(95, FAMILY[arch].smallest_input))
    torch.manual_seed(0)
    model = build_model(config)
    model.train()(torch.randn(8, 3, config.input_size, config.input_size))  # BatchNorm has statistics of its own then
    pictures = PictureSet.open("demo:test").sample(20)
    saved = checkpoint.save(model.eval(), tmp_path / "m.safetensors", preprocess=preprocessing(config), labels=pictures.classes)
    exported = export(model, saved, tmp_path / "m.onnx", batch=BatchRange(1, 4, 8), pictures=pictures).artifact
    operators = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert operators <= OPERATORS | ({"LRN"} if arch in ("alexnet-2012", "alexnet-caffe") else set())
    assert ("LRN" in operators) == (arch in ("alexnet-2012", "alexnet-caffe"))
    photos = np.stack([pictures.picture(i) for i in range(len(pictures))])
    with Runtime(saved.path) as reference, Runtime(exported.path) as candidate:
        expected = reference.logits(photos)
        assert np.abs(candidate.logits(photos) - expected).max() <= 1e-4 * np.abs(expected).max()
        assert np.ptp(expected, axis=0).max() > 0
