"""tune: the fastest way that holds its budgets, and Runtime following it. Which way is fastest is the machine's affair."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs

from alexnet_deploy.artifact import Artifact, read_manifest, update_manifest, write_artifact
from alexnet_deploy.cli import main
from alexnet_deploy.errors import InputError
from alexnet_deploy.machine import cpu_name, usable_cores
from alexnet_deploy.manifest import TunedRecord
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.tune import tune
from alexnet_deploy.types import GraphForm, Precision
from tests.test_four_bit import network
from tests.tiny import float_batch, tiny_artifact, tiny_graph

SECONDS = 0.01


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    demo = PictureSet.open("demo:test").subset(range(40))
    return replace(demo, classes=(), labels=demo.labels * 0 - 1)


HERE = TunedRecord(backend="openvino", device="cpu", threads=1, batch=1, latency_ms=1.0, cpu=cpu_name(), cores=usable_cores())


def test_runtime_follows_the_record_on_this_machine_only_and_only_unasked(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx", tuned=HERE)
    with Runtime(artifact.path) as runtime:
        assert runtime.backend == "openvino"
    for words in ({"device": "cpu"}, {"backend": "onnxruntime"}, {"threads": 2}):
        with Runtime(artifact.path, **words) as runtime:  # type: ignore[arg-type]
            assert runtime.backend == "onnxruntime"
    update_manifest(artifact, tuned=structs.replace(HERE, cpu="another"))
    with Runtime(artifact.path) as runtime:
        assert runtime.backend == "onnxruntime"


def test_a_record_of_a_backend_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx", tuned=structs.replace(HERE, backend="caffe"))
    with Runtime(artifact.path) as runtime:
        assert runtime.backend == "onnxruntime"


def test_the_choice_is_stored_and_the_file_stays_as_it_was(tmp_path: Path, pictures: PictureSet) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    report = tune([artifact], pictures=pictures, max_drop=1, seconds=SECONDS)
    assert report.chosen is not None
    assert report.path == artifact.path
    assert not report.missed
    stored = read_manifest(artifact.path)
    assert stored.tuned is not None
    assert (stored.tuned.backend, stored.tuned.threads) == (report.chosen.backend, report.chosen.threads)
    assert stored.sha256 == artifact.manifest.sha256
    assert {trial.backend for trial in report.trials} == {"onnxruntime", "openvino"}
    with Runtime(artifact.path) as runtime:
        assert runtime.backend == report.chosen.backend
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.json"]


def test_what_answers_otherwise_is_never_chosen(tmp_path: Path, pictures: PictureSet) -> None:
    good = tiny_artifact(tmp_path / "good.onnx")
    graph = tiny_graph()
    for tensor in graph.graph.initializer:
        if tensor.name == "matrix":
            tensor.raw_data = bytes(len(tensor.raw_data))  # all zeros: every picture gets the same answer
    bad = tiny_artifact(tmp_path / "bad.onnx", graph=graph)
    report = tune([good, bad], pictures=pictures, max_drop=1, seconds=SECONDS)
    assert report.chosen is not None
    assert report.chosen.file == "good.onnx"
    judged = [trial.verdict for trial in report.trials if trial.file == "bad.onnx"]
    assert set(judged) <= {"loses too much", "slower"}


def test_without_a_way_that_is_fast_enough_nothing_is_stored(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    report = tune([artifact], max_latency_ms=1e-6, seconds=SECONDS)
    assert report.chosen is None
    assert "at most 1e-06 ms" in report.missed[0]
    assert read_manifest(artifact.path).tuned is None
    done = CliRunner().invoke(main, ["tune", str(artifact.path), "--max-latency", "0.001us", "--seconds", "0.01", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["chosen"] is None


def test_int8_graphs_are_tried_in_4_bits_and_the_winner_can_be_copied(tmp_path: Path) -> None:
    whole = network(tmp_path)
    manifest = structs.replace(whole.manifest, precision=Precision.INT8, form=GraphForm.CPU, reduce_range=True)
    artifact = write_artifact(tmp_path / "m.int8.cpu.onnx", manifest, whole.path.read_bytes())
    report = tune([artifact], seconds=SECONDS, output=tmp_path / "out" / "best.onnx")
    assert {trial.file for trial in report.trials} == {"m.int8.cpu.onnx", "m.int4.cpu.onnx"}  # no blocks of 128 there
    assert report.path == tmp_path / "out" / "best.onnx"
    with Runtime(report.path) as runtime:
        assert runtime.manifest.tuned is not None
        assert runtime.predict(float_batch(2)).shape == (2, 7)
    assert not list(tmp_path.glob(".tune-*"))


def test_a_drop_cannot_be_limited_without_pictures(tmp_path: Path) -> None:
    artifact: Artifact = tiny_artifact(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="no pictures"):
        tune([artifact], max_drop=1)
    with pytest.raises(InputError, match="nothing to tune"):
        tune([])


def test_the_command_shows_a_table(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    done = CliRunner().invoke(main, ["tune", str(artifact.path), "--seconds", "0.01"])
    assert done.exit_code == 0, done.output
    assert "chosen" in done.stdout
    assert "keeps the choice" in " ".join(done.stdout.split())
