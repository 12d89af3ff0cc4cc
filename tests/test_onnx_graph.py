"""Reading, judging, normalising and writing ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import foreign_models
import numpy as np
import pytest
from click.testing import CliRunner
from foreign_models import ACCEPTED, REFUSED, SIZE, Net, save, trunk
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.artifact import Artifact, manifest_path
from alexnet_deploy.cli import main
from alexnet_deploy.errors import ArtifactCorrupt, ArtifactMissing, InputError, ModelError
from alexnet_deploy.files import file_sha256
from alexnet_deploy.manifest import Manifest, Preprocess
from alexnet_deploy.onnx_graph import adopt, describe, edit, load_graph, normalise, save_graph
from alexnet_deploy.onnx_graph.classifier import logits_of
from alexnet_deploy.onnx_graph.fold import fold_affine
from alexnet_deploy.onnx_graph.raw_input import accept_pixels
from alexnet_deploy.onnx_graph.running import function
from alexnet_deploy.onnx_graph.statistics import statistics
from alexnet_deploy.onnx_graph.widths import to_float32
from alexnet_deploy.preprocess import normalise as preprocess
from alexnet_deploy.quantization.quantize import quantize
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange, OutputKind, Precision


def random_input(model: ModelProto, count: int = 2) -> np.ndarray:
    spec, _, _ = describe(model)
    shape = (count, *(SIZE if n is None else n for n in spec.shape[1:]))
    random = np.random.default_rng(1)
    if spec.dtype == "uint8":
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape, np.float32)


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_adopted_model_speaks_the_dialect_and_answers_as_before(name: str, tmp_path: Path) -> None:
    foreign = ACCEPTED[name]()
    path = save(foreign.model, tmp_path / "model.onnx")
    before = file_sha256(path)
    artifact = adopt(path, foreign.recipe, output=tmp_path / "adopted.onnx")

    assert file_sha256(path) == before
    assert Artifact.open(artifact.path).manifest == artifact.manifest
    model = load_graph(artifact.path)
    assert edit.opset(model) >= 20
    assert [value.name for value in model.graph.input] == [artifact.manifest.input.name]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Constant", "ConstantOfShape", "Identity", "Dropout"}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert all(node.name for node in model.graph.node)
    weights = edit.initialisers(model.graph)
    assert all(node.input[1] in weights for node in edit.nodes_of(model.graph, "Conv", "Gemm"))
    assert artifact.manifest.input.shape[0] is None

    pixels = np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    fed = pixels if artifact.manifest.input.dtype == "uint8" else preprocess(pixels, foreign.recipe)
    old_fed = preprocess(pixels, foreign.recipe)
    if artifact.manifest.input.dtype == "uint8":
        old_fed = old_fed.astype(np.uint8)
    rows = [function(foreign.model)(old_fed[i : i + 1]).reshape(1, -1) for i in range(3)]
    np.testing.assert_allclose(function(model)(fed), np.concatenate(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_classifier_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    maker, words = REFUSED[name]
    path = save(maker(), tmp_path / "model.onnx")
    with pytest.raises((ModelError, InputError)) as caught:
        adopt(path, foreign_models.RECIPE, output=tmp_path / "adopted.onnx")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("inside", [True, False])
def test_floats_of_any_width_become_float32(dtype: type, inside: bool, tmp_path: Path) -> None:
    """`inside`: float32 comes in and goes out, and is cast."""
    width = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    net = Net()
    data = net.node("Cast", "data", to=width) if inside else "data"
    result = net.head(trunk(net, data), 16)
    model = net.model(net.node("Cast", result, to=TensorProto.FLOAT) if inside else result)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    if not inside:
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.elem_type = width
    artifact = adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE)
    adopted = load_graph(artifact.path)
    assert not list(edit.nodes_of(adopted.graph, "Cast"))
    assert {tensor.data_type for tensor in adopted.graph.initializer} == {TensorProto.FLOAT}
    assert artifact.manifest.precision is Precision.FP32
    assert artifact.manifest.input.dtype == "float32"
    shown = random_input(adopted)
    expected = ReferenceEvaluator(model).run(None, {"data": shown.astype(np.float32 if inside else dtype)})[0]
    np.testing.assert_allclose(
        function(adopted)(shown), expected, atol=(0.01 if dtype is np.float16 else 1e-4) * np.abs(expected).max()
    )


def grouped() -> ModelProto:
    """In float32 throughout, with 10, 11 and 16 in it, which as types of ONNX are float16, float64 and bfloat16."""
    net = Net()
    data = net.conv(trunk(net), 16, 16, group=16)
    flat = net.node("Reshape", net.node("GlobalAveragePool", data), net.constant([0, 16], np.int64))
    return net.model(net.gemm(net.node("Cast", flat, to=TensorProto.FLOAT), 16))


def with_weight(model: ModelProto) -> None:
    mask = numpy_helper.from_array(np.array([-1.7e308]), "mask")
    model.graph.initializer.append(mask)


def with_constant(model: ModelProto) -> None:
    half = numpy_helper.from_array(np.ones(1, np.float16))
    model.graph.node.append(helper.make_node("Constant", [], ["half"], value=half))


def with_cast(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["data"], ["wide"], to=TensorProto.DOUBLE))


def with_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16


def test_a_graph_in_float32_is_left_as_it_is() -> None:
    model = grouped()
    before = model.SerializeToString(deterministic=True)
    assert not to_float32(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("add", [with_weight, with_constant, with_cast, with_input])
def test_wherever_another_width_is_named_it_is_changed_once(add: Callable[[ModelProto], None]) -> None:
    model = grouped()
    add(model)
    assert to_float32(model)
    assert not to_float32(model)
    assert [edit.attribute(node, "group") for node in edit.nodes_of(model.graph, "Conv")][-1] == 16


def two_heads() -> ModelProto:
    """The same trunk with two heads, called age and kind."""
    net = Net()
    data = trunk(net)
    for name in ("age", "kind"):
        net.node("Identity", net.head(data, 16))
        net.nodes[-1].output[0] = name
    model = net.model("age")
    model.graph.output.append(helper.make_tensor_value_info("kind", TensorProto.FLOAT, ["N", 10]))
    return model


@pytest.mark.parametrize("head", ["age", "kind"])
def test_of_several_heads_one_is_named(head: str, tmp_path: Path) -> None:
    path = save(two_heads(), tmp_path / "model.onnx")
    words = ["adopt", str(path), "--preset", "zero-to-one", "--head", head, "-o", str(tmp_path / "one.onnx")]
    assert CliRunner().invoke(main, words).exit_code == 0
    adopted = load_graph(tmp_path / "one.onnx")
    shown = random_input(adopted)
    assert [output.name for output in adopted.graph.output] == [head]
    assert len(list(edit.nodes_of(adopted.graph, "Gemm"))) == 1
    np.testing.assert_allclose(function(adopted)(shown), function(two_heads(), head)(shown), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("head", "says"), [(None, "one that is plainly"), ("colour", "one called colour")])
def test_a_head_that_cannot_be_told_is_asked_for(head: str | None, says: str, tmp_path: Path) -> None:
    path = save(two_heads(), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=rf"2 outputs \(age, kind\); expected {says}.*--head NAME"):
        adopt(path, foreign_models.RECIPE, head=head)


@pytest.mark.parametrize(
    ("kind", "attributes", "dtype"), [("ArgMax", {"axis": 1}, TensorProto.INT64), ("ReduceMax", {"axes": [1]}, TensorProto.FLOAT)]
)
def test_an_output_beside_the_answer_is_dropped(kind: str, attributes: dict[str, object], dtype: int, tmp_path: Path) -> None:
    """MLPerf's ResNet gives the best class before all of them, others its score."""
    net = Net()
    result = net.head(trunk(net), 16)
    model = net.model(result)
    model.graph.node.append(helper.make_node(kind, [result], ["beside"], **attributes))
    model.graph.output.insert(0, helper.make_tensor_value_info("beside", dtype, ["N", 1]))
    artifact = adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE)
    assert artifact.manifest.output.name == result
    assert artifact.manifest.output_kind is OutputKind.LOGITS
    assert "other outputs dropped" in artifact.manifest.notes


@pytest.mark.parametrize("axes", [[1], [1, 2], [2, 3, 4], [1, 3]])
def test_axes_of_length_1_are_taken_out_of_the_answer(axes: list[int], tmp_path: Path) -> None:
    net = Net()
    result = net.head(trunk(net), 16)
    shape: list[int | str] = ["N", 10]
    for axis in axes:
        shape.insert(axis, 1)
    model = net.model(net.node("Unsqueeze", result, net.constant(axes, np.int64)), output_shape=tuple(shape))
    artifact = adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE)
    assert artifact.manifest.notes == "adopted from model.onnx: opset 13 to 20, output flattened to (N, classes)"
    adopted = load_graph(artifact.path)
    shown = random_input(adopted)
    np.testing.assert_allclose(function(adopted)(shown), function(model)(shown).reshape(2, 10), rtol=1e-4, atol=1e-5)


def test_the_answer_to_a_single_picture_may_come_without_a_batch(tmp_path: Path) -> None:
    net = Net()
    alone = net.node("Squeeze", net.head(trunk(net), 16), net.constant([0], np.int64))
    model = net.model(alone, input_shape=(1, 3, SIZE, SIZE), output_shape=(10,))
    artifact = adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE)
    assert (artifact.manifest.output.shape, artifact.manifest.batch) == ((1, 10), BatchRange(1, 1, 1))


def test_a_number_a_picture_is_no_answer(tmp_path: Path) -> None:
    """Sixteen scores for sixteen pictures are not sixteen classes."""
    net = Net()
    scores = net.node("ReduceMax", net.head(trunk(net), 16), axes=[1], keepdims=0)
    with pytest.raises(ModelError, match=r"16 pictures give an output of \(1, 16\)"):
        adopt(
            save(net.model(scores, input_shape=(16, 3, SIZE, SIZE), output_shape=(16,)), tmp_path / "model.onnx"),
            foreign_models.RECIPE,
        )


def test_the_only_output_may_be_named_too(tmp_path: Path) -> None:
    model = foreign_models.residual().model
    artifact = adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE, head=model.graph.output[0].name)
    assert "dropped" not in artifact.manifest.notes


def test_a_batch_that_is_only_said_to_be_open_is_fixed_to_one(tmp_path: Path) -> None:
    """As an exporter writes it that was asked for an open batch and traced the size of its example."""
    net = Net()
    flat = net.node("Reshape", trunk(net), net.constant([1, 16 * 8 * 8], np.int64))
    artifact = adopt(save(net.model(net.gemm(flat, 16 * 8 * 8)), tmp_path / "model.onnx"), foreign_models.RECIPE)
    assert artifact.manifest.batch == BatchRange(1, 1, 1)
    assert artifact.manifest.notes.endswith("batch fixed to 1")


def test_nodes_of_one_name_or_none_are_told_apart(tmp_path: Path) -> None:
    """onnxruntime refuses such a graph; TensorRT and others do not, and names mean nothing."""
    model = foreign_models.residual().model
    for index, node in enumerate(model.graph.node):
        node.name = "layer" if index % 2 else ""
    adopted = load_graph(adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE).path)
    names = [node.name for node in adopted.graph.node]
    assert all(names)
    assert len({*names}) == len(names)


def test_einsum_gets_letters_that_every_engine_reads(tmp_path: Path) -> None:
    net = Net()
    data = trunk(net)
    mixed = net.node("Einsum", data, net.weight(8, 8), equation=" B C H W, W a -> B C H a")
    model = net.model(net.head(mixed, 16))
    adopted = load_graph(adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE).path)
    (einsum,) = edit.nodes_of(adopted.graph, "Einsum")
    assert edit.attribute(einsum, "equation") == b"abcd,de->abce"
    np.testing.assert_allclose(function(adopted)(random_input(model)), function(model)(random_input(model)), rtol=1e-4, atol=1e-5)


def test_rows_that_depend_on_each_other_are_refused_as_that(tmp_path: Path) -> None:
    """As batch normalisation in training mode, and dynamic quantisation, leave them."""
    net = Net()
    result = net.head(trunk(net), 16)
    model = net.model(net.node("Sub", result, net.node("ReduceMean", result, axes=[0])))
    with pytest.raises(ModelError, match=r"depends on its neighbours .*evaluation mode"):
        adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE)


def probabilities_by_hand(kind: str) -> ModelProto:
    net = Net()
    if kind == "softmax":
        powers = net.node("Exp", net.head(trunk(net), 16))
        return net.model(net.node("Div", powers, net.node("ReduceSum", powers, net.constant([1], np.int64))))
    flat = net.node("Flatten", net.node("GlobalAveragePool", trunk(net)))
    yes = net.node("Sigmoid", net.gemm(flat, 16, 1))
    no = net.node("Sub", net.constant([1.0], np.float32), yes)
    return net.model(net.node("Concat", no, yes, axis=1), output_shape=("N", 2))


@pytest.mark.parametrize("kind", ["softmax", "yes or no"])
def test_probabilities_are_known_by_their_sum_whatever_made_them(kind: str, tmp_path: Path) -> None:
    model = probabilities_by_hand(kind)
    artifact = adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE)
    half = quantize(artifact, tmp_path / "half.onnx", Precision.FP16)
    shown = random_input(load_graph(artifact.path))
    for made in (artifact, half):
        assert made.manifest.output_kind is OutputKind.PROBABILITIES
        with Runtime(made.path) as runtime:
            np.testing.assert_allclose(runtime.predict(shown), function(model)(shown), atol=1e-2)


def test_batch_normalisation_after_a_convolution_is_folded_and_elsewhere_kept() -> None:
    model = foreign_models.batch_normalisation().model
    assert "products and sums a channel folded into layers" in normalise(model)
    kept = list(edit.nodes_of(model.graph, "BatchNormalization"))
    assert len(kept) == 1
    assert edit.producers(model.graph)[kept[0].input[0]].op_type == "MaxPool"


def test_products_and_sums_behind_a_layer_become_part_of_it() -> None:
    for maker in (foreign_models.scale_layers, foreign_models.biases_of_all_shapes):
        model = maker().model
        normalise(model)
        assert not list(edit.nodes_of(model.graph, "Mul", "Add", "Sub"))
        for gemm in edit.nodes_of(model.graph, "Gemm"):
            assert {found.name for found in gemm.attribute} <= {"transB"}
            assert len(edit.initialisers(model.graph)[gemm.input[2]].dims) == 1


@pytest.mark.parametrize(
    ("kind", "swapped"), [(kind, swapped) for kind in ("Add", "Sub", "Mul", "Div") for swapped in (False, True)]
)
@pytest.mark.parametrize("shape", [(), (1,), (8, 1, 1), (1, 8, 1, 1), (32,), (1, 1, 32, 1), (2, 1, 8, 1, 1)])
def test_what_is_folded_into_a_convolution_is_one_number_a_channel(kind: str, swapped: bool, shape: tuple[int, ...]) -> None:
    net = Net()
    operands = [net.conv("data", 8, 3), net.constant(np.random.default_rng(3).uniform(0.5, 1.5, shape), np.float32)]
    model = net.model(net.node(kind, *operands[:: -1 if swapped else 1]), output_shape=())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    batch = np.random.default_rng(4).standard_normal((2, 3, SIZE, SIZE), np.float32)
    before = ReferenceEvaluator(model).run(None, {"data": batch})[0]
    folded = fold_affine(model)
    assert folded == (shape in ((), (1,), (8, 1, 1), (1, 8, 1, 1)) and (kind, swapped) != ("Div", True))
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"data": batch})[0], before, rtol=1e-4, atol=1e-5)


def test_what_nobody_reads_is_not_folded_into_the_answer(tmp_path: Path) -> None:
    """As an output that was cut off leaves it behind."""
    net = Net()
    result = net.head(trunk(net), 16)
    net.node("Mul", result, net.constant([2.0], np.float32))
    model = net.model(result)
    adopted = load_graph(adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE).path)
    assert not list(edit.nodes_of(adopted.graph, "Mul"))
    np.testing.assert_allclose(function(adopted)(random_input(model)), function(model)(random_input(model)), rtol=1e-4, atol=1e-5)


def half_precision() -> ModelProto:
    model = foreign_models.residual().model
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize("maker", [lambda: foreign_models.fully_convolutional().model, half_precision, two_heads])
def test_an_inspected_graph_that_adopt_would_take_is_told_so(maker: Callable[[], ModelProto]) -> None:
    with pytest.raises(ModelError, match="alexnet-deploy adopt, which"):
        describe(maker())


def test_a_batch_that_cannot_be_opened_stays_fixed(tmp_path: Path) -> None:
    net = Net()
    doubled = net.node("Add", net.head(trunk(net), 16), net.constant(np.zeros((1, 10)), np.float32))
    fixed = net.node("Squeeze", net.node("Unsqueeze", doubled, net.constant([0], np.int64)), net.constant([0, 1], np.int64))
    result = net.node("Unsqueeze", fixed, net.constant([0], np.int64))
    model = net.model(result, input_shape=(1, 3, SIZE, SIZE), output_shape=(1, 10))
    artifact = adopt(save(model, tmp_path / "model.onnx"), foreign_models.RECIPE)
    assert artifact.manifest.batch == BatchRange(1, 1, 1)
    assert artifact.manifest.input.shape[0] == 1
    assert "batch" not in artifact.manifest.notes


def test_of_a_graph_that_speaks_the_dialect_nothing_was_changed(tmp_path: Path) -> None:
    foreign = foreign_models.newest_opset()
    artifact = adopt(save(foreign.model, tmp_path / "model.onnx"), foreign.recipe)
    assert artifact.manifest.notes == "adopted from model.onnx"


@pytest.mark.parametrize(
    ("maker", "kind"),
    [
        (foreign_models.residual, OutputKind.LOGITS),
        (foreign_models.softmax_at_the_end, OutputKind.PROBABILITIES),
        (foreign_models.log_softmax_at_the_end, OutputKind.LOGITS),
    ],
)
def test_what_the_output_means_is_read_from_the_graph(maker: object, kind: OutputKind) -> None:
    assert describe(maker().model)[2] is kind  # type: ignore[operator]


@pytest.mark.parametrize(
    ("behind", "steps_back"),
    [((), 0), (("Flatten",), 0), (("Softmax",), 1), (("LogSoftmax",), 1), (("Flatten", "Softmax", "Flatten", "Identity"), 3)],
)
def test_the_logits_are_found_in_front_of_a_softmax(behind: tuple[str, ...], steps_back: int) -> None:
    net = Net()
    tensors = [net.head(trunk(net), 16)]
    for kind in behind:
        tensors.append(net.node(kind, tensors[-1]))
    assert logits_of(net.model(tensors[-1])) == tensors[-1 - steps_back]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return save(foreign_models.residual().model, tmp_path / "sound.onnx")


def test_a_missing_file_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        load_graph(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_graph_is_refused(sound: Path, kept: float) -> None:
    content = sound.read_bytes()
    sound.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises((ArtifactCorrupt, ModelError)):
        load_graph(sound)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not a model", b"\x08\x08", bytes(range(256)) * 10])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises((ArtifactCorrupt, ModelError)):
        load_graph(path)


def test_weights_in_a_file_beside_the_model_are_taken_in(tmp_path: Path) -> None:
    foreign = foreign_models.residual()
    path = save(foreign.model, tmp_path / "model.onnx", external=True)
    assert (tmp_path / "model.weights").is_file()
    artifact = adopt(path, foreign.recipe)
    (tmp_path / "model.weights").unlink()
    fed = random_input(foreign.model)
    np.testing.assert_allclose(function(load_graph(artifact.path))(fed), function(foreign.model)(fed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"location": "../secret"},
        {"location": "/etc/passwd"},
        {"location": "..\\secret"},
        {"location": ""},
        {"location": "."},
        {"location": "nothing.weights"},
        {"offset": "9999999999"},
        {"offset": "-4"},
        {"length": "1000000000000"},
        {"length": "many"},
    ],
)
def test_weights_that_stand_elsewhere_are_refused(tmp_path: Path, change: dict[str, str]) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"s" * 100_000)
    path = save(foreign_models.residual().model, folder / "model.onnx", external=True)
    model = ModelProto.FromString(path.read_bytes())
    entries = {entry.key: entry.value for entry in model.graph.initializer[0].external_data} | change
    del model.graph.initializer[0].external_data[:]
    for key, value in entries.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError):
        load_graph(path)


def test_weights_behind_a_link_that_leads_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = save(foreign_models.residual().model, folder / "model.onnx", external=True)
    (folder / "model.weights").rename(tmp_path / "elsewhere")
    (folder / "model.weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="leads elsewhere"):
        load_graph(path)


def test_an_initialiser_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    model = foreign_models.residual().model
    model.graph.initializer[0].dims[:] = [100_000, 100_000]
    with pytest.raises(ModelError, match="elements"):
        load_graph(save(model, tmp_path / "model.onnx"))


def test_a_written_graph_holds_no_metadata(tmp_path: Path) -> None:
    model = foreign_models.residual().model
    normalise(model)
    secret = "/home/somebody/project/model.py"
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = secret
    model.producer_name = secret
    model.graph.node[0].metadata_props.add(key="stack", value=secret)
    model.graph.initializer[0].doc_string = secret
    model.metadata_props.add(key="path", value=secret)
    given, result, _ = describe(model)
    manifest = Manifest(kind="onnx", input=given, output=result, preprocess=foreign_models.RECIPE, batch=BatchRange())
    artifact = save_graph(model, tmp_path / "model.onnx", manifest)
    assert secret.encode() not in artifact.path.read_bytes()
    assert [(x.op, x.precision) for x in artifact.manifest.layers][-1] == ("Gemm", Precision.FP32)


def test_the_same_graph_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    foreign = foreign_models.concatenation()
    path = save(foreign.model, tmp_path / "model.onnx")
    hashes = {adopt(path, foreign.recipe, output=tmp_path / f"{i}.onnx").manifest.sha256 for i in range(2)}
    assert len(hashes) == 1


def test_a_graph_that_the_checker_refuses_is_not_written(tmp_path: Path) -> None:
    model = foreign_models.residual().model
    given, result, _ = describe(model)
    model.graph.node[0].input[1] = "nowhere"
    manifest = Manifest(kind="onnx", input=given, output=result, preprocess=foreign_models.RECIPE, batch=BatchRange())
    with pytest.raises(ModelError):
        save_graph(model, tmp_path / "model.onnx", manifest)
    assert not list(tmp_path.iterdir())


def test_the_original_is_never_overwritten(sound: Path) -> None:
    with pytest.raises(InputError, match="original"):
        adopt(sound, foreign_models.RECIPE, output=sound)
    assert not manifest_path(sound).exists()


@pytest.mark.parametrize(
    "recipe",
    [
        Preprocess(height=SIZE, width=SIZE + 1),
        Preprocess(height=SIZE, width=SIZE, layout="nhwc"),
        Preprocess(height=SIZE, width=SIZE, mean=(0.0,), std=(1.0,), channel_order="grey"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(sound: Path, recipe: Preprocess) -> None:
    with pytest.raises(InputError, match="the graph takes"):
        adopt(sound, recipe)


def test_the_number_of_labels_must_be_that_of_the_classes(sound: Path) -> None:
    with pytest.raises(InputError, match="3 labels for 10 classes"):
        adopt(sound, foreign_models.RECIPE, ["a", "b", "c"])


@settings(deadline=None, max_examples=40)
@given(
    order=st.sampled_from(["rgb", "bgr", "grey"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    scale=st.sampled_from([1.0, 1 / 255, 1 / 127.5]),
    numbers=st.lists(st.floats(0.1, 200), min_size=6, max_size=6),
)
def test_preprocessing_in_the_graph_equals_preprocessing_outside(
    order: str, layout: str, scale: float, numbers: list[float]
) -> None:
    channels = 1 if order == "grey" else 3
    recipe = Preprocess(
        height=6,
        width=5,
        scale=scale,
        mean=tuple(numbers[:channels]),
        std=tuple(numbers[3 : 3 + channels]),
        channel_order=order,  # type: ignore[arg-type]
        layout=layout,  # type: ignore[arg-type]
    )
    net = Net(opset=20)
    scores = net.node("Flatten", net.node("Neg", net.node("Neg", "data")))
    model = net.model(scores, input_shape=("N", *recipe.input_shape), output_shape=("N", 30 * channels))
    left = accept_pixels(model, recipe)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), np.uint8)
    inside = function(model)(pixels)
    # A fused multiply-add may round once where numpy rounds twice.
    np.testing.assert_allclose(
        inside, preprocess(pixels, recipe).reshape(2, -1), rtol=2e-6, atol=2e-6 * 255 * scale / min(recipe.std)
    )
    assert (left.scale, left.layout, left.channel_order) == (1.0, "nhwc", "rgb")
    assert describe(model)[0].dtype == "uint8"


def test_statistics_count_what_the_literature_counts() -> None:
    """One convolution 3 -> 8 of 3x3 at 32x32, one Gemm 8 -> 10, by hand."""
    net = Net(opset=20)
    model = net.model(net.head(net.relu(net.conv("data", 8, 3)), 8))
    found = statistics(model)
    assert found.parameters == (3 * 8 * 9 + 8) + (8 * 10 + 10)
    assert found.multiply_adds == 32 * 32 * 8 * 27 + 80
    assert found.layers[0].shape == (8, 32, 32)
    assert found.peak_bytes == 2 * 8 * 32 * 32 * 4
    assert found.ops["Conv"] == 1


def test_what_is_learnt_is_counted_whatever_it_is_written_as() -> None:
    """An int32 bias is learnt, the bounds of a Clip and the border of a Pad are not; two 4-bit weights share a byte."""
    net = Net(opset=20)
    scale, zero = net.constant(0.1, np.float32), net.constant(0, np.int8)
    weight = net.node("DequantizeLinear", net.constant(np.ones((8, 3, 3, 3)), np.int8), scale, zero)
    bias = net.node("DequantizeLinear", net.constant(np.ones(8), np.int32), scale)
    border = net.node("Pad", "data", net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), net.constant(0.5, np.float32))
    clipped = net.node("Clip", net.node("Conv", border, weight, bias), net.constant(0, np.float32), net.constant(6, np.float32))
    pooled = net.node("Flatten", net.node("MaxPool", clipped, kernel_shape=[16, 16], strides=[16, 16]))
    packed = [net.constant(np.ones((10, 1, 16)), np.uint8), net.constant(np.ones(10), np.float32)]
    scores = net.node("MatMulNBits", pooled, *packed, K=32, N=10, bits=4, block_size=32, domain="com.microsoft")
    model = net.model(net.node("Add", scores, net.constant(np.ones(10), np.float32)))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = {layer.op: layer for layer in statistics(model).layers}
    assert {op: layer.parameters for op, layer in found.items() if layer.parameters} == {
        "Conv": 3 * 8 * 9 + 8,
        "MatMulNBits": 32 * 10,
        "Add": 10,
    }
    assert found["MatMulNBits"].parameter_bytes == 160
    assert found["MatMulNBits"].multiply_adds == 320


def test_grouped_convolutions_cost_a_share() -> None:
    net = Net(opset=20)
    whole = statistics(net.model(net.head(net.conv("data", 6, 3, 1, bias=False), 6)))
    net = Net(opset=20)
    grouped = statistics(net.model(net.head(net.conv("data", 6, 3, 1, group=3, bias=False), 6)))
    assert grouped.layers[0].multiply_adds * 3 == whole.layers[0].multiply_adds


def test_the_precision_of_a_layer_is_read_from_its_operands() -> None:
    net = Net(opset=20)
    scale, zero = net.constant(0.1, np.float32), net.constant(0, np.int8)
    quantised = net.node("DequantizeLinear", net.node("QuantizeLinear", "data", scale, zero), scale, zero)
    stored = net.node("DequantizeLinear", net.constant(np.ones((8, 3, 3, 3)), np.int8), scale, zero)
    both = net.node("Conv", quantised, stored, kernel_shape=[3, 3])
    weights_only = net.node("Conv", both, net.node("DequantizeLinear", net.constant(np.ones((8, 8, 3, 3)), np.int8), scale, zero))
    model = net.model(net.head(weights_only, 8))
    found = [layer.precision for layer in statistics(model).layers if layer.precision]
    assert found == [Precision.INT8, Precision.FP32, Precision.FP32]


def test_an_unused_weight_is_dropped() -> None:
    model = foreign_models.residual().model
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1000, np.float32), "unused"))
    model.graph.node.append(helper.make_node("Relu", ["data"], ["unread"]))
    normalise(model)
    assert "unused" not in edit.initialisers(model.graph)
    assert all(output != "unread" for node in model.graph.node for output in node.output)


def test_a_typed_output_is_needed() -> None:
    model = foreign_models.residual().model
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(ModelError):
        describe(model)
