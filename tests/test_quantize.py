from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import CalibrationError, FallbackWarning, InputError
from alexnet_deploy.machine import has_vnni
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.onnx_graph.session import GraphRunner, fused_operators
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import Calibration, calibrate
from alexnet_deploy.quantization.comparison import logits, relative_error
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.trt.build import build
from alexnet_deploy.types import Flavour, GraphForm, Precision
from tests.small_nets import CLASSES, Net, alexnet_like, artifact_of, branching

PICTURES = PictureSet.open("demo:train").subset(range(64))
NETS = {"alexnet": alexnet_like, "branching": branching}


@pytest.fixture(scope="module", params=NETS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(NETS[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def calibration(model: Artifact) -> Calibration:
    return calibrate(model, PICTURES, method="mse")


@pytest.fixture(scope="module")
def held_out() -> PictureSet:
    return PictureSet.open("demo:test").subset(range(64))


def error_of(artifact: Artifact, reference: Artifact, pictures: PictureSet) -> float:
    expected = logits(load_graph(reference.path), reference.manifest, pictures)
    return relative_error(expected, logits(load_graph(artifact.path), artifact.manifest, pictures))


@pytest.mark.parametrize("form", GraphForm)
def test_int8_answers_as_float_does(
    model: Artifact, calibration: Calibration, held_out: PictureSet, form: GraphForm, tmp_path: Path
) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, form=form, calibration=calibration)
    assert error_of(made, model, held_out) < 0.01  # 20 dB


def test_fp8_answers_as_float_does(model: Artifact, calibration: Calibration, held_out: PictureSet, tmp_path: Path) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.FP8, calibration=calibration)
    assert error_of(made, model, held_out) < 0.05


@pytest.mark.parametrize(
    ("precision", "form"),
    [(Precision.INT8, GraphForm.TENSORRT), (Precision.INT8, GraphForm.CPU), (Precision.FP8, GraphForm.TENSORRT)],
)
def test_every_layer_is_what_the_manifest_says(
    model: Artifact, calibration: Calibration, precision: Precision, form: GraphForm, tmp_path: Path
) -> None:
    made = quantize(model, tmp_path / "q.onnx", precision, form=form, calibration=calibration)
    manifest = Artifact.open(made.path).manifest
    assert manifest.layers
    assert {layer.precision for layer in manifest.layers} == {precision}
    assert (manifest.precision, manifest.form) == (precision, form)
    assert manifest.parents[0].sha256 == model.manifest.sha256
    assert manifest.calibration is not None
    assert set(manifest.calibration.ranges) <= set(calibration.ranges)


def test_weights_are_stored_in_8_bits(tmp_path: Path) -> None:
    model = artifact_of(alexnet_like(), tmp_path)
    calibration = calibrate(model, PictureSet.open("demo:train").subset(range(32)), method="minmax")
    for form in GraphForm:
        made = quantize(model, tmp_path / f"{form}.onnx", Precision.INT8, form=form, calibration=calibration)
        assert made.manifest.size_bytes < 0.3 * model.manifest.size_bytes


def test_the_tensorrt_form_keeps_to_what_tensorrt_accepts(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    graph = load_graph(quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration).path).graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
        assert constants[node.input[1]].dtype == np.float16
    quantised = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == len(set(quantised))  # one pair where several layers read the same tensor


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8])
def test_tensorrt_builds_a_plan_of_it(model: Artifact, calibration: Calibration, precision: Precision, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="builds a real plan")
    graph = quantize(model, tmp_path / "q.onnx", precision, calibration=calibration)
    plan = build(graph, tmp_path / "q.plan", flavour=Flavour.TENSORRT_RTX).artifact
    assert plan.manifest.precision is precision
    assert plan.manifest.size_bytes > 10_000


def test_the_cpu_form_runs_in_integer_kernels_throughout(tmp_path: Path) -> None:
    model = artifact_of(alexnet_like(), tmp_path)
    calibration = calibrate(model, PictureSet.open("demo:train").subset(range(32)), method="minmax")
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration)
    kernels = fused_operators(load_graph(made.path))
    assert kernels.count("QLinearConv") == 3
    assert kernels.count("QGemm") == 2
    assert "Relu" not in kernels
    assert kernels.count("QuantizeLinear") == 1  # the input; everything after it stays in integers


def test_the_cpu_form_means_the_same_in_integer_kernels(
    model: Artifact, calibration: Calibration, held_out: PictureSet, tmp_path: Path
) -> None:
    made = quantize(
        model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration, reduce_range=not has_vnni()
    )
    graph = load_graph(made.path)
    batch = next(held_out.batches(model.manifest.preprocess, 64))[0]
    written, fused = (GraphRunner(graph, integer_kernels=on).run(batch)[0] for on in (False, True))
    assert relative_error(written, fused) < 1e-3


@pytest.mark.parametrize("form", GraphForm)
def test_skipped_layers_stay_as_they_were(model: Artifact, calibration: Calibration, form: GraphForm, tmp_path: Path) -> None:
    made = quantize(
        model,
        tmp_path / "q.onnx",
        Precision.INT8,
        form=form,
        calibration=calibration,
        skip=("first", model.manifest.layers[2].layer),
    )
    rest = Precision.FP16 if form is GraphForm.TENSORRT else Precision.FP32
    found = [layer.precision for layer in made.manifest.layers]
    assert found[0] == found[2] == rest
    assert set(found[1:2] + found[3:]) == {Precision.INT8}


def test_layers_that_share_weights_each_have_room_for_their_bias(tmp_path: Path) -> None:
    """A bias that is huge beside its weights makes their scale coarser: for its own layer alone."""
    net = Net()
    x = net.op("Relu", net.conv("input", "stem", (8, 3)))
    shared, huge = net.weight("shared", 8, 8, 3, 3), numpy_helper.from_array(np.full(8, 1e9, np.float32), "huge")
    net.weights.append(huge)
    first, second = (net.op("Conv", x, shared, *bias, pads=[1] * 4) for bias in ((), ("huge",)))
    x = net.op("Add", first, net.op("Mul", net.op("Relu", second), net.op("Constant", value_float=1e-12)))
    net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), "head", (CLASSES, 8), out="logits")
    model = artifact_of(net.model(), tmp_path)
    made = quantize(
        model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibrate(model, PICTURES, method="minmax")
    )
    assert error_of(made, model, PICTURES.subset(range(8))) < 0.1


def test_a_bias_beyond_float16_keeps_the_rest_in_float32(tmp_path: Path) -> None:
    """It is in range as it was written, and no more once its layer's data is shifted."""
    net = Net()
    x = net.op("Relu", net.conv("input", "stem", (8, 3)))
    far = net.op("Add", x, net.op("Constant", value_float=20000.0))
    net.gemm(net.op("Flatten", net.op("GlobalAveragePool", far)), "head", (CLASSES, 8), out="logits")
    head = next(tensor for tensor in net.weights if tensor.name == "head.weight")
    head.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(head)) + np.float32(1), head.name))
    model = artifact_of(net.model(), tmp_path)
    calibration = calibrate(model, PICTURES, method="minmax")
    assert calibration.record.shifted
    with pytest.warns(FallbackWarning, match="bias.*beyond float16"):
        made = quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration)
    assert error_of(made, model, PICTURES.subset(range(8))) < 0.05


def test_weights_keep_to_7_bits_where_asked(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    for reduce_range, largest in ((True, 64), (False, 127)):
        made = quantize(
            model,
            tmp_path / "q.onnx",
            Precision.INT8,
            form=GraphForm.CPU,
            calibration=calibration,
            reduce_range=reduce_range,
        )
        stored = [onnx.numpy_helper.to_array(i) for i in load_graph(made.path).graph.initializer if i.data_type == 3]
        assert max(np.abs(values.astype(int)).max() for values in stored) == largest
        assert made.manifest.reduce_range is reduce_range


def test_by_default_the_cpu_decides_about_7_bits(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    made = quantize(model, tmp_path / "q.onnx", Precision.INT8, form=GraphForm.CPU, calibration=calibration)
    assert made.manifest.reduce_range is not has_vnni()


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8])
def test_without_a_calibration_8_bits_are_refused(model: Artifact, precision: Precision, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="needs ranges"):
        quantize(model, tmp_path / "q.onnx", precision)
    assert not (tmp_path / "q.onnx").exists()


def test_the_calibration_of_another_graph_is_refused(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    other = artifact_of(alexnet_like(seed=9), tmp_path)
    with pytest.raises(CalibrationError, match="another graph"):
        quantize(other, tmp_path / "q.onnx", Precision.INT8, calibration=calibration)


def test_an_unknown_layer_is_refused_and_the_known_ones_are_named(
    model: Artifact, calibration: Calibration, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"no layer nonsense.*{model.manifest.layers[1].layer}"):
        quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration, skip=("nonsense",))


def test_a_graph_that_is_quantised_already_is_refused(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    once = quantize(model, tmp_path / "q.onnx", Precision.INT8, calibration=calibration)
    with pytest.raises(InputError, match="is int8"):
        quantize(once, tmp_path / "r.onnx", Precision.FP16)


def test_the_cpu_form_is_for_int8_alone(model: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CPU form of fp8"):
        quantize(model, tmp_path / "q.onnx", Precision.FP8, form=GraphForm.CPU, calibration=calibration)
