"""Starting from published weights: files of torchvision's layout, made here, and a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alexnet_deploy.errors import ArtifactCorrupt, ArtifactMissing, InputError, ModelError
from training.model import ModelConfig, build_model
from training.settings import TrainSettings
from training.train import train
from training.weights import Published, fetch, read_weights, start_from

CONFIG = ModelConfig(classes=9, width=0.05, input_size=63)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "alexnet-owt.pth"
    torch.save(build_model(CONFIG).state_dict(), path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_both_kinds_of_file(pretrained: Path, tmp_path: Path, suffix: str) -> None:
    expected = torch.load(pretrained, weights_only=True)
    path = pretrained
    if suffix == ".safetensors":
        path = tmp_path / "w.safetensors"
        save_file(expected, path)
    found = read_weights(str(path)).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"features.0.weight": Evil(tmp_path / "was run")}, tmp_path / "evil.pth")
    with pytest.raises(ArtifactCorrupt, match="state_dict"):
        read_weights(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04N.", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ArtifactCorrupt):
        read_weights(str(path))


def test_other_suffixes_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"w\.h5"):
        read_weights(str(tmp_path / "w.h5"))
    with pytest.raises(ArtifactMissing):
        read_weights(str(tmp_path / "none.pth"))


def test_the_head_is_kept_for_the_same_classes_and_new_for_others(pretrained: Path) -> None:
    weights = read_weights(str(pretrained))
    same, other = build_model(CONFIG), build_model(replace(CONFIG, classes=4))
    before = other.classifier[-1].weight.clone()
    assert start_from(same, weights) is False
    assert start_from(other, weights) is True
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in same.state_dict().items())
    assert torch.equal(other.classifier[-1].weight, before)
    assert torch.equal(other.features[0].weight, weights.tensors["features.0.weight"])


@pytest.mark.parametrize("other", [{"width": 0.1}, {"arch": "alexnet-bn"}, {"arch": "alexnet-tutorial"}])
def test_weights_of_another_network_are_refused_and_nothing_is_changed(pretrained: Path, other: dict[str, object]) -> None:
    model = build_model(ModelConfig.from_dict({**CONFIG.to_dict(), **other}))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match="do not fit"):
        start_from(model, read_weights(str(pretrained)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("features_lr", "moves"), [(0.0, False), (0.1, True)])
def test_frozen_features_stay_as_they_were_and_the_new_head_learns(
    pretrained: Path, tmp_path: Path, features_lr: float, moves: bool
) -> None:
    random = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            pixels = random.integers(0, 120, (48, 48, 3), np.uint8) + np.uint8(120 * (name == "light"))
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    settings = TrainSettings(
        data=str(tmp_path / "photos"), weights=str(pretrained), features_lr=features_lr, width=0.05, input_size=63, epochs=3,
        batch_size=6, dropout=0.0,
    )  # fmt: skip
    report = train(settings, tmp_path / "m.safetensors")
    tuned, before = load_file(report.checkpoint), read_weights(str(pretrained)).tensors
    moved = {name for name in before if name.startswith("features") and not torch.equal(tuned[name], before[name])}
    assert bool(moved) == moves
    assert tuned["classifier.6.weight"].shape[0] == 2
    assert report.history[-1].train_loss < report.history[0].train_loss


@pytest.fixture
def server() -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    """Serves b"0123..." of 3,000,000 bytes, with ranges; breaks off after half of it once, at /flaky."""
    content = bytes(range(250)) * 12_000
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Range", ""))
            start = int(asked[-1].removeprefix("bytes=").rstrip("-") or 0)
            if self.path == "/missing.pth":
                self.send_error(404)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = len(content) // 2 if self.path == "/flaky.pth" and len(asked) == 1 else len(content)
            self.wfile.write(content[start:stop])

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served, asked
    served.shutdown()
    served.server_close()


def published(server: ThreadingHTTPServer, name: str, sha256: str | None = None) -> Published:
    content = bytes(range(250)) * 12_000
    sha256 = hashlib.sha256(content).hexdigest()[:8] if sha256 is None else sha256
    return Published(f"http://127.0.0.1:{server.server_address[1]}/{name}", sha256, len(content))


def test_a_download_is_checked_kept_and_not_repeated(
    server: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    first = fetch(published(server[0], "w.pth"))
    assert fetch(published(server[0], "w.pth")) == first
    assert first.stat().st_size == 3_000_000
    assert server[1] == [""]
    assert [p.name for p in first.parent.iterdir()] == ["w.pth"]


def test_a_broken_download_goes_on_where_it_stopped(
    server: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    wanted = published(server[0], "flaky.pth")
    with pytest.raises(ArtifactMissing, match="cannot be fetched"):
        fetch(wanted)
    path = fetch(wanted)
    assert server[1] == ["", "bytes=1500000-"]
    assert path.read_bytes() == bytes(range(250)) * 12_000


def test_a_download_of_another_hash_is_refused_and_not_kept(
    server: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    with pytest.raises(ArtifactCorrupt, match="starts with 00000000"):
        fetch(published(server[0], "w.pth", "00000000"))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_offline_it_is_said_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    with pytest.raises(ArtifactMissing, match=r"put it at .*/alexnet-owt\.pth"):
        fetch(Published("http://127.0.0.1:9/alexnet-owt.pth", "00", 10))


def test_a_file_that_is_not_there_is_said_to_be_missing(
    server: tuple[ThreadingHTTPServer, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    with pytest.raises(ArtifactMissing, match="404"):
        fetch(published(server[0], "missing.pth"))
