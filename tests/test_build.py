"""Plans are really built here, by TensorRT for RTX, which needs no GPU for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import ArtifactCorrupt, BackendMissing, BuildError, DeviceMissing, InputError, ModelError
from alexnet_deploy.gpu import Gpu
from alexnet_deploy.manifest import FileReference, LayerPrecision, PlanRecord
from alexnet_deploy.quantization.half import to_half
from alexnet_deploy.trt import adapter
from alexnet_deploy.trt import build as room
from alexnet_deploy.trt.adapter import TensorRt
from alexnet_deploy.trt.build import PORTABLE, PORTABLE_FP8, build, choose_flavour, choose_targets
from alexnet_deploy.types import BatchRange, Flavour, GraphForm, Precision
from tests.tiny import LABELS, tiny_artifact, tiny_graph

RTX = Flavour.TENSORRT_RTX
TARGETS = PlanRecord(flavour=RTX, version="", capabilities=PORTABLE)


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    return adapter.load(RTX)


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path / "tiny.onnx")


def test_a_plan_carries_its_graphs_manifest_and_its_own_record(model: Artifact, rtx: TensorRt) -> None:
    report = build(model, model.path.with_suffix(".plan"), flavour=RTX, batch=BatchRange(1, 2, 4))
    plan = Artifact.open(report.artifact.path)
    assert plan.path.read_bytes()[:4] == b"vtrt"
    assert plan.manifest == report.artifact.manifest
    assert plan.manifest.kind == "plan"
    assert plan.manifest.plan == PlanRecord(flavour=RTX, version=rtx.version, capabilities=PORTABLE)
    assert plan.manifest.batch == report.batch == BatchRange(1, 2, 4)
    assert plan.manifest.twin == FileReference(file="tiny.onnx", sha256=model.manifest.sha256)
    assert plan.manifest.parents == model.lineage()
    assert (plan.manifest.labels, plan.manifest.precision) == (LABELS, Precision.FP32)
    assert (plan.manifest.input, plan.manifest.preprocess) == (model.manifest.input, model.manifest.preprocess)


def test_the_graphs_own_batch_range_is_the_default(model: Artifact) -> None:
    assert build(model, model.path.with_suffix(".plan"), flavour=RTX).batch == model.manifest.batch


def test_a_plan_in_another_folder_than_its_graph_has_no_twin(model: Artifact, tmp_path: Path) -> None:
    assert build(model, tmp_path / "elsewhere" / "x.plan", flavour=RTX).artifact.manifest.twin is None


def test_the_precision_of_the_graph_is_that_of_the_plan(tmp_path: Path) -> None:
    half = tiny_artifact(tmp_path / "half.onnx", graph=to_half(tiny_graph(), "float16"), precision=Precision.FP16)
    plan = build(half, tmp_path / "half.plan", flavour=RTX)
    full = build(tiny_artifact(tmp_path / "full.onnx"), tmp_path / "full.plan", flavour=RTX)
    assert plan.artifact.manifest.precision is Precision.FP16
    assert plan.artifact.path.read_bytes() != full.artifact.path.read_bytes()


def test_progress_rises_to_a_hundred(model: Artifact, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build(model, tmp_path / "x.plan", flavour=RTX, progress=lambda task, done, total, note="": seen.append((task, done, total)))
    percents = [done for _, done, _ in seen]
    assert {(task, total) for task, _, total in seen} == {("build tiny", 100)}
    assert percents == sorted(set(percents))
    assert percents[-1] == 100


def test_ctrl_c_stops_the_build_and_leaves_nothing(model: Artifact, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    reached: list[int] = []

    def progress(task: str, done: int, total: int, note: str = "") -> None:
        reached.append(done)
        if len(reached) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(model, tmp_path / "x.plan", flavour=RTX, progress=progress)
    assert max(reached) < 100
    assert signal.getsignal(signal.SIGINT) is before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.onnx", "tiny.onnx.json"]


def test_an_error_in_progress_stops_the_build_and_is_raised(model: Artifact, tmp_path: Path) -> None:
    def progress(task: str, done: int, total: int, note: str = "") -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        build(model, tmp_path / "x.plan", flavour=RTX, progress=progress)
    assert not (tmp_path / "x.plan").exists()


def test_a_failed_build_keeps_the_plan_that_was_there(model: Artifact, tmp_path: Path) -> None:
    good = build(model, tmp_path / "x.plan", flavour=RTX).artifact
    with pytest.raises(BuildError):
        build(model, tmp_path / "x.plan", flavour=RTX, capabilities=["75"])
    assert Artifact.open(good.path).manifest == good.manifest


def test_the_reason_of_a_failed_build_is_tensorrts_own(model: Artifact, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"did not build tiny\.onnx for sm75: .*Turing") as caught:
        build(model, tmp_path / "x.plan", flavour=RTX, capabilities=["75"])
    assert "--fp16 --sm 75" in caught.value.fix


def test_what_the_parser_refuses_names_the_operator(tmp_path: Path) -> None:
    graph = tiny_graph()
    graph.graph.node.insert(0, helper.make_node("Bernoulli", ["input"], ["drawn"], name="a draw"))
    graph.graph.node[1].input[0] = "drawn"
    with pytest.raises(ModelError, match=r"cannot parse odd\.onnx: .*Bernoulli"):
        build(tiny_artifact(tmp_path / "odd.onnx", graph=graph), tmp_path / "x.plan", flavour=RTX)


def test_the_cpu_form_is_refused_with_the_name_of_the_other(tmp_path: Path) -> None:
    model = tiny_artifact(tmp_path / "net.int8.cpu.onnx", form=GraphForm.CPU, precision=Precision.INT8)
    with pytest.raises(InputError, match="quantised for the CPU") as caught:
        build(model, tmp_path / "x.plan", flavour=RTX)
    assert caught.value.fix.endswith(": net.int8.onnx")


@pytest.mark.parametrize("keep", [0, 1, 100, 600])
def test_a_truncated_graph_is_refused(tmp_path: Path, keep: int) -> None:
    model = tiny_artifact(tmp_path / "tiny.onnx")
    model.path.write_bytes(model.path.read_bytes()[:keep])
    with pytest.raises(ArtifactCorrupt, match=r"tiny\.onnx"):
        build(model, tmp_path / "x.plan", flavour=RTX)


def test_a_graph_that_is_not_what_its_manifest_says_is_refused(tmp_path: Path) -> None:
    graph = tiny_graph()
    graph.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", 8, 1, 1]))
    with pytest.raises(ModelError, match=r"outputs \['output', 'pooled'\]"):
        build(tiny_artifact(tmp_path / "two.onnx", graph=graph), tmp_path / "x.plan", flavour=RTX)


def test_only_a_graph_can_be_built(model: Artifact, tmp_path: Path) -> None:
    plan = build(model, tmp_path / "x.plan", flavour=RTX).artifact
    with pytest.raises(InputError, match=r"x\.plan is a plan"):
        build(plan, tmp_path / "y.plan", flavour=RTX)


# Batch sizes


def fixed_batch(folder: Path, count: int) -> Artifact:
    from msgspec import structs

    from alexnet_deploy.artifact import write_artifact

    loose = tiny_artifact(folder / "fixed.onnx", batch=BatchRange(count, count, count))
    fixed = structs.replace(
        loose.manifest,
        input=structs.replace(loose.manifest.input, shape=(count, *loose.manifest.input.shape[1:])),
        output=structs.replace(loose.manifest.output, shape=(count, *loose.manifest.output.shape[1:])),
    )
    return write_artifact(loose.path, fixed, tiny_graph(batch=count).SerializeToString())


def test_a_fixed_batch_builds_for_that_batch(tmp_path: Path) -> None:
    assert build(fixed_batch(tmp_path, 4), tmp_path / "x.plan", flavour=RTX).batch == BatchRange(4, 4, 4)


def test_a_fixed_batch_cannot_become_a_range(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has a fixed batch of 4, not 1 to 8"):
        build(fixed_batch(tmp_path, 4), tmp_path / "x.plan", flavour=RTX, batch=BatchRange(1, 4, 8))


# Targets


@pytest.mark.parametrize("name", ["86", "8.6", "sm86", "SM_86", " sm86 "])
def test_a_target_has_many_spellings(rtx: TensorRt, name: str) -> None:
    assert choose_targets(rtx, [name], Precision.FP16) == ("sm86",)


def test_targets_are_sorted_by_age_and_named_once(rtx: TensorRt) -> None:
    assert choose_targets(rtx, ["120", "86", "8.6", "89"], Precision.FP16) == ("sm86", "sm89", "sm120")


def test_the_default_is_every_gpu_that_one_plan_can_serve(rtx: TensorRt) -> None:
    assert choose_targets(rtx, [], Precision.FP16) == PORTABLE
    assert choose_targets(rtx, [], Precision.FP8) == PORTABLE_FP8


@pytest.mark.parametrize(
    ("name", "fix"), [("90", "--target tensorrt, on the machine"), ("61", "leave --sm out"), ("hopper", "leave --sm out")]
)
def test_an_unknown_target_is_refused_with_those_that_are_known(rtx: TensorRt, name: str, fix: str) -> None:
    with pytest.raises(InputError, match=f"cannot build for sm{name}") as caught:
        choose_targets(rtx, [name], Precision.FP16)
    assert "sm75, sm80, sm86, sm89, sm120" in caught.value.expected
    assert fix in caught.value.fix


def test_current_stands_alone_and_needs_a_gpu(rtx: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot stand beside"):
        choose_targets(rtx, ["current", "86"], Precision.FP16)
    monkeypatch.setattr(room, "gpus", lambda: ())
    with pytest.raises(DeviceMissing, match="no usable GPU is"):
        choose_targets(rtx, ["current"], Precision.FP16)


def test_several_targets_are_built_and_recorded(model: Artifact, tmp_path: Path) -> None:
    report = build(model, tmp_path / "x.plan", flavour=RTX, capabilities=["120", "86"])
    assert report.plan.capabilities == ("sm86", "sm120")


# Which TensorRT


def installed_are(monkeypatch: pytest.MonkeyPatch, *flavours: Flavour, gpus: int = 0) -> None:
    monkeypatch.setattr(adapter, "installed", lambda flavour: flavour in flavours)
    monkeypatch.setattr(room, "gpus", lambda: (Gpu("NVIDIA L40", (8, 9), 45 << 30),) * gpus)


def test_tensorrt_is_chosen_only_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_are(monkeypatch, Flavour.TENSORRT, RTX, gpus=1)
    assert choose_flavour() is Flavour.TENSORRT
    installed_are(monkeypatch, Flavour.TENSORRT, RTX)
    assert choose_flavour() is RTX


def test_without_any_tensorrt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for flavours in ((), (Flavour.TENSORRT,)):
        installed_are(monkeypatch, *flavours)
        with pytest.raises(BackendMissing, match="no TensorRT is installed") as caught:
            choose_flavour()
        assert caught.value.fix == "pip install 'alexnet-deploy[rtx]'"


# What the graph may hold


def test_weights_that_are_graph_inputs_too_are_still_one_input(tmp_path: Path) -> None:
    graph = tiny_graph()
    for weight in graph.graph.initializer:
        array = numpy_helper.to_array(weight)
        graph.graph.input.append(helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, array.shape))
    model = tiny_artifact(tmp_path / "old.onnx", graph=graph)
    assert build(model, tmp_path / "x.plan", flavour=RTX).artifact.manifest.input.name == "input"


# A plan is what it is called


def test_the_precision_of_every_layer_is_read_from_the_graph_itself(tmp_path: Path) -> None:
    half = tiny_artifact(tmp_path / "half.onnx", graph=to_half(tiny_graph(), "float16"), precision=Precision.FP16)
    layers = build(half, tmp_path / "half.plan", flavour=RTX).artifact.manifest.layers
    assert [(layer.layer, layer.op, layer.precision) for layer in layers] == [
        ("conv", "Conv", Precision.FP16),
        ("fc", "Gemm", Precision.FP16),
    ]


def test_a_graph_called_int8_that_is_not_is_refused(tmp_path: Path) -> None:
    model = tiny_artifact(tmp_path / "tiny.onnx", precision=Precision.INT8)
    with pytest.raises(ModelError, match=r"tiny\.onnx is called int8, its layers compute in fp32"):
        build(model, tmp_path / "x.plan", flavour=RTX)


def test_a_layer_that_is_not_what_the_manifest_lists_is_refused(tmp_path: Path) -> None:
    listed = (
        LayerPrecision(layer="conv", op="Conv", precision=Precision.FP32),
        LayerPrecision(layer="fc", op="Gemm", precision=Precision.INT8),
    )
    with pytest.raises(ModelError, match=r"not those that its manifest lists \(fc\)"):
        build(tiny_artifact(tmp_path / "tiny.onnx", layers=listed), tmp_path / "x.plan", flavour=RTX)
