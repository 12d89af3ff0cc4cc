"""predict: files, folders and the demo set in; a table or JSON out; broken pictures reported, the rest done."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.cli import main
from alexnet_deploy.types import GraphForm
from tests.tiny import LABELS, picture_batch, tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("tiny") / "model.onnx")


def predict(artifact: Artifact, *words: object) -> Result:
    return CliRunner().invoke(main, ["predict", str(artifact.path), *map(str, words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(picture_batch(1, seed=index)[0]).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def test_a_table_names_each_picture_and_its_class(artifact: Artifact, folder: Path) -> None:
    done = predict(artifact, folder / "0.png", folder, "--top", 2)
    assert done.exit_code == 0, done.output
    assert "4 pictures by onnxruntime" in done.stdout
    assert any(label in done.stdout for label in LABELS)


def test_a_long_folder_that_all_pictures_share_is_told_once_where_the_table_is_too_wide(artifact: Artifact, folder: Path) -> None:
    deep = folder / ("long" * 15)
    deep.mkdir()
    for number in range(3):
        (folder / f"{number}.png").rename(deep / f"{number}.png")
    narrow, wide = (
        CliRunner().invoke(main, ["predict", str(artifact.path), str(folder), "--top", "2"], env={"COLUMNS": columns})
        for columns in ("80", "400")
    )
    assert narrow.stdout.count("0.png") == 1  # one table
    assert f"allin{deep}:" in "".join(narrow.stdout.split())
    assert f"{deep}/0.png" in wide.stdout
    assert "all in" not in wide.stdout


def test_what_never_ran_is_not_said_to_have_run(tmp_path: Path) -> None:
    done = predict(tiny_artifact(tmp_path / "model.onnx", form=GraphForm.TENSORRT), tmp_path / "nowhere.png")
    assert (done.exit_code, done.stdout) == (2, "")


def test_json_holds_every_picture_in_order(artifact: Artifact, folder: Path) -> None:
    done = predict(artifact, folder, "demo:test", "--top", 1, "--json", "--batch", 7)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [Path(p["name"]).name for p in data["pictures"][:3]] == ["0.png", "1.png", "2.png"]
    assert len(data["pictures"]) == 1003
    assert all(len(p["predictions"]) == 1 for p in data["pictures"])
    assert data["ran"]["backend"] == "onnxruntime"


def test_json_and_json_lines_say_the_same_of_a_picture(artifact: Artifact, folder: Path) -> None:
    pictures = json.loads(predict(artifact, folder, "--top", 2, "--json").stdout)["pictures"]
    lines = predict(artifact, folder, "--top", 2, "--format", "jsonl").stdout.splitlines()
    assert pictures == [json.loads(line) for line in lines]
    assert [set(answer) for answer in pictures[0]["predictions"]] == [{"label", "probability"}] * 2


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_stdout_takes_one_answer(artifact: Artifact, folder: Path, form: str) -> None:
    done = predict(artifact, folder, "--format", form, "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"--json and --format {form}" in done.stderr
    assert predict(artifact, folder, "--format", "table", "--json").exit_code == 0


def test_broken_pictures_are_reported_and_do_not_stop_the_rest(artifact: Artifact, folder: Path) -> None:
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = predict(artifact, folder, folder / "none.jpg", "--json")
    assert done.exit_code == 2
    data = json.loads(done.stdout)
    assert [bool(p["error"]) for p in data["pictures"]] == [False, True, False, True]
    assert "1.png cannot be read" in done.stderr
    assert "none.jpg does not exist" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x.jpg", "--backend", "caffe"], "there is no backend 'caffe'"),
        (["demo:nonsense"], "nonsense"),
    ],
)
def test_mistakes_give_one_sentence_and_no_traceback(artifact: Artifact, words: list[str], sentence: str) -> None:
    done = predict(artifact, *words)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def test_an_empty_folder_is_said(artifact: Artifact, tmp_path: Path) -> None:
    done = predict(artifact, tmp_path)
    assert done.exit_code == 2
    assert "holds no pictures" in done.stderr


def test_patterns_lists_and_stdin_name_pictures(artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{folder / '0.png'}\n\n{folder / '2.png'}\n")
    words = ["predict", str(artifact.path), f"{folder}/*.png", f"@{tmp_path / 'list.txt'}", "-", "--format", "jsonl"]
    done = CliRunner().invoke(main, words, input=f"{folder / '1.png'}\n")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["name"]).name for row in rows] == ["0.png", "1.png", "2.png", "0.png", "2.png", "1.png"]
    assert len(rows[0]["predictions"]) == 5


def test_csv_has_a_column_for_each_rank_and_a_row_for_each_picture(artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    (folder / "1.png").write_bytes(b"broken")
    done = predict(artifact, folder, "--top", 2, "-o", tmp_path / "out.csv")
    assert done.exit_code == 2
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "label_1", "probability_1", "label_2", "probability_2", "error"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert rows[0]["label_1"] in LABELS


def test_parquet_has_the_columns_of_csv_with_their_types(artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    (folder / "1.png").write_bytes(b"broken")
    assert predict(artifact, folder, "--top", 2, "-o", tmp_path / "out.csv").exit_code == 2
    done = predict(artifact, folder, "--top", 2, "-o", tmp_path / "out.parquet")
    assert done.exit_code == 2
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert table.column_names == list(rows[0])
    assert [str(table.schema.field(name).type) for name in ("name", "label_1", "probability_1")] == ["string", "string", "float"]
    assert table["label_2"].to_pylist() == [row["label_2"] or None for row in rows]
    assert table["probability_2"].to_pylist() == [
        pytest.approx(float(row["probability_2"]), rel=1e-5) if row["probability_2"] else None for row in rows
    ]
    assert [bool(error) for error in table["error"].to_pylist()] == [False, True, False]


def test_a_file_of_rows_appears_whole_or_not_at_all(artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    done = predict(artifact, folder, tmp_path / "nothing*.png", "-o", tmp_path / "out.jsonl")
    assert done.exit_code == 2
    assert "nothing matches" in done.stderr
    assert not list(tmp_path.glob("*out.jsonl*"))


def test_another_suffix_is_refused(artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    done = predict(artifact, folder, "-o", tmp_path / "out.xlsx")
    assert done.exit_code == 2
    assert "expected .csv, .jsonl or .parquet" in done.stderr


def program(*words: object) -> list[str]:
    return [sys.executable, "-m", "alexnet_deploy", "predict", *map(str, words)]


@pytest.mark.parametrize(("form", "first"), [("csv", b"name,label_1,probability_1,error\n"), ("jsonl", b'{"name": "')])
def test_rows_go_to_stdout_and_errors_to_stderr(artifact: Artifact, folder: Path, form: str, first: bytes) -> None:
    """In a process of its own: only there is stdout a descriptor, which what libraries print is kept from."""
    (folder / "1.png").write_bytes(b"broken")
    ran = subprocess.run(program(artifact.path, folder, "--format", form, "--top", 1), capture_output=True)
    assert ran.returncode == 2
    assert ran.stdout.startswith(first)
    assert ran.stdout.count(b"\n") == (4 if form == "csv" else 3)
    assert ran.stderr.startswith(b"error: ")
    assert ran.stderr.count(b"\n") == 1


def test_a_reader_that_has_enough_ends_a_stream_without_end(artifact: Artifact, folder: Path) -> None:
    words = program(artifact.path, "-", "--format", "csv")
    names = f"{folder / '0.png'}\n".encode()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        assert ran.stdin
        assert ran.stdout
        assert ran.stderr
        feeder = threading.Thread(target=_feed, args=(ran.stdin, names))
        feeder.start()
        assert ran.stdout.readline().startswith(b"name,")
        ran.stdout.close()
        assert ran.stderr.read() == b""
        assert ran.wait(30) == 0
        feeder.join()


def _feed(pipe: IO[bytes], line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:
        while True:
            pipe.write(line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_full_is_said(artifact: Artifact, folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(program(artifact.path, folder, "--format", "csv"), stdout=full, stderr=subprocess.PIPE)
    assert (ran.returncode, ran.stderr) == (2, b"error: No space left on device\n")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_names_that_are_no_utf_8_come_out_by_number(artifact: Artifact, folder: Path, tmp_path: Path, encoding: str) -> None:
    name = os.fsencode(folder) + b"/\xff.png"
    (folder / "0.png").rename(os.fsdecode(name))
    (tmp_path / "list.txt").write_bytes(name + b"\r\n")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"}
    for what in (["-", "--format", "csv"], [f"@{tmp_path}/list.txt", "--format", "jsonl"], [f"{folder}/*"], [folder, "--json"]):
        ran = subprocess.run(program(artifact.path, *what), input=name, capture_output=True, env=environment)
        assert (ran.returncode, ran.stderr) == (0, b""), what
        assert rb"\udcff.png" in ran.stdout
    for suffix in ("csv", "jsonl", "parquet"):
        assert predict(artifact, folder, "-o", tmp_path / f"out.{suffix}").exit_code == 0
    assert rb"\udcff.png" in (tmp_path / "out.csv").read_bytes()
    assert r"\udcff.png" in pyarrow.parquet.read_table(tmp_path / "out.parquet")["name"][2].as_py()
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert os.fsencode(rows[2]["name"]) == name


@pytest.mark.skipif(os.name != "posix", reason="no shell")
@pytest.mark.parametrize("closed", [">&-", "--format csv >&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_mistake(artifact: Artifact, folder: Path, closed: str) -> None:
    ran = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *program(artifact.path, folder)], capture_output=True)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize("form", [(), ("--format", "csv"), ("-o", "out.csv")])
@pytest.mark.parametrize("where", ["-", "@empty.txt"])
def test_a_list_of_nothing_is_said(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, form: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n\n")
    done = predict(artifact, where, *form)
    assert done.exit_code == 2
    assert "names no pictures" in done.stderr
    assert not Path("out.csv").exists()


def test_a_list_may_have_a_byte_order_mark_and_must_be_text(artifact: Artifact, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"\ufeff{folder / '0.png'}\r\n{folder}\r\n", encoding="utf-8", newline="")
    done = predict(artifact, f"@{tmp_path}/list.txt", "--json")
    assert [Path(picture["name"]).name for picture in json.loads(done.stdout)["pictures"]] == ["0.png", "0.png", "1.png", "2.png"]
    (tmp_path / "list.txt").write_text(str(folder / "0.png"), encoding="utf-16")
    done = predict(artifact, f"@{tmp_path}/list.txt")
    assert done.exit_code == 2
    assert "is no text" in done.stderr
    (tmp_path / "list.txt").write_text(f"@{tmp_path}/list.txt")
    done = predict(artifact, f"@{tmp_path}/list.txt")
    assert done.exit_code == 2
    assert "names itself" in done.stderr


def test_a_pattern_finds_each_picture_once_where_links_lead_in_circles(artifact: Artifact, folder: Path) -> None:
    (folder / "here").symlink_to(".")
    (folder / "same.png").symlink_to("0.png")  # another name for a file is another picture to the caller
    (folder / "gone.png").symlink_to("nowhere.png")
    data = json.loads(predict(artifact, f"{folder}/**/*.png", "--json").stdout)
    assert [Path(picture["name"]) for picture in data["pictures"]] == [
        folder / n for n in ("0.png", "1.png", "2.png", "same.png")
    ]


def test_a_folder_means_all_pictures_below_it(artifact: Artifact, folder: Path) -> None:
    """Also those beside subfolders, which training does not look at, and though a subfolder is empty."""
    (folder / "day 2" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "0.png").rename(folder / "day 2" / "deep" / "0.png")
    (folder / "1.png").rename(folder / "day 2" / "1.PNG")
    (folder / "notes.txt").write_text("no picture")
    done = predict(artifact, folder, "--json")
    assert done.exit_code == 0, done.stderr
    found = [Path(picture["name"]) for picture in json.loads(done.stdout)["pictures"]]
    assert found == [folder / name for name in ("2.png", "day 2/1.PNG", "day 2/deep/0.png")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="who is root may look everywhere")
def test_what_may_not_be_looked_at_is_reported_and_does_not_stop_the_rest(artifact: Artifact, folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir()
    (folder / "0.png").rename(closed / "0.png")
    closed.chmod(0)
    try:
        done = predict(artifact, folder, closed / "0.png", "--json")
    finally:
        closed.chmod(0o700)
    assert done.exit_code == 2
    assert [bool(picture["error"]) for picture in json.loads(done.stdout)["pictures"]] == [False, False, True, True]
    assert done.stderr.count("Permission denied") == 2


def test_there_are_no_columns_for_more_classes_than_there_are(artifact: Artifact, folder: Path) -> None:
    done = predict(artifact, folder, "--top", 10**9, "--format", "csv")
    assert done.stdout.splitlines()[0].count("label_") == len(LABELS)
