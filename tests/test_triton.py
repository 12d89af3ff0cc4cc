"""Model repositories, read back with the schema that Triton's own client ships, and their graphs really run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.cli import main
from alexnet_deploy.errors import InputError
from alexnet_deploy.manifest import FileReference, PlanRecord, Preprocess
from alexnet_deploy.preprocess import normalise
from alexnet_deploy.serving.sources import Sources
from alexnet_deploy.triton import write_repository
from alexnet_deploy.triton.config import config_text
from alexnet_deploy.triton.containers import GRAPHS_IMAGE, TENSORRT_IN_CONTAINER
from alexnet_deploy.triton.ensemble import preprocessing_graph
from alexnet_deploy.types import BatchRange, Flavour, GraphForm, Precision, TensorSpec
from tests.tiny import LABELS, SIZE, picture_batch, tiny_artifact, tiny_graph

schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")


def parsed(folder: Path) -> Any:
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def tiny_plan(path: Path, version: str = "10.14.1.48", flavour: Flavour = Flavour.TENSORRT, **changes: Any) -> Artifact:
    """A plan's manifest over bytes that mean nothing: nobody loads it here."""
    graph = tiny_artifact(path.with_suffix(".onnx"))
    record = PlanRecord(flavour=flavour, version=version, capabilities=("sm90",))
    return write_artifact(path, structs.replace(graph.manifest, kind="plan", plan=record, **changes), b"vtrt")


def test_a_graph_becomes_a_model_that_the_schema_reads(tmp_path: Path) -> None:
    model = tiny_artifact(tmp_path / "alexnet.int8.onnx")
    report = write_repository([str(model.path)], tmp_path / "repo", instances=2, max_delay_us=500)
    config = parsed(tmp_path / "repo" / "alexnet_int8")
    assert (config.name, config.platform, config.max_batch_size) == ("alexnet_int8", "onnxruntime_onnx", 8)
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("input", schema.TYPE_FP32, [3, SIZE, SIZE])]
    assert [(t.name, list(t.dims), t.label_filename) for t in config.output] == [("output", [len(LABELS)], "labels.txt")]
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(g.count, g.kind) for g in config.instance_group] == [(2, schema.ModelInstanceGroup.KIND_AUTO)]
    assert [w.batch_size for w in config.model_warmup] == [1, 8]
    assert all(w.inputs["input"].zero_data for w in config.model_warmup)
    assert (tmp_path / "repo" / "alexnet_int8" / "labels.txt").read_text().split() == list(LABELS)
    assert report.image == GRAPHS_IMAGE
    assert report.command.startswith("docker run --rm --gpus=all ")
    assert f"-v {tmp_path}/repo:/models:ro {GRAPHS_IMAGE} tritonserver" in report.command


def test_a_plan_goes_with_the_container_that_holds_its_tensorrt(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path / "fast.plan", version="10.13.3.9")
    report = write_repository([str(plan.path)], tmp_path / "repo")
    config = parsed(tmp_path / "repo" / "fast")
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert [g.kind for g in config.instance_group] == [schema.ModelInstanceGroup.KIND_GPU]
    assert report.image.endswith(":26.02-trtllm-python-py3")
    assert (tmp_path / "repo" / "fast" / "1" / "model.plan").read_bytes() == b"vtrt"


def test_every_model_has_its_manifest_beside_it(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path / "fast.plan", twin=FileReference(file="fast.onnx", sha256="0" * 64))
    write_repository([str(plan.path), f"exact={tmp_path / 'fast.onnx'}"], tmp_path / "repo")
    copied = Artifact.open(tmp_path / "repo" / "fast" / "1" / "model.plan")
    assert (copied.manifest.sha256, copied.manifest.twin) == (plan.manifest.sha256, None)
    assert sorted(Sources([str(tmp_path / "repo")]).names()) == ["exact", "fast"]  # what `serve` makes of it
    assert Artifact.open(tmp_path / "repo" / "exact" / "1" / "model.onnx").manifest.labels == LABELS


@pytest.mark.parametrize(
    ("device", "form", "kind"),
    [("auto", None, "KIND_AUTO"), ("cpu", None, "KIND_CPU"), ("gpu", None, "KIND_GPU"), ("auto", GraphForm.CPU, "KIND_CPU")],
)
def test_graphs_run_where_they_are_meant_for(tmp_path: Path, device: Any, form: GraphForm | None, kind: str) -> None:
    model = tiny_artifact(tmp_path / "m.onnx", form=form, precision=Precision.INT8 if form else Precision.FP32)
    report = write_repository([str(model.path)], tmp_path / "repo", device=device)
    assert [schema.ModelInstanceGroup.Kind.Name(g.kind) for g in parsed(tmp_path / "repo" / "m").instance_group] == [kind]
    assert ("--gpus" in report.command) == (device != "cpu")


def test_a_graph_written_for_tensorrt_is_not_given_to_onnxruntime(tmp_path: Path) -> None:
    model = tiny_artifact(tmp_path / "m.onnx", precision=Precision.INT8, form=GraphForm.TENSORRT)
    with pytest.raises(InputError, match="written for TensorRT"):
        write_repository([str(model.path)], tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_a_fixed_batch_is_an_ordinary_axis(tmp_path: Path) -> None:
    loose = tiny_artifact(tmp_path / "m.onnx", batch=BatchRange(4, 4, 4))
    fixed = structs.replace(
        loose.manifest,
        input=structs.replace(loose.manifest.input, shape=(4, 3, SIZE, SIZE)),
        output=structs.replace(loose.manifest.output, shape=(4, len(LABELS))),
    )
    write_artifact(loose.path, fixed, tiny_graph(batch=4).SerializeToString())
    write_repository([str(loose.path)], tmp_path / "repo")
    config = parsed(tmp_path / "repo" / "m")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [4, 3, SIZE, SIZE])
    assert not config.HasField("dynamic_batching")
    with pytest.raises(InputError, match=r"batches of 4 only.*--input uint8"):
        write_repository([str(loose.path)], tmp_path / "pixels", pixels=True)
    assert not (tmp_path / "pixels").exists()


def test_an_ensemble_takes_pictures_and_gives_what_the_model_gives(tmp_path: Path) -> None:
    model = tiny_artifact(tmp_path / "m.onnx")
    report = write_repository([str(model.path)], tmp_path / "repo", pixels=True)
    assert [m.name for m in report.models] == ["m", "m_preprocess", "m_pixels"]
    first, both = parsed(tmp_path / "repo" / "m_preprocess"), parsed(tmp_path / "repo" / "m_pixels")
    assert both.platform == "ensemble"
    assert (both.input[0].data_type, list(both.input[0].dims)) == (schema.TYPE_UINT8, [SIZE, SIZE, 3])
    assert (tmp_path / "repo" / "m_pixels" / "1").is_dir()
    # The steps, carried out as Triton would: tensors by the ensemble's names, models by their folders.
    tensors: dict[str, Any] = {both.input[0].name: picture_batch(5, SIZE, SIZE)}
    for step in both.ensemble_scheduling.step:
        path = tmp_path / "repo" / step.model_name / "1" / "model.onnx"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        given = {own: tensors[shared] for own, shared in step.input_map.items()}
        for own, shared in step.output_map.items():
            (tensors[shared],) = session.run([own], given)
    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"input": normalise(tensors["pixels"], model.manifest.preprocess)})
    np.testing.assert_allclose(tensors[both.output[0].name], wanted, rtol=1e-5, atol=1e-5)
    assert list(first.output[0].dims) == [3, SIZE, SIZE]


RECIPES = {
    "torchvision": Preprocess(height=9, width=7),
    "caffe": Preprocess(height=9, width=7, scale=1.0, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), channel_order="bgr"),
    "grey": Preprocess(height=9, width=7, mean=(0.5,), std=(0.25,), channel_order="grey"),
    "nhwc": Preprocess(height=9, width=7, layout="nhwc"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_preprocessing_graph_is_the_recipe(name: str) -> None:
    recipe = RECIPES[name]
    graph = preprocessing_graph(recipe, TensorSpec("prepared", "float32", (None, *recipe.input_shape)))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = picture_batch(3, 9, 7)
    (found,) = session.run(["prepared"], {"pixels": pixels})
    np.testing.assert_allclose(found, normalise(pixels, recipe), rtol=1e-5, atol=1e-5)


def test_what_triton_cannot_read_is_refused(tmp_path: Path) -> None:
    rtx = tiny_plan(tmp_path / "r.plan", "1.7.1.116", Flavour.TENSORRT_RTX, twin=FileReference(file="r.onnx", sha256="0" * 64))
    old, new = tiny_plan(tmp_path / "a.plan", "10.9.0.34"), tiny_plan(tmp_path / "b.plan", "10.14.1.48")
    unknown = tiny_plan(tmp_path / "c.plan", "11.4.0.12")
    for specs, says, fix in (
        ([rtx], "tensorrt-rtx, which Triton does not have", "its graph r.onnx"),
        ([unknown], "TensorRT 11.4.0.12, which no Triton container", "--image"),
        ([old, new], r"TensorRT 10\.14\.1\.48 and 10\.9\.0\.34", ""),
        ([old, old], "two models would be called a", "other=a"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            write_repository([str(artifact.path) for artifact in specs], tmp_path / "repo")
        assert fix in caught.value.fix
    assert not (tmp_path / "repo").exists()


def test_a_container_may_be_named_unless_the_table_speaks_against_it(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path / "a.plan", "11.4.0.12")
    own = "registry.example/triton:11"
    report = write_repository([str(plan.path)], tmp_path / "repo", image=own)
    assert report.image == own
    assert f":/models:ro {own} tritonserver" in report.command
    with pytest.raises(InputError, match=r"TensorRT 11\.4\.0\.12; expected 10\.14\.1\.48"):
        write_repository([str(plan.path)], tmp_path / "other", image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3")
    assert not (tmp_path / "other").exists()


def test_the_newest_release_comes_first() -> None:
    assert list(TENSORRT_IN_CONTAINER) == sorted(TENSORRT_IN_CONTAINER, reverse=True)


@given(st.text(), st.integers(-(2**31), 2**31 - 1), st.booleans())
def test_any_text_survives_the_text_format(text: str, number: int, flag: bool) -> None:
    from google.protobuf import text_format

    text = text.encode("utf-8", "ignore").decode()
    written = config_text({"name": text, "max_batch_size": number, "model_warmup": [{"name": text, "inputs": []}]})
    read = text_format.Parse(written, schema.ModelConfig())
    assert (read.name, read.max_batch_size, read.model_warmup[0].name) == (text, number, text)


def test_the_command_prints_the_docker_line(tmp_path: Path) -> None:
    model = tiny_artifact(tmp_path / "m.onnx")
    arguments = ["triton-repo", f"net={model.path}", "-o", str(tmp_path / "repo"), "--pixels"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "\ndocker run --rm --gpus=all -p 8000:8000" in shown.stdout
    as_json = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert [m["name"] for m in as_json["models"]] == ["net", "net_preprocess", "net_pixels"]
