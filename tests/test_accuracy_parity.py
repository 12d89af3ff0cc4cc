"""Every artifact and backend against PyTorch, on held-out pictures that none of them has seen.

The model is the quick demo's: trained for two epochs, so its answers are less sure than a finished model's, and the bounds
on INT8 are wider than what a fully trained one keeps (which the demo's own report shows).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import Demo

from alexnet_deploy.answers import Answers, answers
from alexnet_deploy.backends import BACKENDS
from alexnet_deploy.parity import compare
from alexnet_deploy.parity_report import ParityReport
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.runtime import Runtime

PICTURES = 500


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    return PictureSet.open("demo:test").sample(PICTURES)


@pytest.fixture(scope="module")
def reference(demo: Demo, pictures: PictureSet) -> Iterator[Answers]:
    with Runtime(demo.folder / "alexnet.safetensors") as runtime:
        yield answers([runtime], pictures)[0]


def compared(demo: Demo, name: str, reference: Answers, backend: str | None = None, device: str = "cpu") -> ParityReport:
    with Runtime(demo.folder / name, device, backend) as runtime:
        return compare(reference, answers([runtime], reference.pictures)[0])


def test_the_model_learned_something(reference: Answers) -> None:
    assert (reference.predictions == reference.truth).mean() > 0.55


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_fp32_is_within_a_ten_thousandth_of_the_largest_logit(demo: Demo, reference: Answers, backend: str) -> None:
    pytest.importorskip(BACKENDS[backend].needs)
    report = compared(demo, "alexnet.onnx", reference, backend)
    assert report.error.relative < 1e-4
    assert report.agreement.fraction >= 0.998, "only a tie may fall the other way"
    assert report.candidate.backend == backend


@pytest.mark.parametrize("name", ["alexnet.fp16.onnx", "alexnet.fp16.plan"])
def test_fp16_gives_the_same_answers(demo: Demo, reference: Answers, name: str) -> None:
    report = compared(demo, name, reference)
    assert report.error.relative < 0.01
    assert report.agreement.fraction >= 0.99
    assert report.difference is not None
    assert abs(report.difference.drop) <= 0.006


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("alexnet.int8.onnx", "onnxruntime"),
        ("alexnet.int8.cpu.onnx", "onnxruntime"),
        ("alexnet.int8.cpu.onnx", "openvino"),
        ("alexnet.int8.plan", None),
    ],
)
def test_int8_keeps_the_accuracy_and_nearly_all_answers(demo: Demo, reference: Answers, name: str, backend: str | None) -> None:
    if backend:
        pytest.importorskip(BACKENDS[backend].needs)
    report = compared(demo, name, reference, backend)
    assert report.agreement.fraction >= 0.93
    assert report.difference is not None
    assert report.difference.drop <= 0.02
    assert report.error.cosine > 0.98


def test_both_forms_of_int8_come_from_one_set_of_ranges_and_agree_with_each_other(demo: Demo, reference: Answers) -> None:
    with Runtime(demo.folder / "alexnet.int8.onnx") as tensorrt_form, Runtime(demo.folder / "alexnet.int8.cpu.onnx") as cpu_form:
        one, other = answers([tensorrt_form, cpu_form], reference.pictures)
    assert (one.predictions == other.predictions).mean() >= 0.93


def test_a_plan_without_a_gpu_answers_exactly_as_its_twin(demo: Demo, reference: Answers) -> None:
    with Runtime(demo.folder / "alexnet.int8.plan", "cpu") as plan, Runtime(demo.folder / "alexnet.int8.cpu.onnx") as twin:
        pixels = np.stack([reference.pictures.picture(i) for i in range(32)])
        assert (plan.logits(pixels) == twin.logits(pixels)).all()
        assert plan.twin_of == demo.folder / "alexnet.int8.plan"


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "least"), [("alexnet.fp16.plan", 0.99), ("alexnet.int8.plan", 0.93)])
def test_a_plan_on_a_gpu_answers_as_pytorch_does(demo: Demo, reference: Answers, name: str, least: float) -> None:
    from alexnet_deploy.gpu import gpus, problem

    if not gpus():
        pytest.skip(f"no GPU here: {problem()}")
    report = compared(demo, name, reference, device="cuda")
    assert report.candidate.device == "cuda"
    assert report.agreement.fraction >= least
