"""OpenVINO behind Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="the extra openvino is not installed")

from alexnet_deploy.errors import ArtifactCorrupt, DeviceMissing
from alexnet_deploy.runtime import Runtime
from tests.conformance import Conformance
from tests.tiny import float_batch, tiny_artifact


class TestOpenVino(Conformance):
    backend = "openvino"


def test_it_agrees_with_onnxruntime(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    batch = float_batch(20)
    with Runtime(artifact.path, backend="openvino") as one, Runtime(artifact.path, backend="onnxruntime") as other:
        np.testing.assert_allclose(one.logits(batch), other.logits(batch), rtol=1e-4, atol=1e-4)


def test_it_uses_the_threads_that_it_is_given(tmp_path: Path) -> None:
    from alexnet_deploy.backends.base import Options
    from alexnet_deploy.backends.openvino import OpenVinoBackend

    engine = OpenVinoBackend.load(tiny_artifact(tmp_path / "m.onnx"), Options("cpu", threads=1))
    assert engine.threads == 1


def test_it_has_no_cuda(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    with pytest.raises(DeviceMissing, match="openvino does not run on cuda"):
        Runtime(artifact.path, "cuda", "openvino")


def test_nothing_is_printed_for_a_broken_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08broken")
    with pytest.raises(ArtifactCorrupt, match="cannot load"):
        Runtime(path, backend="openvino")
    assert capfd.readouterr() == ("", "")
