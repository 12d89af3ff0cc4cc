"""OpenVINO behind Runtime."""

from __future__ import annotations

import subprocess
import sys
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


_THE_STACK_THAT_SIGNALS_RUN_ON = """
import ctypes, os, signal, sys
from alexnet_deploy import Runtime
from alexnet_deploy.backends.openvino import _SignalStack

def start():
    now = _SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now))
    return now.start

before = start()
first = Runtime(sys.argv[1], backend="openvino")
second = Runtime(sys.argv[1], backend="openvino")
assert start() == before, "openvino brought a signal stack of its own"
first.close()
second.close()
assert start() == before, "openvino left a signal stack behind"
signal.signal(signal.SIGINT, lambda number, frame: print("pressed"))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are looked at on Linux only")
def test_ctrl_c_is_safe_after_openvino_has_run(tmp_path: Path) -> None:
    model = tiny_artifact(tmp_path / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-c", _THE_STACK_THAT_SIGNALS_RUN_ON, model.path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "pressed\n"), done.stderr
