"""alexnet-deploy bench: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_artifact, tiny_graph

from alexnet_deploy.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_artifact(tmp_path / "one.onnx")
    tiny_artifact(tmp_path / "two.onnx", graph=tiny_graph(bias=0.5))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, ["bench", *words, "--seconds", "0.02"])


def test_every_artifact_at_every_batch_size(folder: Path) -> None:
    done = bench("one.onnx", "two.onnx", "--batch", "1,3", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(t["ran"]["file"], t["batch"]) for t in found["timings"]] == [
        ("one.onnx", 1),
        ("two.onnx", 1),
        ("one.onnx", 3),
        ("two.onnx", 3),
    ]
    assert all(t["p50_ms"] <= t["p90_ms"] <= t["p99_ms"] for t in found["timings"])
    assert found["machine"]["cpu"]


def test_a_person_reads_a_table_a_batch_size(folder: Path) -> None:
    done = bench("one.onnx", "two.onnx", "--batch", "1,3")
    assert "Batch 1" in done.stdout
    assert "Batch 3" in done.stdout
    assert "speed-up" in done.stdout


def test_one_artifact_has_nothing_to_be_compared_with(folder: Path) -> None:
    assert "speed-up" not in bench("one.onnx", "--batch", "1").stdout


def test_the_page_is_written(folder: Path) -> None:
    assert bench("one.onnx", "--batch", "1,2", "--html", "page.html").exit_code == 0
    assert "Throughput" in (folder / "page.html").read_text()


def test_threads_are_recorded(folder: Path) -> None:
    assert json.loads(bench("one.onnx", "--batch", "1", "--threads", "1", "--json").stdout)["threads"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.onnx"], "gone.onnx does not exist"),
        (["one.onnx", "--batch", "0"], "1 or more"),
        (["one.onnx", "--batch", "1,x"], "no list of whole numbers"),
        (["one.onnx", "--device", "cuda"], "cuda"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_timed_is_one_clear_sentence(folder: Path, words: list[str], message: str) -> None:
    done = bench(*words)
    assert done.exit_code == 2
    assert message.lower() in done.stderr.lower()
    assert "Traceback" not in done.output
