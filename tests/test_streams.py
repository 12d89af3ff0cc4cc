"""Shards over the network: a server on this machine, that breaks off, and epochs that repeat themselves."""

from __future__ import annotations

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.manifest import Preprocess
from training import streams
from training.data import open_split
from training.distributed import Team
from training.settings import TrainSettings
from training.streams import ShardStream, StreamBatches

RECIPE = Preprocess(height=16, width=16)
CLASSES = ("ant", "bee")
SHARDS, PER_SHARD = 4, 6


def shard(names: list[str], broken: bool = False) -> bytes:
    """Pictures whose colour tells them apart."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            number = int(name)
            picture = io.BytesIO()
            Image.new("RGB", (16, 16), (number, 255 - number, 9)).save(picture, "png")
            content = b"no picture" if broken and number == 0 else picture.getvalue()
            for suffix, file in (("png", content), ("cls", CLASSES[number % 2].encode())):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(file)
                archive.addfile(member, io.BytesIO(file))
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Serves s-0.tar to s-3.tar with ranges; breaks off once in the middle of each."""
    monkeypatch.setattr(streams, "_PAUSE_SECONDS", 0.0)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.removeprefix("/s-").removesuffix(".tar"))
            if number >= SHARDS:
                self.send_error(404)
                return
            content = shard([f"{PER_SHARD * number + i:03}" for i in range(PER_SHARD)], broken=True)
            start = int(self.headers.get("Range", "").removeprefix("bytes=").rstrip("-") or 0)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:] if self.path in asked else content[start : len(content) // 2])
            asked.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}/s-{{0..{SHARDS - 1}}}.tar", asked
    served.shutdown()
    served.server_close()


@pytest.fixture
def stream(tmp_path: Path) -> ShardStream:
    for number in range(SHARDS):
        (tmp_path / f"s-{number}.tar").write_bytes(shard([f"{PER_SHARD * number + i:03}" for i in range(PER_SHARD)]))
    return ShardStream(f"file://{tmp_path}/s-{{0..{SHARDS - 1}}}.tar", CLASSES)


def names(stream: ShardStream, count: int, epoch: int = 0, team: Team | None = None) -> list[str]:
    with closing(stream.samples(7, epoch, team or Team())) as samples:
        return [sample.picture.name for sample in islice(samples, count)]


def test_an_epoch_has_every_picture_once_and_each_its_own_order(stream: ShardStream) -> None:
    assert len(stream) == SHARDS * PER_SHARD
    first, again, second = (names(stream, len(stream), epoch) for epoch in (0, 0, 1))
    assert first == again != second
    assert set(Counter(first).values()) == set(Counter(second).values()) == {1}
    assert len(first) == len(set(first)) == 24


def test_processes_share_an_epoch_without_overlap(stream: ShardStream) -> None:
    halves = [names(stream, len(stream) // 2, team=Team(rank, 2)) for rank in range(2)]
    assert len(set(halves[0]) | set(halves[1])) == len(stream)
    alone = names(stream, len(stream))
    assert [alone[0::2], alone[1::2]] == halves
    with pytest.raises(InputError, match="5 processes"):
        names(stream, 1, team=Team(0, 5))


def test_a_lane_that_ends_begins_again(stream: ShardStream) -> None:
    assert set(Counter(names(stream, 2 * len(stream))).values()) == {2}


def test_shards_that_turn_out_empty_are_named_and_not_waited_for(stream: ShardStream, tmp_path: Path) -> None:
    for number in range(1, SHARDS):
        (tmp_path / f"s-{number}.tar").write_bytes(shard([]))
    with pytest.raises(DataError, match="hold no pictures"):
        names(stream, len(stream))


def batches(stream: ShardStream, mixup: float = 0.0) -> StreamBatches:
    return StreamBatches(stream, RECIPE, TrainSettings(batch_size=8, seed=3, mixup=mixup))


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_an_epoch_begun_in_its_middle_goes_on_as_it_would_have(stream: ShardStream, mixup: float) -> None:
    whole = list(batches(stream, mixup=mixup).epoch(2))
    resumed = list(batches(stream, mixup=mixup).epoch(2, first_step=1))
    assert (len(whole), len(resumed)) == (3, 2)
    for expected, again in zip(whole[1:], resumed, strict=True):
        np.testing.assert_array_equal(expected.pictures, again.pictures)
        np.testing.assert_array_equal(expected.labels, again.labels)
        assert (expected.shares is None) == (mixup == 0)


def test_labels_belong_to_their_pictures(stream: ShardStream) -> None:
    still = StreamBatches(stream, RECIPE, TrainSettings(batch_size=24, seed=3, flip=False, shift=0))
    (seen,) = still.epoch(0)
    red = np.rint((seen.pictures[:, 0, 0, 0] * 0.229 + 0.485) * 255).astype(int)
    assert sorted(red) == list(range(24))
    np.testing.assert_array_equal(seen.labels, red % 2)


def test_connections_that_break_off_are_taken_up_again_and_broken_pictures_counted(server: tuple[str, list[str]]) -> None:
    stream = ShardStream(server[0], CLASSES)
    found = batches(stream)
    assert sum(len(seen.labels) for seen in found.epoch(0)) == 23
    assert list(found.pictures.unreadable) == ["s-0.tar/000.png"]
    assert len(server[1]) >= 2 * SHARDS


def test_a_shard_that_is_not_there_is_named(server: tuple[str, list[str]]) -> None:
    with pytest.raises(DataError, match=r"s-9\.tar cannot be read .*404"):
        ShardStream(server[0].replace("{0..3}", "9"), CLASSES)


def test_other_classes_than_the_validation_pictures_have_are_refused(stream: ShardStream) -> None:
    with pytest.raises(DataError, match="is of class 'ant'"):
        ShardStream(stream.location, ("cat", "dog"))


def test_a_stream_is_measured_on_pictures_at_hand(stream: ShardStream, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--validation"):
        open_split(stream.location)
    (tmp_path / "val.tar").write_bytes(shard(["200", "201"]))
    split = open_split(stream.location, str(tmp_path / "val.tar"))
    assert split.train.classes == split.validation.classes == CLASSES
    assert split.train.reference().count == 24
