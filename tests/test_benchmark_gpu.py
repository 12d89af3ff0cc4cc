"""benchmarks/gpu.py, run through on the fake GPU: it writes what it finds, and the errors of what fails.

No figure of this run means anything: the fake stands for a GPU that is not here (see fake_cuda.py).
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from alexnet_deploy.trt import adapter
from alexnet_deploy.trt.adapter import TensorRt
from alexnet_deploy.types import BatchRange, Flavour, TensorSpec
from benchmarks import gpu as script
from benchmarks import gpu_host_side as host_side
from tests.fake_cuda import H100, FakeCuda, FakeEngine, install

pytest.importorskip("torch", reason="the benchmark makes its model with PyTorch")


@pytest.mark.slow
def test_it_runs_through_and_writes_down_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    logits = TensorSpec("logits", "float32", (None, 10))
    engine = FakeEngine(fake, TensorSpec("input", "float32", (None, 3, 64, 64)), logits, BatchRange(1, 8, 8))
    install(monkeypatch, fake, engine, gpu=H100)
    # The real TensorRT for RTX builds; the fake loads and runs.
    both = TensorRt(Flavour.TENSORRT_RTX, import_module("tensorrt_rtx"))
    monkeypatch.setattr(both, "engine", lambda plan: engine)
    monkeypatch.setattr(both, "invalidity", lambda plan: ())
    monkeypatch.setattr(adapter, "load", lambda flavour: both)
    monkeypatch.setattr(script, "gpus", lambda: (H100,))

    found = script.main(
        ["--quick", "--width", "0.1", "--size", "64", "--classes", "10", "--precisions", "fp16,int8", "--out", str(tmp_path)]
    )

    written = json.loads((tmp_path / "gpu-nvidia-h100-80gb-hbm3.json").read_text())
    page = (tmp_path / "gpu-nvidia-h100-80gb-hbm3.md").read_text()
    assert [row["plan"] for row in written["loads"]] == ["fp16 plan, default target", "int8 plan, default target"]
    ran = {(row["contestant"], row["precision"], row["batch"]) for row in written["latency"]}
    for contestant in ("Runtime.logits, float32", "Runtime.logits, uint8 pictures", "bare graph, pinned copies"):
        assert {(contestant, precision, batch) for precision in ("fp16", "int8") for batch in (1, 8)} <= ran
    # There is no GPU that "current" could name, and none for PyTorch: said, and nothing else fails.
    assert "no usable GPU is" in found.failures["fp16 plan, current target"]
    assert {what.partition(" ")[0] for what in found.failures} <= {"fp16", "int8", "PyTorch", "torch.compile", "onnxruntime"}
    assert written["memory"]["free_after_first_bytes"] == written["memory"]["free_after_last_bytes"]
    assert written["roofline"]
    assert "no usable GPU is" in page
    assert fake.held == 0
    added = {(row["contestant"], row["beside"]) for row in written["added"]}
    assert ("Runtime.predict, float32", "bare loop, ordinary memory") in added
    assert {probe["engine"] for probe in written["probes"]} == {True}
    assert {probe["capturable"] for probe in written["probes"]} == {True}


def test_the_host_side_is_measured_without_a_gpu_and_says_so(tmp_path: Path) -> None:
    rows = host_side.main(["--out", str(tmp_path), "--seconds", "0.01"])
    written = json.loads((tmp_path / "gpu-host-side.json").read_text())
    assert written["rows"] == rows
    assert all(row["predict"] >= row["gpu_us"] for row in rows)  # it waits for the stand-in's GPU
    assert "Nothing here is a figure of a GPU" in (tmp_path / "gpu-host-side.md").read_text()
