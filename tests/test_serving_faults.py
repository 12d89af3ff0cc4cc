"""What goes wrong around a server: taken ports, models swapped under load, overload, clients that die, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.backends.fake import FakeBackend
from alexnet_deploy.errors import AlexnetDeployError, ArtifactCorrupt, ArtifactMissing, InputError
from alexnet_deploy.serving import guard
from alexnet_deploy.serving.cost import Cost
from alexnet_deploy.serving.server import Server
from tests.patience import PATIENCE_S, until
from tests.serving import LABELS, ask, infer_body, picture, serving, write_model

ROW = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
INFER = "/v2/models/shoes/infer"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "shoes.onnx")


@pytest.fixture
def slow_engine(monkeypatch: pytest.MonkeyPatch) -> float:
    """The fake engine takes 20 ms a call: long enough to be waited for. It stands in for a slow model, and is no mock of ours."""
    run = FakeBackend.run

    def slow(self: FakeBackend, batch: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return run(self, batch)

    monkeypatch.setattr(FakeBackend, "run", slow)
    return 0.02


def test_a_taken_port_is_named(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for settings in ({"port": port}, {"grpc_port": port}):
            with pytest.raises(InputError, match=rf"port {port} on 127.0.0.1 is taken.*--port 0"), serving(model, **settings):
                pass


def test_a_grpc_port_is_not_shared_with_another_server(model: Path) -> None:
    with serving(model, grpc_port=0) as first:
        port = int(first.grpc_address.rpartition(":")[2])
        with pytest.raises(InputError, match="taken"), serving(model, grpc_port=port):
            pass


def test_an_address_of_another_machine_is_refused(model: Path) -> None:
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(InputError, match=r"192\.0\.2\.1|not known"), serving(model, host=host):
            pass


def test_a_broken_artifact_stops_the_start(model: Path) -> None:
    model.write_bytes(b"something else, of the same kind\n!")
    with pytest.raises(ArtifactCorrupt), serving(model):
        pass


def test_tls_files_that_are_none_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    with (
        pytest.raises(InputError, match="TLS"),
        serving(model, tls_certificate=tmp_path / "cert.pem", tls_key=tmp_path / "cert.pem"),
    ):
        pass


@pytest.mark.parametrize("specs", [["a.onnx", "other/a.onnx"], ["x=a.onnx", "x:1=other/a.onnx"]])
def test_two_files_for_one_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specs: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    write_model(tmp_path / "a.onnx")
    write_model(tmp_path / "other" / "a.onnx")
    with pytest.raises(InputError, match="would both be version 1"), serving(*specs):
        pass


def test_nothing_to_serve_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to serve"), serving(tmp_path):
        pass
    with pytest.raises(ArtifactMissing), serving(tmp_path / "none.onnx"):
        pass


def test_a_repository_folder_serves_every_version(tmp_path: Path) -> None:
    for version in ("1", "2", "10"):
        write_model(tmp_path / "shoes" / version / "model.onnx", notes=version)
    (tmp_path / "shoes" / "config.pbtxt").write_text("")
    with serving(tmp_path) as server:
        assert ask(server, "GET", "/v2/models/shoes").json["versions"] == ["1", "2", "10"]
        assert ask(server, "POST", INFER, infer_body(ROW)).json["model_version"] == "10"
        write_model(tmp_path / "hats" / "1" / "model.onnx")
        assert ask(server, "POST", "/v2/repository/models/hats/load").status == 200
        shutil.rmtree(tmp_path / "shoes" / "10")
        assert ask(server, "POST", "/v2/repository/models/shoes/load").status == 200
        assert ask(server, "POST", INFER, infer_body(ROW)).json["model_version"] == "2"
        entries = ask(server, "POST", "/v2/repository/index").json
        assert {(e["name"], e["version"]) for e in entries} == {("shoes", "1"), ("shoes", "2"), ("hats", "1")}


def test_without_the_repository_folder_what_is_loaded_is_served(tmp_path: Path) -> None:
    """A network drive that went away; and a name that no file could have."""
    home = tmp_path / "models"
    write_model(home / "shoes" / "1" / "model.onnx")
    with serving(home) as server:
        assert ask(server, "POST", f"/v2/repository/models/{'x' * 300}/load").status == 404
        home.rename(tmp_path / "elsewhere")
        assert ask(server, "POST", "/v2/repository/models/shoes/load").status == 404
        assert [entry["name"] for entry in ask(server, "POST", "/v2/repository/index").json] == ["shoes"]
        assert ask(server, "POST", INFER, infer_body(ROW)).status == 200


def test_models_are_swapped_under_load_with_no_failed_request(tmp_path: Path, slow_engine: float) -> None:
    """Loaded anew in place, in a new version beside, and with others that come and go, while requests run all the time."""
    shoes, hats = tmp_path / "shoes" / "1" / "model.onnx", tmp_path / "hats" / "1" / "model.onnx"
    write_model(shoes, notes="0")
    write_model(hats)
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def load(server: Server) -> None:
        connection = http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=PATIENCE_S)
        while not stop.is_set():
            connection.request("POST", INFER, infer_body(ROW))
            response = connection.getresponse()
            body = json.loads(response.read())
            answers.append((response.status, body.get("model_version", "")))
        connection.close()

    def change(server: Server, name: str, what: str) -> None:
        assert ask(server, "POST", f"/v2/repository/models/{name}/{what}").status == 200
        seen = len(answers)
        until(lambda: len(answers) > seen + 4)

    with serving(tmp_path, max_wait_s=10) as server, ThreadPoolExecutor(8) as pool:
        before = server.repository.models()[-1]
        clients = [pool.submit(load, server) for _ in range(8)]
        for swap in range(1, 3):
            write_model(shoes, notes=str(swap))
            change(server, "shoes", "load")
            change(server, "hats", "unload")
            write_model(tmp_path / "shoes" / "2" / "model.onnx")
            change(server, "shoes", "load")
            change(server, "hats", "load")
            shutil.rmtree(tmp_path / "shoes" / "2")
            change(server, "shoes", "load")
        stop.set()
        for client in clients:
            client.result(PATIENCE_S)
        after = next(model for model in server.repository.models() if model.name == "shoes")
        assert after.runtime.manifest.notes == "2"
        assert before.name == "shoes"
        until(lambda: before.runtime.closed)
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {"1", "2"}


def test_a_model_that_does_not_load_leaves_the_old_one_in_service(model: Path) -> None:
    with serving(model) as server:
        manifest = model.with_name("shoes.onnx.json")
        manifest.write_text(manifest.read_text().replace('"labels"', '"lables"'))
        old = model.read_bytes()
        model.write_bytes(old[::-1])
        manifest.write_text(manifest.read_text().replace('"notes": ""', '"notes": "new"'))
        assert ask(server, "POST", "/v2/repository/models/shoes/load").status == 500
        assert ask(server, "POST", INFER, infer_body(ROW)).status == 200
        assert ask(server, "POST", "/v2/repository/index").json[0]["state"] == "READY"


def test_unloading_answers_what_was_let_in(model: Path, slow_engine: float) -> None:
    with serving(model) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, server, "POST", INFER, infer_body(np.repeat(ROW, 200, axis=0)))
        until(lambda: server.repository.metrics._registry.get_sample_value("alexnet_deploy_waiting_rows") == 200)
        assert ask(server, "POST", "/v2/repository/models/shoes/unload").status == 200
        assert ask(server, "POST", INFER, infer_body(ROW)).status == 404
        assert waiting.result(PATIENCE_S).status == 200


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The fake engine computes when this is set: whatever a test waits for, a slow machine changes nothing."""
    is_open = threading.Event()
    is_open.set()  # the server measures the engine when it starts
    run = FakeBackend.run

    def gated(self: FakeBackend, batch: np.ndarray) -> np.ndarray:
        assert is_open.wait(PATIENCE_S)
        return run(self, batch)

    monkeypatch.setattr(FakeBackend, "run", gated)
    yield is_open
    is_open.set()


def test_overload_is_shed_while_what_is_accepted_keeps_its_latency(
    model: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latency is counted in rows: 0.1 s are ten rows of 10 ms, and no more wait, however many ask."""
    monkeypatch.setattr(Cost, "measure", lambda run, max_batch: Cost(0.0, 0.01))
    with serving(model, max_batch=2, max_wait_s=0.1) as server, ThreadPoolExecutor(60) as pool:
        gate.clear()
        asked = [pool.submit(ask, server, "POST", INFER, infer_body(ROW)) for _ in range(240)]
        until(lambda: sum(request.done() for request in asked) >= 180)
        waiting = server.repository._waiting_rows()
        gate.set()
        answers = [request.result(PATIENCE_S) for request in asked]
        shed = [a for a in answers if a.status != 200]
        assert {a.status for a in shed} == {503}
        assert all(int(a.headers["retry-after"]) >= 1 for a in shed)
        assert 10 <= waiting <= 12
        assert len(answers) - len(shed) >= waiting
        assert ask(server, "POST", INFER, infer_body(ROW)).status == 200


@pytest.fixture
def full(model: Path, gate: threading.Event) -> Iterator[Server]:
    """A server whose queue is full until the test ends."""
    with serving(model, max_batch=1, max_wait_s=0.0, token="secret") as server, ThreadPoolExecutor(2) as pool:
        gate.clear()
        waiting = [pool.submit(ask, server, "POST", INFER, infer_body(ROW), TOKEN) for _ in range(2)]
        until(lambda: server.repository._waiting_rows() == 2)
        try:
            yield server
        finally:
            gate.set()
        assert [answer.result(PATIENCE_S).status for answer in waiting] == [200, 200]


TOKEN = {"Authorization": "Bearer secret"}


def connected(server: Server) -> socket.socket:
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def header(path: str, *extra: str, token: str = "secret", length: int = 100_000) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *extra, "", ""]).encode()


@pytest.mark.parametrize("path", [INFER, "/v2/models/shoes/versions/1/infer", "/classify", "/classify?model=shoes&top=1"])
def test_what_has_no_chance_is_refused_before_its_body_comes(full: Server, path: str) -> None:
    with connected(full) as connection:
        for _ in range(2):  # the connection is kept, and knows where the next request begins
            connection.sendall(header(path))
            answer = connection.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in answer
            assert b"2 pictures wait already" in answer
            for _ in range(10):
                connection.sendall(b"x" * 10_000)
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200 ")
    assert full.repository.metrics.totals()["shed"] == 2


def test_a_refused_connection_is_closed_where_the_client_wants_it(full: Server) -> None:
    with connected(full) as connection:
        connection.sendall(header(INFER, "Connection: close", length=3) + b"abc")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 503 ")
        assert connection.recv(10_000) == b""


def test_overload_tells_nothing_to_those_who_may_not_ask_and_hides_no_other_error(full: Server) -> None:
    body = infer_body(ROW)
    assert ask(full, "POST", INFER, body, {"Authorization": "Bearer wrong"}).status == 401
    assert ask(full, "POST", "/v2/models/hats/infer", body, TOKEN).status == 404
    assert ask(full, "GET", INFER, None, TOKEN).status == 405
    assert ask(full, "GET", "/v2/models/shoes", None, TOKEN).status == 200


def test_a_refused_body_that_never_comes_is_not_waited_for(full: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_S", 1.0)
    with connected(full) as connection:
        connection.sendall(header(INFER))
        assert connection.recv(10_000).startswith(b"HTTP/1.1 503 ")
        assert connection.recv(10_000) == b""


def test_grpc_sheds_too_and_says_when_to_come_back(model: Path, gate: threading.Event) -> None:
    aio = pytest.importorskip("tritonclient.grpc.aio")
    import tritonclient.grpc as grpc

    async def main(address: str) -> list[object]:
        tensor = grpc.InferInput("input", ROW.shape, "FP32")
        tensor.set_data_from_numpy(ROW)
        async with aio.InferenceServerClient(address) as client:
            return await asyncio.gather(*(client.infer("shoes", [tensor]) for _ in range(60)), return_exceptions=True)

    with serving(model, max_batch=1, max_wait_s=0.0, grpc_port=0) as server, ThreadPoolExecutor(1) as pool:
        gate.clear()
        asked = pool.submit(asyncio.run, main(server.grpc_address))
        until(lambda: server.repository.metrics.totals().get("shed", 0) == 58)
        gate.set()
        answers = asked.result(PATIENCE_S)
    refused = [a for a in answers if isinstance(a, Exception)]
    assert len(refused) == 58  # one is computed, one waits
    assert all("StatusCode.UNAVAILABLE" in str(a) and "pictures wait already" in str(a) for a in refused)


def test_a_client_that_hangs_up_is_not_computed_for(model: Path, gate: threading.Event) -> None:
    with serving(model, max_batch=1, max_wait_s=60) as server:
        gate.clear()
        body = infer_body(ROW)
        connections = [connected(server) for _ in range(30)]
        for connection in connections:
            connection.sendall(header(INFER, length=len(body)) + body)
        until(lambda: server.repository._waiting_rows() == 30)
        for connection in connections:
            connection.close()
        until(lambda: server.repository.metrics.totals().get("cancelled", 0) == 30)
        gate.set()
        until(lambda: server.repository._waiting_rows() == 0)
        assert ask(server, "POST", INFER, body).status == 200
        assert server.repository.metrics.statistics("shoes", "1").execution_count <= 2


def test_slow_clients_do_not_slow_others(model: Path) -> None:
    with serving(model, body_timeout_s=1.0) as server:
        host, _, port = server.http_url.removeprefix("http://").partition(":")
        start = f"POST {INFER} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100000\r\n\r\n".encode()
        slow = [socket.create_connection((host, int(port)), timeout=PATIENCE_S) for _ in range(100)]
        for connection in slow:
            connection.sendall(start + b"x")
        for _ in range(10):
            assert ask(server, "POST", INFER, infer_body(ROW)).status == 200
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 408")
        for connection in slow:
            connection.close()


def test_a_poisoned_request_does_not_fail_its_neighbours(model: Path) -> None:
    bad = np.full_like(ROW, np.inf)
    with serving(model, max_delay_s=0.05) as server, ThreadPoolExecutor(8) as pool:
        bodies = [infer_body(ROW if i % 4 else bad).replace(b"Infinity", b"1e999") for i in range(8)]
        statuses = [a.status for a in pool.map(lambda b: ask(server, "POST", INFER, b), bodies)]
    assert statuses == [200 if i % 4 else 400 for i in range(8)]


def command(*words: str | Path) -> subprocess.Popen[str]:
    code = "from alexnet_deploy.cli import main; main()"
    arguments = [sys.executable, "-c", code, "serve", *map(str, words), "--port", "0", "--backend", "fake", "--json"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(model: Path, number: signal.Signals) -> None:
    process = command(model, "--no-grpc")
    assert process.stderr is not None
    lines: Iterator[str] = iter(process.stderr.readline, "")
    url = next(found[0] for line in lines if (found := re.search(r"http://[\d.]+:\d+", line)))
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
    connection.request("POST", "/classify", picture())
    assert json.loads(connection.getresponse().read())["predictions"][0]["label"] in LABELS
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert json.loads(stdout)["requests"] == {"ok": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_command_at_once(model: Path, number: signal.Signals) -> None:
    """Though a client has not sent all of its request, and would be waited for."""
    process = command(model, "--no-grpc", "--grace", "3600")
    assert process.stderr is not None
    lines: Iterator[str] = iter(process.stderr.readline, "")
    host, port = next(found[1] for line in lines if (found := re.search(r"http://([\d.]+:\d+)", line))).split(":")
    with socket.create_connection((host, int(port))) as unfinished:
        unfinished.sendall(f"POST {INFER} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 9\r\n\r\n{{".encode())

        def refuses() -> bool:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
                return False
            return True

        process.send_signal(number)
        until(refuses)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == -number
    process.communicate()


def test_a_server_that_nobody_can_be_told_of_ends(model: Path) -> None:
    """Whatever `announce` raises, as where stderr is closed; the engines' threads would keep the process for ever."""
    code = """if True:
        import sys
        from alexnet_deploy.serving.running import serve
        from alexnet_deploy.serving.settings import Settings

        serve(sys.argv[1:], Settings(port=0, grpc_port=None), lambda server: 1 / 0, backend="fake")
    """
    words = [sys.executable, "-c", code, str(model)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_a_stop_that_fails_half_way_releases_the_engines(model: Path) -> None:
    from alexnet_deploy.serving.settings import Settings

    before = threading.active_count()

    async def failing() -> None:
        raise OSError("the socket is gone")

    async def main() -> None:
        server = Server([str(model)], Settings(port=0, grpc_port=None), backend="fake")
        await server.start()
        assert server._http is not None
        assert server._http_task is not None
        server._http.should_exit = True
        await server._http_task
        server._http_task = asyncio.create_task(failing())
        with pytest.raises(OSError, match="the socket is gone"):
            await server.stop()

    asyncio.run(main())
    until(lambda: threading.active_count() <= before)


def test_a_stop_answers_what_was_accepted(model: Path, slow_engine: float) -> None:
    with ThreadPoolExecutor(20) as pool:
        with serving(model, max_batch=1, max_wait_s=60) as server:
            answers = [pool.submit(ask, server, "POST", INFER, infer_body(ROW)) for _ in range(20)]
            until(lambda: server.repository.metrics.totals().get("ok", 0) + server.repository._waiting_rows() == 20)
            assert server.repository._waiting_rows() > 2
        assert {answer.result(PATIENCE_S).status for answer in answers} == {200}


def test_the_command_names_a_taken_port_and_what_is_missing(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = command(model, "--grpc-port", str(taken.getsockname()[1]))
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "is taken" in said
    assert "Traceback" not in said


def test_without_its_packages_the_command_says_what_to_install(model: Path) -> None:
    code = "import sys; sys.modules['starlette'] = None; from alexnet_deploy.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "serve", str(model)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "pip install 'alexnet-deploy[serve]'" in done.stderr


def test_a_server_that_fails_to_start_leaves_nothing_running(model: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "broken.onnx").write_bytes(b"not a model: for the fake backend?")
    before = threading.active_count()
    for _ in range(2):
        with pytest.raises(AlexnetDeployError), serving(model, tmp_path / "broken.onnx"):
            pass
    until(lambda: threading.active_count() <= before)


def test_a_server_can_be_started_in_a_loop_of_ones_own(model: Path) -> None:
    from alexnet_deploy.serving.settings import Settings

    async def main() -> int:
        server = Server([str(model)], Settings(port=0, grpc_port=None), backend="fake", threads=1)
        await server.start()
        assert [served.runtime.threads for served in server.repository.models()] == [1]
        answer = await asyncio.to_thread(ask, server, "GET", "/v2/health/ready")
        await server.stop()
        return answer.status

    assert asyncio.run(main()) == 200
