"""The official tritonclient, unchanged, against our server: HTTP and gRPC give what Runtime gives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.backends.fake import write_fake
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.serving.server import Server
from alexnet_deploy.types import OutputKind, TensorSpec
from tests.patience import PATIENCE_S
from tests.serving import LABELS, picture, pixels_of, serving, write_model

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")

BATCH = np.random.default_rng(0).standard_normal((3, 3, 16, 16), np.float32)
PIXELS = np.random.default_rng(1).integers(0, 256, (2, 20, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "shoes.onnx")
    write_model(folder / "soft.onnx", output_kind=OutputKind.PROBABILITIES)
    raw = Preprocess(height=16, width=16, scale=1.0, mean=(0, 0, 0), std=(1, 1, 1), layout="nhwc")
    spec = TensorSpec("pixels", "uint8", (None, 16, 16, 3))
    write_fake(folder / "raw.onnx", labels=LABELS, preprocess=raw, input=spec)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    specs = [f"shoes={folder / 'shoes.onnx'}", f"shoes:2={folder / 'soft.onnx'}", folder / "soft.onnx", folder / "raw.onnx"]
    with serving(*specs, grpc_port=0) as server:
        yield server


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    with Runtime(folder / "shoes.onnx", backend="fake") as runtime:
        yield runtime


@pytest.fixture(params=[http, grpc], ids=["http", "grpc"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(kind: ModuleType, server: Server) -> Iterator[Any]:
    address = server.http_url.removeprefix("http://") if kind is http else server.grpc_address
    client = kind.InferenceServerClient(address)
    yield client
    client.close()


def given(kind: ModuleType, array: np.ndarray, name: str = "input", **options: Any) -> list[Any]:
    datatype = {"float32": "FP32", "uint8": "UINT8", "object": "BYTES"}.get(str(array.dtype), "FP64")
    tensor = kind.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array, **options)
    return [tensor]


def plain(answer: Any) -> Any:
    """What a client gives, as dicts: over gRPC it gives messages."""
    if isinstance(answer, (dict, list)):
        return answer
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(answer, preserving_proto_field_name=True)


def test_the_server_is_alive_and_ready_and_says_who_it_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("shoes")
    assert client.is_model_ready("shoes", "1")
    assert not client.is_model_ready("shoes", "3")
    assert not client.is_model_ready("hats")
    assert plain(client.get_server_metadata())["name"] == "alexnet-deploy"


def test_metadata_and_configuration_name_the_tensors(client: Any) -> None:
    said = plain(client.get_model_metadata("shoes", "1"))
    assert said["versions"] == ["1", "2"]
    assert [int(n) for n in said["inputs"][0]["shape"]] == [-1, 3, 16, 16]
    assert [t["name"] for t in said["outputs"]] == ["logits", "probabilities"]
    config = plain(client.get_model_config("raw"))
    config = config.get("config", config)
    assert config["max_batch_size"] == 64
    assert [int(n) for n in config["input"][0]["dims"]] == [16, 16, 3]
    assert config["input"][0]["data_type"] == "TYPE_UINT8"


def test_a_float_batch_gets_what_runtime_gives(kind: Any, client: Any, runtime: Runtime) -> None:
    answer = client.infer("shoes", given(kind, BATCH), model_version="1", request_id="seven")
    np.testing.assert_array_equal(answer.as_numpy("logits"), runtime.logits(BATCH))
    np.testing.assert_allclose(answer.as_numpy("probabilities"), runtime.predict(BATCH), rtol=1e-6)
    assert plain(answer.get_response())["id"] == "seven"


def test_the_newest_version_answers_where_none_is_named(kind: Any, client: Any) -> None:
    assert plain(client.infer("shoes", given(kind, BATCH)).get_response())["model_version"] == "2"


def test_pictures_of_any_size_are_prepared_by_the_server(kind: Any, client: Any, runtime: Runtime) -> None:
    answer = client.infer("shoes", given(kind, PIXELS), model_version="1")
    np.testing.assert_allclose(answer.as_numpy("probabilities"), runtime.predict(PIXELS), rtol=1e-6)


def test_picture_files_are_decoded_by_the_server(kind: Any, client: Any, runtime: Runtime) -> None:
    files = [picture(0), picture(1)]
    answer = client.infer("shoes", given(kind, np.array(files, object)), model_version="1")
    expected = runtime.predict(np.stack([pixels_of(file) for file in files]))
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=1e-6)


def test_a_graph_that_takes_pixels_is_given_pixels(kind: Any, client: Any, folder: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), np.uint8)
    with Runtime(folder / "raw.onnx", backend="fake") as raw:
        np.testing.assert_array_equal(client.infer("raw", given(kind, pixels, "pixels")).as_numpy("logits"), raw.logits(pixels))


def test_a_graph_that_ends_in_probabilities_has_one_output(kind: Any, client: Any, folder: Path) -> None:
    with Runtime(folder / "soft.onnx", backend="fake") as soft:
        answer = client.infer("soft", given(kind, BATCH))
        np.testing.assert_array_equal(answer.as_numpy("logits"), soft.predict(BATCH))
    assert len(plain(answer.get_response())["outputs"]) == 1


def test_the_classification_extension_names_the_best_classes(kind: Any, client: Any, runtime: Runtime) -> None:
    wanted = [kind.InferRequestedOutput("probabilities", class_count=2)]
    found = client.infer("shoes", given(kind, BATCH), model_version="1", outputs=wanted).as_numpy("probabilities")
    expected = runtime.predict(BATCH)
    for row, probabilities in zip(found, expected, strict=True):
        value, index, label = row[0].decode().split(":")
        assert int(index) == probabilities.argmax()
        assert label == LABELS[int(index)]
        assert float(value) == pytest.approx(probabilities.max(), abs=1e-5)
    assert found.shape == (3, 2)


def test_no_rows_are_answered_with_no_rows(kind: Any, client: Any) -> None:
    answer = client.infer("shoes", given(kind, BATCH[:0]), model_version="1")
    assert answer.as_numpy("logits").size == 0


def test_more_rows_than_a_batch_are_answered_in_order(kind: Any, client: Any, runtime: Runtime) -> None:
    many = np.random.default_rng(3).standard_normal((150, 3, 16, 16), np.float32)
    answer = client.infer("shoes", given(kind, many), model_version="1")
    np.testing.assert_array_equal(answer.as_numpy("logits"), runtime.logits(many))


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_json_tensors_and_compressed_requests_are_taken(server: Server, runtime: Runtime, compression: str) -> None:
    client = http.InferenceServerClient(server.http_url.removeprefix("http://"))
    answer = client.infer(
        "shoes",
        given(http, BATCH, binary_data=False),
        model_version="1",
        outputs=[http.InferRequestedOutput("logits", binary_data=False)],
        request_compression_algorithm=compression,
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), runtime.logits(BATCH), rtol=1e-6)
    client.close()


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (BATCH[:, :, :8], "input"),
        (BATCH.astype(np.float64), "input"),
        (BATCH, "output"),
        (BATCH * np.float32(np.nan), "input"),
        (np.array([b"no picture"], object), "input"),
        (PIXELS[..., :2], "input"),
        (np.zeros((300, 1, 1, 3), np.uint8), "input"),
    ],
    ids=["shape", "dtype", "name", "NaN", "file", "channels", "rows"],
)
def test_what_does_not_fit_is_refused_and_nothing_else_suffers(kind: Any, client: Any, batch: np.ndarray, name: str) -> None:
    with pytest.raises(Exception, match=r"expected") as refused:
        client.infer("shoes", given(kind, batch, name))
    assert refused.value.status() in ("400", "413", "StatusCode.INVALID_ARGUMENT", "StatusCode.RESOURCE_EXHAUSTED")
    assert client.infer("shoes", given(kind, BATCH)).as_numpy("logits").shape == (3, 10)


def test_a_model_that_is_not_served_is_not_found(kind: Any, client: Any) -> None:
    with pytest.raises(Exception, match="'hats' is not served"):
        client.infer("hats", given(kind, BATCH))


def test_statistics_count_rows_and_calls(kind: Any, client: Any) -> None:
    def counts() -> tuple[int, int]:
        said = plain(client.get_inference_statistics("soft"))["model_stats"][0]
        return int(said.get("inference_count", 0)), int(said.get("execution_count", 0))

    before = counts()
    client.infer("soft", given(kind, BATCH))
    assert counts() == (before[0] + 3, before[1] + 1)


def test_the_repository_lists_unloads_and_loads(kind: Any, folder: Path) -> None:
    with serving(folder / "shoes.onnx", grpc_port=0) as server:
        address = server.http_url.removeprefix("http://") if kind is http else server.grpc_address
        client = kind.InferenceServerClient(address)

        def state() -> str:
            index = plain(client.get_model_repository_index())
            return str((index if isinstance(index, list) else index["models"])[0]["state"])

        assert state() == "READY"
        client.unload_model("shoes")
        assert state() == "UNAVAILABLE"
        assert not client.is_model_ready("shoes")
        client.load_model("shoes")
        assert client.infer("shoes", given(kind, BATCH)).as_numpy("logits").shape == (3, 10)
        with pytest.raises(Exception, match="there is no model 'hats'"):
            client.load_model("hats")
        client.close()


def test_a_grpc_stream_answers_each_request_and_survives_a_wrong_one(server: Server, runtime: Runtime) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    client = grpc.InferenceServerClient(server.grpc_address)
    client.start_stream(lambda result, error: answers.put((result, error)))
    for batch in (BATCH, BATCH[:, :1], BATCH[:1]):
        client.async_stream_infer("shoes", given(grpc, batch), model_version="1")
    (first, _), (_, wrong), (third, _) = (answers.get(timeout=PATIENCE_S) for _ in range(3))
    client.stop_stream()
    client.close()
    np.testing.assert_array_equal(first.as_numpy("logits"), runtime.logits(BATCH))
    assert "expected FP32 [-1, 3, 16, 16]" in str(wrong)
    np.testing.assert_array_equal(third.as_numpy("logits"), runtime.logits(BATCH[:1]))


def test_a_grpc_stream_without_the_token_is_refused(folder: Path) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    with serving(folder / "shoes.onnx", token="sesame", grpc_port=0) as server:
        for headers, says in ((None, "no valid token"), ({"authorization": "Bearer sesame"}, "")):
            client = grpc.InferenceServerClient(server.grpc_address)
            client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
            with contextlib.suppress(grpc.InferenceServerException):  # where the refusal is here already
                client.async_stream_infer("shoes", given(grpc, BATCH))
            result, error = answers.get(timeout=PATIENCE_S)
            client.stop_stream()
            client.close()
            assert says in str(error)
            assert (result is None) == bool(says)


def test_many_clients_at_once_each_get_their_own_answer(server: Server, runtime: Runtime) -> None:
    import tritonclient.grpc.aio as aio

    batches = [np.random.default_rng(i).standard_normal((1 + i % 3, 3, 16, 16), np.float32) for i in range(60)]

    async def main() -> list[Any]:
        async with aio.InferenceServerClient(server.grpc_address) as client:
            return await asyncio.gather(*(client.infer("shoes", given(grpc, b), model_version="1") for b in batches))

    for batch, answer in zip(batches, asyncio.run(main()), strict=True):
        np.testing.assert_array_equal(answer.as_numpy("logits"), runtime.logits(batch))


def test_our_schema_is_a_part_of_tritons() -> None:
    from tritonclient.grpc import model_config_pb2, service_pb2

    from alexnet_deploy.serving.messages import message

    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}

    def compare(own: Any, their: Any) -> None:
        for field in own.fields:
            same = their.fields_by_name[field.name]
            assert (field.number, field.type) == (same.number, same.type), field.full_name
        for nested in own.nested_types:
            compare(nested, their.nested_types_by_name[nested.name])

    ours = message("ModelInferRequest").DESCRIPTOR.file.message_types_by_name
    assert len(ours) > 25
    for name, own in ours.items():
        compare(own, theirs[name])


def test_the_compiled_schema_is_that_of_the_source(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    source = Path(__file__).parent.parent / "alexnet_deploy" / "serving"
    arguments = ["protoc", f"-I{source}", f"--descriptor_set_out={tmp_path / 'new.desc'}", "open_inference.proto"]
    assert protoc.main(arguments) == 0
    assert (tmp_path / "new.desc").read_bytes() == (source / "open_inference.desc").read_bytes()
