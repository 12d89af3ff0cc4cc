"""Scoring from and to an S3 server: the real protocol, over loopback, with the client that users install.

    pip install moto[server,s3] s3fs && pytest tests/test_object_stores.py

Neither is a dependency, nor among those of development: where they are missing, only what is said about that is tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from alexnet_deploy.backends.fake import write_fake
from alexnet_deploy.cli import main
from tests.patience import PATIENCE_S, killed_after
from tests.picture_files import png

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
needs_s3 = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("moto", "s3fs", "flask")),
    reason="needs an S3 server and client: pip install 'moto[server,s3]' s3fs",
)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A filesystem of a server that holds an empty "bucket"."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "NO_PROXY": "*"}.items():
        monkeypatch.setenv(name, value)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    filesystem.mkdir("bucket")
    yield filesystem
    filesystem.rm("bucket", recursive=True)  # what a server holds outlives it in the process
    server.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_fake(tmp_path / "shoes.onnx", height=16, width=16).path


def command(source: str, output: str, model: Path, *words: str) -> list[str]:
    code = "from alexnet_deploy.cli import main; main()"
    return [sys.executable, "-c", code, "score", source, output, "-m", str(model), "--backend", "fake", "--json", *words]


def scored(source: str, output: str, model: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(command(source, output, model, *words), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def rows(filesystem: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Every row by its picture; fails when a picture stands there twice."""
    found = []
    for name in filesystem.glob(f"{folder}/part-*.parquet"):
        with filesystem.open(name, "rb") as file:
            found += pyarrow.parquet.read_table(file).to_pylist()
    by_picture = {row["picture"].rpartition("/")[2]: row for row in found}
    assert len(by_picture) == len(found)
    return by_picture


@needs_s3
def test_pictures_in_a_bucket_are_scored_as_on_a_disk(bucket: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(12):
        content = png(i) if i != 5 else b"broken"
        (tmp_path / "photos" / f"{i:02}.png").write_bytes(content)
        bucket.pipe_file(f"bucket/photos/{i:02}.png", content)
    report = scored("s3://bucket/photos", "s3://bucket/scores", model, "--shard-size", "5")
    assert (report["scored"], report["rejected"], report["shards"]) == (11, 1, 3)
    scored(str(tmp_path / "photos"), str(tmp_path / "scores"), model)
    here, there = rows(fsspec.filesystem("file"), str(tmp_path / "scores")), rows(bucket, "bucket/scores")
    assert [(r["label"], r["probability"]) for r in here.values()] == [(r["label"], r["probability"]) for r in there.values()]
    assert there["00.png"]["picture"] == "s3://bucket/photos/00.png"
    (rejected,) = rows(bucket, "bucket/scores/_rejects").values()
    assert rejected["picture"] == "s3://bucket/photos/05.png"
    assert "cannot be read as a picture" in rejected["reason"]
    assert scored("s3://bucket/photos", "s3://bucket/scores", model, "--shard-size", "5")["resumed"] == 3


@needs_s3
@pytest.mark.parametrize("kind", ["parquet", "tar", "list", "glob"])
def test_other_layouts_are_read_from_a_bucket_too(bucket: Any, model: Path, tmp_path: Path, kind: str) -> None:
    source = {"parquet": "in.parquet", "tar": "in-{00..01}.tar", "list": "in.txt", "glob": "photos/*.png"}[kind]
    if kind == "parquet":
        table = pyarrow.table({"image": [png(i) for i in range(6)], "name": [f"{i}.png" for i in range(6)]})
        pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=3)
        bucket.put(str(tmp_path / "in.parquet"), "bucket/in.parquet")
    else:
        for i in range(6):
            (tmp_path / f"{i}.png").write_bytes(png(i))
            bucket.pipe_file(f"bucket/photos/{i}.png", png(i))
        bucket.pipe_file("bucket/in.txt", "".join(f"s3://bucket/photos/{i}.png\n" for i in range(6)).encode())
        for number, names in enumerate((range(3), range(3, 6))):
            tar = tmp_path / f"in-{number:02}.tar"
            subprocess.run(["tar", "cf", tar, "-C", tmp_path, *(f"{i}.png" for i in names)], check=True)
            bucket.put(str(tar), f"bucket/{tar.name}")
    report = scored(f"s3://bucket/{source}", "s3://bucket/out", model, "--shard-size", "3")
    assert (report["scored"], report["rejected"], report["shards"]) == (6, 0, 2)
    assert sorted(rows(bucket, "bucket/out")) == [f"{i}.png" for i in range(6)]


@needs_s3
def test_a_run_that_is_killed_goes_on_in_the_bucket(bucket: Any, model: Path) -> None:
    for i in range(120):
        bucket.pipe_file(f"bucket/photos/{i:03}.png", png(0) if i % 30 else b"broken")
    words = ("s3://bucket/photos", "s3://bucket/scores", model, "--shard-size", "2")
    kills = sum(killed_after(command(*words), lambda: len(bucket.glob("bucket/scores/part-*")), more=8) for _ in range(2))
    assert kills == 2
    report = scored(*words)
    assert report["resumed"] >= 16
    assert report["shards"] == 60
    names = [*rows(bucket, "bucket/scores"), *rows(bucket, "bucket/scores/_rejects")]
    assert sorted(names) == [f"{i:03}.png" for i in range(120)]


def failing(source: str, output: str, model: Path, **environment: str) -> str:
    done = subprocess.run(
        command(source, output, model), capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | environment
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


@needs_s3
def test_what_a_store_refuses_is_one_line(bucket: Any, model: Path, tmp_path: Path) -> None:
    bucket.pipe_file("bucket/photos/0.png", png(0))
    assert "s3://nobody/photos" in failing("s3://nobody/photos", str(tmp_path / "out"), model)
    assert "s3://nobody/out" in failing("s3://bucket/photos", "s3://nobody/out", model)
    without = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    assert "s3://bucket/photos" in failing("s3://bucket/photos", str(tmp_path / "out"), model, **without)


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs")])
@pytest.mark.parametrize("place", ["input", "output", "list"])
def test_without_its_package_a_store_names_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, package: str, place: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    url, out = f"{protocol}://bucket/photos", str(tmp_path / "out")
    (tmp_path / "0.png").write_bytes(png(0))
    (tmp_path / "list.txt").write_text(f"{url}/0.png\n")
    source, output = {"input": (url, out), "output": (str(tmp_path / "0.png"), url), "list": (str(tmp_path / "list.txt"), out)}[
        place
    ]
    done = CliRunner().invoke(main, ["score", source, output, "-m", str(model), "--backend", "fake"])
    assert done.exit_code == 2
    assert f"pip install {package}" in done.stderr
