"""Batch scoring: every picture once, whatever the input, whatever happens on the way."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from PIL import Image

from alexnet_deploy.artifact import read_manifest
from alexnet_deploy.backends.fake import FakeBackend, write_fake
from alexnet_deploy.cli import main
from alexnet_deploy.errors import BackendError, DataError, InputError
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.score import ScoreReport, score
from alexnet_deploy.score.distributed import tasks
from alexnet_deploy.score.find import find
from alexnet_deploy.types import BatchRange
from tests.patience import PATIENCE_S, killed_after, until
from tests.picture_files import png


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "shoes.onnx"
    write_fake(path, height=16, width=16)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 pictures in two folders, two of them broken, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(25):
        path = folder / ("a" if i % 2 else "b") / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(i))
    (folder / "a" / "03.png").write_bytes(png(3)[:200])
    (folder / "b" / "04.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run(model: Path, source: str | Path, output: str | Path, **options: Any) -> ScoreReport:
    return score(model, str(source), str(output), **{"backend": "fake", "shard_size": 4, **options})


def results(output: str | Path, kind: str = "part") -> dict[str, dict[str, Any]]:
    """Every row by its picture; fails when a picture stands there twice."""
    files = fsspec.open_files(f"{output}/{'_rejects/' if kind == 'rejects' else ''}part-*.parquet", "rb")
    rows: list[dict[str, Any]] = []
    for file in files:
        with file as opened:
            rows += pyarrow.parquet.read_table(opened).to_pylist()
    found = {row["picture"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_picture_gets_the_class_that_runtime_gives_it(model: Path, photos: Path, tmp_path: Path) -> None:
    report = run(model, photos, tmp_path / "out")
    assert (report.scored, report.rejected, report.shards, report.resumed) == (23, 2, 7, 0)
    found = results(tmp_path / "out")
    sound = sorted(p for p in photos.rglob("*.png") if p.name not in ("03.png", "04.png"))
    assert sorted(found) == [str(p) for p in sound]
    with Runtime(model, backend="fake") as runtime:
        for path in sound:
            expected = runtime.classify([path], top=1)[0][0]
            row = found[str(path)]
            assert (row["label"], row["probability"]) == (expected.label, pytest.approx(expected.probability, rel=1e-5))
            assert row["class"] == int(row["label"])
            assert row["model"] == read_manifest(model).sha256


def test_the_output_as_a_whole_is_one_table(model: Path, photos: Path, tmp_path: Path) -> None:
    run(model, photos, tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert table.num_rows == 23
    assert table.column_names == ["picture", "label", "class", "probability", "model"]


def test_what_cannot_be_read_is_rejected_with_the_reason(model: Path, photos: Path, tmp_path: Path) -> None:
    run(model, photos, tmp_path / "out")
    rejected = results(tmp_path / "out", "rejects")
    assert sorted(Path(name).name for name in rejected) == ["03.png", "04.png"]
    assert all("cannot be read as a picture" in row["reason"] for row in rejected.values())


def test_a_glob_and_a_list_name_the_same_pictures(model: Path, photos: Path, tmp_path: Path) -> None:
    run(model, f"{photos}/a/*.png", tmp_path / "glob")
    listed = tmp_path / "list.txt"
    listed.write_text("# those in a\n" + "\n".join(str(p) for p in sorted((photos / "a").iterdir())) + f"\n{photos}/none.png\n")
    run(model, listed, tmp_path / "list")
    assert results(tmp_path / "glob") == results(tmp_path / "list")
    assert "cannot be read" in results(tmp_path / "list", "rejects")[f"{photos}/none.png"]["reason"]


@pytest.mark.parametrize("shape", ["binary", "struct"])
def test_parquet_with_pictures_is_cut_at_its_row_groups(model: Path, tmp_path: Path, shape: str) -> None:
    files = [png(i) for i in range(10)]
    files[6] = b"broken"
    cells = files if shape == "binary" else [{"bytes": f, "path": None} for f in files]
    table = pyarrow.table({"image": cells, "id": [f"p{i}" for i in range(10)]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    report = run(model, tmp_path / "in.parquet", tmp_path / "out")
    assert (report.scored, report.rejected, report.shards) == (9, 1, 4)
    assert sorted(results(tmp_path / "out")) == [f"p{i}" for i in range(10) if i != 6]
    assert list(results(tmp_path / "out", "rejects")) == ["p6"]


def test_rows_without_a_name_are_called_by_their_number(model: Path, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"jpg": [png(i) for i in range(5)]}), tmp_path / "in.parquet", row_group_size=2)
    run(model, tmp_path / "in.parquet", tmp_path / "out")
    assert sorted(results(tmp_path / "out")) == [f"{tmp_path}/in.parquet#{i}" for i in range(5)]


def test_a_number_is_a_name_also_where_it_is_nought(model: Path, tmp_path: Path) -> None:
    table = pyarrow.table({"jpg": [png(i) for i in range(4)], "id": [0, 1, None, 3], "path": ["", "x", "y", None]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    run(model, tmp_path / "in.parquet", tmp_path / "by id", name_column="id")
    assert sorted(results(tmp_path / "by id")) == sorted(["0", "1", "3", f"{tmp_path}/in.parquet#2"])
    run(model, tmp_path / "in.parquet", tmp_path / "by path")
    assert sorted(results(tmp_path / "by path")) == sorted(["x", "y", f"{tmp_path}/in.parquet#0", f"{tmp_path}/in.parquet#3"])


def test_names_that_are_no_utf_8_are_written_by_their_numbers(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, content in enumerate((png(0), b"broken")):
        (tmp_path / "in" / os.fsdecode(b"%d-\xff.png" % number)).write_bytes(content)
    report = run(model, tmp_path / "in", tmp_path / "out")
    assert (report.scored, report.rejected) == (1, 1)
    assert list(results(tmp_path / "out")) == [f"{tmp_path}/in/0-\\udcff.png"]
    assert list(results(tmp_path / "out", "rejects")) == [f"{tmp_path}/in/1-\\udcff.png"]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": -3}, {"threads": -1}, {"shard_size": 2.5}])
def test_numbers_that_count_nothing_are_refused(model: Path, photos: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a whole number, at least 1"):
        run(model, photos, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_favourite_batch_without_measure_does_not_fill_the_memory(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = FakeBackend.run
    monkeypatch.setattr(FakeBackend, "run", lambda self, batch: (calls.append(len(batch)), original(self, batch))[1])
    monkeypatch.setattr("alexnet_deploy.score.work.MOST_AT_ONCE", 5)
    path = write_fake(tmp_path / "m.onnx", height=16, width=16, batch=BatchRange(1, 10**9, 10**9)).path
    run(path, photos, tmp_path / "out", shard_size=100)
    assert calls == [5, 5, 5, 5, 3]


def test_urls_are_read_and_written_through_fsspec(model: Path) -> None:
    memory = fsspec.filesystem("memory")
    for i in range(6):
        memory.pipe_file(f"/photos/{i}.png", png(i))
    memory.pipe_file("/photos/6.png", b"broken")
    report = run(model, "memory://photos", "memory://scores")
    assert (report.scored, report.rejected) == (6, 1)
    assert sorted(results("memory://scores")) == [f"memory:///photos/{i}.png" for i in range(6)]
    assert run(model, "memory://photos", "memory://scores").resumed == report.shards


def test_what_was_half_written_over_a_network_does_not_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for i in range(6):
        memory.pipe_file(f"/more/{i}.png", png(i))
    whole = type(memory).pipe_file

    def cut_off(self: Any, path: str, content: bytes, **options: Any) -> None:
        whole(self, path, content[: len(content) // 2 if "part-00000001" in path else None], **options)
        if "part-00000001" in path:
            raise OSError("the connection is gone")

    monkeypatch.setattr(type(memory), "pipe_file", cut_off)
    with pytest.raises(DataError, match="the connection is gone"):
        run(model, "memory://more", "memory://cut")
    monkeypatch.undo()
    assert run(model, "memory://more", "memory://cut").resumed == 1
    assert len(results("memory://cut")) == 6


def test_a_second_run_has_nothing_to_do(model: Path, photos: Path, tmp_path: Path) -> None:
    first = run(model, photos, tmp_path / "out")
    before = results(tmp_path / "out")
    second = run(model, photos, tmp_path / "out")
    assert (second.scored, second.rejected, second.resumed) == (0, 0, first.shards)
    assert results(tmp_path / "out") == before


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_run_that_fails_goes_on_where_it_was(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    engine = FakeBackend.run

    def fails(self: FakeBackend, batch: np.ndarray) -> np.ndarray:
        if len(self.calls) > stop_after:
            raise BackendError("the engine is gone")
        return engine(self, batch)

    monkeypatch.setattr(FakeBackend, "run", fails)
    with pytest.raises(BackendError):
        run(model, photos, tmp_path / "out")
    monkeypatch.setattr(FakeBackend, "run", engine)
    part_way = results(tmp_path / "out")
    assert 0 < len(part_way) < 23
    run(model, photos, tmp_path / "out")
    assert len(results(tmp_path / "out")) == 23
    assert len(results(tmp_path / "out", "rejects")) == 2


def test_a_picture_that_the_engine_chokes_on_is_one_reject(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeBackend.run
    target = photos / "a" / "05.png"
    with Runtime(model, backend="fake") as runtime:
        poison = runtime.logits(np.asarray(Image.open(target))[None])[0, 0]

    def chokes(self: FakeBackend, batch: np.ndarray) -> np.ndarray:
        answer = engine(self, batch)
        answer[answer[:, 0] == poison] = np.nan
        return answer

    monkeypatch.setattr(FakeBackend, "run", chokes)
    report = run(model, photos, tmp_path / "out")
    assert (report.scored, report.rejected) == (22, 3)
    assert "NaN" in results(tmp_path / "out", "rejects")[str(target)]["reason"]


def test_results_of_other_work_are_not_mixed(model: Path, photos: Path, tmp_path: Path) -> None:
    run(model, photos, tmp_path / "out")
    other = tmp_path / "other.onnx"
    write_fake(other, height=16, width=16)
    other.write_bytes(b"another model\n")
    write_fake(tmp_path / "x" / "other.onnx", height=8, width=8)
    with pytest.raises(InputError, match="changed since"):
        run(model, photos, tmp_path / "out", shard_size=5)
    with pytest.raises(InputError, match="another input"):
        run(model, f"{photos}/a", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "part-00000000.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="parts without"):
        run(model, photos, tmp_path / "full")


def test_results_of_another_model_are_not_mixed(photos: Path, tmp_path: Path) -> None:
    from alexnet_deploy.artifact import write_artifact

    write_fake(tmp_path / "a.onnx", height=16, width=16)
    write_artifact(tmp_path / "b.onnx", read_manifest(tmp_path / "a.onnx"), b"other weights")
    run(tmp_path / "a.onnx", photos, tmp_path / "out")
    with pytest.raises(InputError, match="another model"):
        run(tmp_path / "b.onnx", photos, tmp_path / "out")


def empty(folder: Path) -> str:
    return str(folder)


def no_pictures(folder: Path) -> str:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), folder / "in.parquet")
    return str(folder / "in.parquet")


def broken_parquet(folder: Path) -> str:
    (folder / "in.parquet").write_bytes(b"PAR1 and no more")
    return str(folder / "in.parquet")


def twice(folder: Path) -> str:
    (folder / "in.txt").write_text("a.png\na.png\n")
    return str(folder / "in.txt")


def no_text(folder: Path) -> str:
    (folder / "in.txt").write_bytes(b"\xff\xfe\x00")
    return str(folder / "in.txt")


def unknown(folder: Path) -> str:
    return "nosuch://bucket/photos"


@pytest.mark.parametrize("make", [empty, no_pictures, broken_parquet, twice, no_text, unknown])
def test_input_that_is_none_is_refused(tmp_path: Path, make: Callable[[Path], str]) -> None:
    with pytest.raises(DataError):
        find(make(tmp_path), shard_size=10)


def test_the_same_work_is_cut_the_same_way(photos: Path) -> None:
    assert find(str(photos), shard_size=4) == find(str(photos), shard_size=4)
    assert find(str(photos), shard_size=4).digest != find(str(photos), shard_size=5).digest


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-c", "from alexnet_deploy.cli import main; main()", "score", *map(str, words), "--backend", "fake"]


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*")))


def test_killed_runs_lose_nothing_and_double_nothing(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(240):
        (folder / f"{i:03d}.png").write_bytes(png(0) if i % 30 else b"broken")
    words = command(folder, tmp_path / "out", "-m", model, "--shard-size", "2")
    kills = sum(killed_after(words, lambda: parts(tmp_path / "out"), more=20) for _ in range(2))
    assert kills == 2
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["resumed"] >= 40
    names = set(results(tmp_path / "out")) | set(results(tmp_path / "out", "rejects"))
    assert names == {str(p) for p in folder.iterdir()}
    assert len(results(tmp_path / "out")) == 232


def test_the_command_says_what_it_did(model: Path, photos: Path, tmp_path: Path) -> None:
    words = ["score", str(photos), str(tmp_path / "out"), "-m", str(model), "--backend", "fake"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert "23 pictures" in shown.stdout
    assert "2 pictures; the reasons are in" in shown.stdout


def on_a_small_disk(folder: Path, kilobytes: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command with a disk of that size at `folder`, which nobody else sees; then names the whole files on it."""
    folder.mkdir()
    script = (
        f'mount -t tmpfs -o size={kilobytes}k tmpfs "$0" || exit 99; "$@"; code=$?; '
        'find "$0" -type f -printf "%P %s\\n" | sort >&2; exit $code'
    )
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, str(folder), *words], capture_output=True, text=True, timeout=PATIENCE_S
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode in (1, 99) and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("disks can be mounted by an administrator only")
    return done


def test_a_full_disk_is_one_line_and_every_part_on_it_is_whole(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(40):
        (tmp_path / "in" / f"{i}.png").write_bytes(png(i))
    done = on_a_small_disk(
        tmp_path / "disk", 64, command(tmp_path / "in", tmp_path / "disk" / "out", "-m", model, "--shard-size", "1")
    )
    said, *files = done.stderr.splitlines()
    assert done.returncode == 2
    assert "No space left on device" in said
    names = [line.split()[0] for line in files if not line.startswith("Try")]
    assert "out/_score.json" in names
    parts = [name for name in names if name != "out/_score.json"]
    assert 1 <= len(parts) < 40
    assert all(re.fullmatch(r"out/part-\d{8}\.parquet", name) for name in parts)  # and no temporary file
    sizes = [int(line.split()[1]) for line in files if "part-" in line]
    assert min(sizes) > 0.9 * max(sizes)  # of one picture each: none is cut


def test_a_disk_that_takes_no_more_is_one_line_and_no_half_part(model: Path, photos: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk where none can be mounted."""
    words = command(photos, tmp_path / "out", "-m", model)
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "score", *words]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["_score.json"]


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("named", ["folder", "glob", "braces", "list"])
def test_tars_are_a_part_each_and_labels_in_them_are_passed_over(model: Path, tmp_path: Path, named: str) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    tar(shards / "a-00.tar", {"0.png": png(0), "0.cls": b"3", "1.png": png(1), "1.json": b"{}"})
    tar(shards / "a-01.tar", {"2.png": b"broken", "2.cls": b"cat", "deep/3.png": png(3)})
    (shards / "classes.txt").write_text("cat\n")
    (tmp_path / "tars.txt").write_text(f"{shards}/a-00.tar\n{shards}/a-01.tar\n")
    source = {"folder": shards, "glob": f"{shards}/*.tar", "braces": f"{shards}/a-{{00..01}}.tar", "list": tmp_path / "tars.txt"}[
        named
    ]
    report = run(model, source, tmp_path / "out")
    assert (report.scored, report.rejected, report.shards) == (3, 1, 2)
    assert sorted(results(tmp_path / "out")) == [f"{shards}/a-00.tar/{i}.png" for i in (0, 1)] + [f"{shards}/a-01.tar/deep/3.png"]
    assert list(results(tmp_path / "out", "rejects")) == [f"{shards}/a-01.tar/2.png"]


def test_a_tar_that_is_cut_off_is_named_and_its_part_not_written(model: Path, tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(20)})
    whole.write_bytes(whole.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar"):
        run(model, whole, tmp_path / "out")
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_set_as_it_is_distributed_is_scored_whole_or_by_part(model: Path, tmp_path: Path) -> None:
    """CIFAR-10's binary version; ImageNet's tars and the MNIST family go the same way."""
    random = np.random.default_rng(0)
    cifar = tmp_path / "cifar-10"
    cifar.mkdir()
    (cifar / "batches.meta.txt").write_text("".join(f"class{i}\n" for i in range(10)))
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = random.integers(0, 256, (20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        (cifar / name).write_bytes(records.tobytes())
    report = run(model, cifar, tmp_path / "all", shard_size=8)
    assert (report.scored, report.shards) == (40, 6)
    assert run(model, f"{cifar}:test", tmp_path / "test", shard_size=8).scored == 20
    found, test = results(tmp_path / "all"), results(tmp_path / "test")
    assert {name: found[name] for name in test} == test
    assert sorted(test)[0].startswith("test/class0/")


def test_imagenets_tars_are_cut_into_shards(tmp_path: Path) -> None:
    inner = {
        f"n0{i}.tar": tar(tmp_path / "class.tar", {f"n0{i}_{k}.JPEG": png(k) for k in range(3)}).read_bytes() for i in (1, 2)
    }
    folder = tmp_path / "imagenet"
    folder.mkdir()
    tar(folder / "ILSVRC2012_img_train.tar", inner)
    work = find(str(folder), shard_size=4)
    assert [len(list(shard.pictures())) for shard in work.shards] == [4, 2]
    assert find(str(folder), shard_size=4).digest == work.digest


def test_the_demo_pictures_are_a_set_too() -> None:
    assert [len(list(shard.pictures())) for shard in find("demo", shard_size=600).shards] == [600, 400]


@pytest.mark.parametrize(
    ("shards", "workers", "expected"), [(1, 8, 1), (100, 2, 100), (300, 2, 100), (100_000, 2, 2000), (100_000, 1280, 10_000)]
)
def test_many_shards_share_a_task_but_every_worker_has_some(shards: int, workers: int, expected: int) -> None:
    assert tasks(shards, workers) == expected


def descendants(process: int) -> list[int]:
    """Numbers of all processes that come from this one."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents.setdefault(int(status.read_text().rpartition(")")[2].split()[1]), []).append(int(status.parent.name))
    found = [process]
    for number in found:
        found += parents.get(number, [])
    return found[1:]


@pytest.mark.slow
def test_ray_gives_the_same_parts_though_a_worker_is_killed_within_one(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(600):
        (folder / f"{i:03d}.png").write_bytes(png(i % 7) if i % 30 else b"broken")
    run(model, folder, tmp_path / "here", shard_size=2)
    words = command(folder, tmp_path / "ray", "-m", model, "--shard-size", "2", "--ray", "2", "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: process.poll() is not None or parts(tmp_path / "ray") >= 10)
        names = {number: Path(f"/proc/{number}/cmdline").read_text() for number in descendants(process.pid)}
        os.kill(next(number for number, name in names.items() if name.startswith("ray::MapWorker")), signal.SIGKILL)
        done_already = parts(tmp_path / "ray")
        said, complained = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, complained
    assert done_already < 300
    report = json.loads(said)
    assert (report["scored"], report["rejected"], report["workers"]) == (580, 20, 2)
    assert results(tmp_path / "ray") == results(tmp_path / "here")
    assert results(tmp_path / "ray", "rejects") == results(tmp_path / "here", "rejects")
