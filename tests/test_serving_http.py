"""HTTP beyond the protocol's happy path: /classify, /metrics, the page, and everything that must be refused."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import ssl
import struct
import subprocess
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.errors import Overloaded, RequestTooLarge
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.serving import guard
from alexnet_deploy.serving.http_body import Bodies
from alexnet_deploy.serving.server import Server
from alexnet_deploy.serving.settings import Settings
from tests.patience import PATIENCE_S, until
from tests.serving import LABELS, ask, infer_body, picture, pixels_of, serving, write_model

BATCH = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
INFER = "/v2/models/shoes/infer"


def asking(*, outputs: Sequence[Any] = (), datatype: str = "", data: Sequence[Any] = ()) -> bytes:
    """A sound request, but for the outputs that it wants, or with an input of two values."""
    request = json.loads(infer_body(BATCH))
    if datatype:
        request["inputs"][0] |= {"datatype": datatype, "shape": [2], "data": list(data)}
    return json.dumps({**request, "outputs": list(outputs)}).encode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "shoes.onnx")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serving(model, max_body_bytes=1 << 20) as server:
        yield server


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_classify_answers_a_picture_with_its_classes(server: Server, model: Path, kind: str) -> None:
    file = picture(0, kind)
    answer = ask(server, "POST", "/classify?top=3", file, {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 200
    with Runtime(model, backend="fake") as runtime:
        expected = runtime.predict(pixels_of(file)[None])[0]
    best = np.argsort(-expected)[:3]
    assert [p["label"] for p in answer.json["predictions"]] == [LABELS[i] for i in best]
    assert [p["probability"] for p in answer.json["predictions"]] == pytest.approx(expected[best].tolist(), rel=1e-6)
    assert (answer.json["model"], answer.json["version"]) == ("shoes", "1")


def test_classify_with_curl_as_the_help_says(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(picture(0, "JPEG"))
    command = ["curl", "-sS", "--noproxy", "*", "--data-binary", f"@{tmp_path / 'cat.jpg'}", f"{server.http_url}/classify"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert len(json.loads(done.stdout)["predictions"]) == 5


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "says"),
    [
        ("/classify", b"", {}, 400, "--data-binary"),
        ("/classify", b"no picture", {}, 400, "cannot be read as a picture"),
        ("/classify", picture()[:200], {}, 400, "cannot be read as a picture"),
        ("/classify", picture(), {"Content-Type": "multipart/form-data; boundary=x"}, 400, "--data-binary"),
        ("/classify?top=0", picture(), {}, 400, "top is '0'"),
        ("/classify?top=" + "9" * 5000, picture(), {}, 400, "top is"),
        ("/classify?model=hats", picture(), {}, 404, "'hats' is not served"),
        (INFER, b"", {}, 400, "JSON"),
        (INFER, b"{}", {}, 400, "inputs"),
        (INFER, b'{"inputs": []}', {}, 400, "expected one input"),
        (INFER, b"\xff\xfe", {}, 400, "JSON"),
        (INFER, b"x" * ((1 << 20) + 1), {}, 413, "at most 1,048,576 bytes"),
        (INFER, b"{}", {"Inference-Header-Content-Length": "3"}, 400, "0 to 2"),
        (INFER, b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "0 to 2"),
        (INFER, b"{}", {"Content-Encoding": "gzip"}, 400, "gzip"),
        (INFER, gzip.compress(infer_body(BATCH))[:-9], {"Content-Encoding": "gzip"}, 400, "ends too soon"),
        (INFER, 2 * gzip.compress(infer_body(BATCH)), {"Content-Encoding": "gzip"}, 400, "bytes follow the gzip body"),
        (INFER, b"{}", {"Content-Encoding": "br"}, 415, "gzip, deflate or none"),
        ("/v2/models/shoes/versions/7/infer", infer_body(BATCH), {}, 404, "version '7'"),
        ("/v2/repository/models/..%2f..%2fetc/load", b"", {}, 404, ""),
        ("/v2/repository/models/../load", b"", {}, 404, ""),
        ("/v2/repository/models/hats/unload", b"", {}, 404, "'hats' is not served"),
        (INFER, asking(outputs=[{"name": "features"}]), {}, 400, "there is no output 'features'; expected one of logits, prob"),
        (INFER, asking(outputs=[{"name": "logits", "parameters": {"classification": -1}}]), {}, 400, "classification is -1"),
        (INFER, asking(datatype="BYTES", data=[1, 2]), {}, 400, "is not 2 strings"),
        (INFER, asking(datatype="BOOL", data=[1, 2]), {}, 400, "values outside BOOL"),
        (INFER, asking(datatype="FP32", data=[1]), {}, 400, "has 1 values; expected 2"),
        ("/nowhere", b"", {}, 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    server: Server, path: str, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = ask(server, "POST", path, body, headers)
    assert answer.status == status
    assert says in answer.json["error"]
    assert ask(server, "POST", INFER, infer_body(BATCH)).status == 200


def test_bodies_that_arrive_at_once_are_within_one_limit_of_memory() -> None:
    bodies = Bodies(Settings(max_body_bytes=100))
    with contextlib.ExitStack() as held:
        for _ in range(16):
            held.enter_context(bodies._held(100))
        with pytest.raises(Overloaded, match="too many large requests"), bodies._held(1):
            pytest.fail("nothing is left")
    with bodies._held(100), pytest.raises(RequestTooLarge), bodies._held(101):
        pytest.fail("no body may be as large")


def test_large_pictures_are_prepared_in_a_thread_to_the_same_answer(server: Server, model: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 250, 250, 3), np.uint8)
    said = {"name": "input", "datatype": "UINT8", "shape": list(pixels.shape), "parameters": {"binary_data_size": pixels.nbytes}}
    header = json.dumps({"inputs": [said]}).encode()
    answer = ask(server, "POST", INFER, header + pixels.tobytes(), {"Inference-Header-Content-Length": str(len(header))})
    with Runtime(model, backend="fake") as runtime:
        np.testing.assert_allclose(answer.json["outputs"][0]["data"], runtime.logits(pixels).ravel(), rtol=1e-6)


def test_a_tensor_of_wrong_size_is_refused(server: Server) -> None:
    said = {"name": "input", "datatype": "FP32", "shape": [1, 3, 16, 16], "parameters": {"binary_data_size": 8}}
    header = json.dumps({"inputs": [said]}).encode()
    answer = ask(server, "POST", INFER, header + bytes(8), {"Inference-Header-Content-Length": str(len(header))})
    assert answer.status == 400
    assert "8 bytes; expected 3,072" in answer.json["error"]
    right = header.replace(b'"binary_data_size": 8', b'"binary_data_size": 3072')
    answer = ask(server, "POST", INFER, right + bytes(3073), {"Inference-Header-Content-Length": str(len(right))})
    assert "1 bytes follow the last tensor" in answer.json["error"]


def test_a_decompression_bomb_is_refused_before_it_unfolds(server: Server) -> None:
    bomb = gzip.compress(bytes(64 << 20), 1)
    assert len(bomb) < 1 << 20
    answer = ask(server, "POST", INFER, bomb, {"Content-Encoding": "gzip"})
    assert answer.status == 413


def test_a_picture_bomb_is_refused_before_it_is_decoded(server: Server) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    answer = ask(server, "POST", "/classify", bomb)
    assert answer.status == 400
    assert "12000x12000 pixels" in answer.json["error"]


def test_a_body_without_a_length_is_measured_as_it_comes(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    assert ask(server, "POST", INFER, pieces()).status == 413
    assert ask(server, "POST", INFER, iter([infer_body(BATCH)])).status == 200


def test_memory_for_bodies_is_given_back(server: Server) -> None:
    bodies = server._http_api._bodies
    for body, headers in (
        (infer_body(BATCH), {}),
        (b"x" * 100_000, {}),
        (gzip.compress(infer_body(BATCH)), {"Content-Encoding": "gzip"}),
    ):
        ask(server, "POST", INFER, body, headers)
    until(lambda: bodies._left_bytes == 16 << 20)


def test_metrics_count_requests_rows_and_seconds(server: Server) -> None:
    def value(name: str) -> float:
        text = ask(server, "GET", "/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = (
        'alexnet_deploy_requests_total{model="shoes",outcome="ok",protocol="http",version="1"}',
        'alexnet_deploy_requests_total{model="shoes",outcome="refused",protocol="http",version="1"}',
        'alexnet_deploy_batch_rows_sum{model="shoes",version="1"}',
        'alexnet_deploy_engine_seconds_count{model="shoes",version="1"}',
        'alexnet_deploy_queue_seconds_count{model="shoes",version="1"}',
        'alexnet_deploy_request_seconds_count{model="shoes",version="1"}',
    )
    before = [value(name) for name in names]
    ask(server, "POST", INFER, infer_body(BATCH))
    ask(server, "POST", INFER, b"{}")
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 2, 1, 1, 1]
    assert value("alexnet_deploy_waiting_rows") == 0


def test_the_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    page = ask(server, "GET", "/")
    assert page.status == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert b"http" not in page.body
    for path in ("/page.css", "/page.js"):
        assert ask(server, "GET", path).status == 200


def test_pages_of_other_sites_may_not_ask(server: Server) -> None:
    port = server.http_url.rpartition(":")[2]
    assert ask(server, "POST", "/v2/repository/index", headers={"Origin": "http://evil.example"}).status == 403
    assert ask(server, "POST", "/v2/repository/index", headers={"Origin": "null"}).status == 403
    assert ask(server, "POST", "/v2/repository/index", headers={"Host": f"evil.example:{port}"}).status == 403
    assert ask(server, "POST", "/v2/repository/index", headers={"Origin": server.http_url}).status == 200
    assert ask(server, "POST", "/v2/repository/index", headers={"Host": f"localhost:{port}"}).status == 200


def test_a_token_is_asked_for_by_everything_but_health_and_the_page(model: Path) -> None:
    with serving(model, token="sesame", grpc_port=0) as server:
        for path in ("/", "/page.js", "/v2/health/live", "/v2/health/ready"):
            assert ask(server, "GET", path).status == 200
        for path in ("/v2", "/metrics", "/v2/models/shoes"):
            refused = ask(server, "GET", path)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert ask(server, "GET", path, headers={"Authorization": "Bearer sesam"}).status == 401
            assert ask(server, "GET", path, headers={"Authorization": "Bearer sesame"}).status == 200
        grpc = pytest.importorskip("tritonclient.grpc")
        client = grpc.InferenceServerClient(server.grpc_address)
        assert client.is_server_live()
        with pytest.raises(Exception, match="no valid token"):
            client.get_server_metadata()
        assert client.get_server_metadata(headers={"authorization": "Bearer sesame"}).name == "alexnet-deploy"
        client.close()


def test_tls_serves_both_protocols(model: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(["openssl", *words.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with serving(model, tls_certificate=certificate, tls_key=key, grpc_port=0) as server:
        trust = ssl.create_default_context(cafile=str(certificate))
        assert server.http_url.startswith("https://")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
        assert opener.open(f"{server.http_url}/v2/health/ready", timeout=PATIENCE_S).status == 200
        grpc = pytest.importorskip("tritonclient.grpc")
        client = grpc.InferenceServerClient(server.grpc_address, ssl=True, root_certificates=str(certificate))
        assert client.is_server_ready()
        client.close()


def test_an_endless_header_is_cut_off(server: Server) -> None:
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nX: ")
        answer = b""
        try:
            for _ in range(64):
                connection.sendall(b"x" * 65536)
            while piece := connection.recv(4096):
                answer += piece
        except OSError:
            return  # the server has hung up while we were still sending
        assert answer.startswith(b"HTTP/1.1 400")


def test_a_client_that_never_ends_its_header_is_hung_up_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_S", 1.0)
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    for start in (b"", b"GET /v2 HTTP/1.1\r\n"):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(start)
            assert connection.recv(100) == b""


def test_a_kept_connection_takes_many_requests(server: Server) -> None:
    import http.client

    connection = http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=PATIENCE_S)
    for size in (1, 2, 40):
        batch = np.zeros((size, 3, 16, 16), np.float32)
        connection.request("POST", INFER, infer_body(batch))
        assert connection.getresponse().read().startswith(b'{"model_name":"shoes"')
    connection.close()
