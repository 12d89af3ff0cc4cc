"""The tests of test_gpu.py, run on the fake GPU, so that on the day when there is a real one they are not wrong themselves.

What needs PyTorch's CUDA, CuPy, or answers like the ONNX graph's is left out: the fake engine is another network.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.manifest import PlanRecord
from alexnet_deploy.types import BatchRange, Flavour
from tests import test_gpu
from tests.fake_cuda import L40, FakeCuda, FakeEngine, install
from tests.tiny import tiny_artifact

BATCH = BatchRange(1, 4, 8)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Artifact]:
    """A plan that a fake engine answers for; test_gpu is made to take it for its own."""
    graph = tiny_artifact(tmp_path / "tiny.onnx", batch=BATCH).manifest
    record = PlanRecord(flavour=Flavour.TENSORRT_RTX, version="1.7.1.116", capabilities=("sm80",))
    plan = write_artifact(tmp_path / "tiny.plan", structs.replace(graph, kind="plan", plan=record), b"no plan")
    fake = FakeCuda("random")
    install(monkeypatch, fake, FakeEngine(fake, graph.input, graph.output, BATCH))
    monkeypatch.setattr(test_gpu, "gpus", lambda: (L40,))
    monkeypatch.setattr(test_gpu, "plan_that_runs", lambda folder, flavour: plan)
    yield plan
    gc.collect()
    assert fake.held == 0


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("test_a_graph_answers_as_the_plain_run_did", ()),
        ("test_large_batches_through_the_slots_answer_as_small_ones", ("monkeypatch",)),
        ("test_graphs_are_really_captured", ("flavour",)),
        ("test_graphs_stay_right_when_kernels_for_other_sizes_have_come_after_them", ()),
        ("test_several_runtimes_and_threads_share_a_gpu", ()),
        ("test_a_batch_in_pinned_memory_is_answered_like_others", ("monkeypatch",)),
        ("test_nan_is_found_while_the_gpu_computes_and_nothing_is_broken_by_it", ()),
        ("test_a_fork_is_told_of", ()),
        ("test_two_hundred_open_close_cycles_give_the_memory_back", ()),
        ("test_what_nobody_closes_gives_its_memory_back_too", ()),
    ],
)
def test_it_would_pass(name: str, more: tuple[str, ...], plan: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"monkeypatch": monkeypatch, "flavour": Flavour.TENSORRT_RTX}
    getattr(test_gpu, name)(plan, **{what: given[what] for what in more})


def test_kernels_are_kept(plan: Artifact, tmp_path: Path) -> None:
    test_gpu.test_kernels_are_compiled_once_and_taken_from_disk_by_the_next(Flavour.TENSORRT_RTX, tmp_path)
