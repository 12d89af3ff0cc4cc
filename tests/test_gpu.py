"""Plans on a real GPU; skipped, and said so, where there is none.

    pytest -m gpu tests/test_gpu.py

A TensorRT that builds a plan but refuses to load it on this GPU skips with its own words: that is a finding, not a fault here.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.base import Options
from alexnet_deploy.backends.trt import TensorRtBackend, TensorRtRtxBackend
from alexnet_deploy.engine import PRECISIONS, build_engine
from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.gpu import gpus, problem
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.trt import adapter, cuda
from alexnet_deploy.trt.execution import Execution
from alexnet_deploy.types import BatchRange, Flavour, Precision
from tests.conformance import Conformance
from tests.tiny import float_batch, tiny_artifact

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason=f"no GPU: {problem()}")]

PICTURES = PictureSet.open("demo:train").sample(64)
BACKENDS: dict[Flavour, type[TensorRtBackend]] = {
    Flavour.TENSORRT: TensorRtBackend,
    Flavour.TENSORRT_RTX: TensorRtRtxBackend,
}


def plan_that_runs(
    folder: Path, flavour: Flavour, precision: Precision = Precision.FP32, batch: BatchRange | None = None
) -> Artifact:
    """A plan for the default targets, or for the GPU that is here where those do not load."""
    if not adapter.installed(flavour):
        pytest.skip(f"{flavour} is not installed")
    onnx = tiny_artifact(folder / "tiny.onnx", batch=batch or BatchRange(1, 4, 8))
    refusals = []
    for capabilities in ((), ("current",)):
        try:
            plan = build_engine(
                onnx,
                folder / f"tiny.{precision}.plan",
                precision,
                pictures=PICTURES,
                method="minmax",
                count=48,
                flavour=flavour,
                capabilities=capabilities,
            ).plan
            BACKENDS[flavour].load(plan, Options("cuda")).close()
        except AlexnetDeployError as error:
            refusals.append(str(error))
        else:
            return plan
    pytest.skip(" / ".join(refusals))


@pytest.fixture(scope="module", params=list(Flavour))
def flavour(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def plan(flavour: Flavour, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return plan_that_runs(tmp_path_factory.mktemp(flavour), flavour)


class TestTensorRtRtxOnAGpu(Conformance):
    backend = "tensorrt-rtx"
    device = "cuda"
    tolerance = 1e-4

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        return plan_that_runs(path_without_suffix.parent, Flavour.TENSORRT_RTX)


class TestTensorRtOnAGpu(Conformance):
    backend = "tensorrt"
    device = "cuda"
    tolerance = 1e-4

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        return plan_that_runs(path_without_suffix.parent, Flavour.TENSORRT)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_answers_like_its_twin_on_the_cpu(flavour: Flavour, precision: Precision, tmp_path: Path) -> None:
    plan = plan_that_runs(tmp_path, flavour, precision)
    batch = float_batch(20)
    with Runtime(plan.path, device="cuda") as engine, Runtime(tmp_path / "tiny.onnx", device="cpu") as reference:
        found, wanted = engine.logits(batch), reference.logits(batch)
    allowed = {Precision.FP32: 1e-4, Precision.FP16: 0.01, Precision.BF16: 0.05, Precision.INT8: 0.1, Precision.FP8: 0.2}
    assert np.abs(found - wanted).max() <= allowed[precision] * np.abs(wanted).max()


def test_a_graph_answers_as_the_plain_run_did(plan: Artifact) -> None:
    with Runtime(plan.path, device="cuda") as runtime:
        for count in (1, 2, 5, 8):
            batch = float_batch(count)
            first = runtime.logits(batch)
            for _ in range(3):
                np.testing.assert_array_equal(runtime.logits(batch), first)


def test_large_batches_through_the_slots_answer_as_small_ones(plan: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = float_batch(100)
    with Runtime(plan.path, device="cuda") as runtime:
        by_graphs = runtime.logits(batch)
        monkeypatch.setattr("alexnet_deploy.trt.execution.GRAPH_BYTES", 0)
        for _ in range(5):
            np.testing.assert_allclose(runtime.logits(batch), by_graphs, rtol=1e-4, atol=1e-5)


def test_graphs_are_really_captured(plan: Artifact, flavour: Flavour) -> None:
    bindings = adapter.load(flavour)
    context = bindings.context(bindings.engine(plan.path.read_bytes()))
    assert context is not None
    manifest = plan.manifest
    execution = Execution(bindings, context, manifest.input, manifest.output, manifest.batch)
    execution.run(float_batch(3))
    assert execution._graphs
    assert set(execution._slots[0].graphs) == {3}
    execution.close()


def test_pytorch_tensors_go_in_and_come_out_without_a_copy(plan: Artifact) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    for count in (1, 8, 20):
        batch = torch.from_numpy(float_batch(count)).cuda()
        with Runtime(plan.path, device="cuda") as runtime:
            wanted = runtime.logits(batch.cpu().numpy())
            np.testing.assert_allclose(runtime.logits(batch), wanted, rtol=1e-4, atol=1e-5)
            stays = torch.from_dlpack(runtime.on_device(batch))
            out = torch.empty(count, 7, device="cuda")
            for _ in range(4):
                assert runtime.on_device(batch, out) is out
        assert stays.is_cuda
        np.testing.assert_allclose(stays.cpu().numpy(), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.cpu().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_what_pytorch_has_queued_is_waited_for(plan: Artifact) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    wanted = float_batch(8)
    with Runtime(plan.path, device="cuda") as runtime, torch.cuda.stream(torch.cuda.Stream()):
        expected = runtime.logits(wanted)
        batch = torch.zeros(wanted.shape, device="cuda")
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy / 4096
        batch.copy_(torch.from_numpy(wanted))  # behind some 10 ms of other work
        np.testing.assert_allclose(runtime.logits(batch), expected, rtol=1e-4, atol=1e-5)


def test_two_hundred_open_close_cycles_give_the_memory_back(plan: Artifact) -> None:
    def cycle() -> None:
        with Runtime(plan.path, device="cuda") as runtime:
            runtime.logits(float_batch(30))

    cycle()
    gc.collect()
    before = cuda.free_memory_bytes()
    for _ in range(200):
        cycle()
    gc.collect()
    assert before - cuda.free_memory_bytes() < 32 << 20
