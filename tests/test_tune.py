"""tune: the fastest way that holds its budgets, and Runtime following it. Which way is fastest is the machine's affair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs
from rich.console import Console

from alexnet_deploy import tune as room
from alexnet_deploy.artifact import Artifact, read_manifest, update_manifest, write_artifact
from alexnet_deploy.benchmark import BenchmarkReport, benchmark
from alexnet_deploy.cli import main
from alexnet_deploy.errors import ArtifactMissing, InputError
from alexnet_deploy.machine import cpu_name, usable_cores
from alexnet_deploy.manifest import TunedRecord
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.report.tune import tune as show
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.statistics import Interval
from alexnet_deploy.tune import _ways, tune
from alexnet_deploy.types import GraphForm, Precision
from tests.test_four_bit import network
from tests.tiny import float_batch, tiny_artifact, tiny_graph

SECONDS = 0.01


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    demo = PictureSet.open("demo:test").subset(range(40))
    return replace(demo, classes=(), labels=demo.labels * 0 - 1)


@pytest.fixture(autouse=True)
def _on_a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others are busy everything would be timed twice; a test of that asks for it."""
    monkeypatch.setattr(room, "ATTEMPTS", 1)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the ways, where it does not matter how many there are."""
    monkeypatch.setattr(room, "_thread_counts", lambda: (1,))


HERE = TunedRecord(backend="openvino", device="cpu", threads=1, batch=1, latency_ms=1.0, cpu=cpu_name(), cores=usable_cores())


def test_runtime_follows_the_record_on_this_machine_only_and_only_unasked(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx", tuned=HERE)
    with Runtime(artifact.path) as runtime:
        assert runtime.backend == "openvino"
    for words in ({"device": "cpu"}, {"backend": "onnxruntime"}, {"threads": 2}):
        with Runtime(artifact.path, **words) as runtime:  # type: ignore[arg-type]
            assert runtime.backend == "onnxruntime"
    for elsewhere in ({"cpu": "another"}, {"cores": usable_cores() + 1}):
        update_manifest(artifact, tuned=structs.replace(HERE, **elsewhere))
        with Runtime(artifact.path) as runtime:
            assert runtime.backend == "onnxruntime"


def test_a_record_of_a_backend_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    for name in ("caffe", "fake"):  # the fake one has to be named by the caller: its answers mean nothing
        artifact = tiny_artifact(tmp_path / "m.onnx", tuned=structs.replace(HERE, backend=name))
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


def by_clock(monkeypatch: pytest.MonkeyPatch, taken: dict[str, tuple[float, float]]) -> None:
    """One way a file, by a fake clock: milliseconds that it takes in turn."""
    monkeypatch.setattr(room, "_thread_counts", lambda: (1,))
    monkeypatch.setattr(room, "_ways", lambda artifact: islice(_ways(artifact), 1))

    def timed(runtimes: list[Runtime], batch: int, seconds: float) -> BenchmarkReport:
        report = benchmark(runtimes, [batch], seconds=SECONDS)
        timings = []
        for runtime, timing in zip(runtimes, report.timings, strict=True):
            low, high = taken[runtime.artifact.path.name]
            timings.append(replace(timing, p50_ms=(low + high) / 2, latencies_ms=(low, high) * 20))
        return replace(report, timings=tuple(timings))

    monkeypatch.setattr(room, "_timed", timed)


def test_what_answers_otherwise_is_never_chosen_however_fast(
    tmp_path: Path, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tiny_artifact(tmp_path / "good.onnx")
    graph = tiny_graph()
    for tensor in graph.graph.initializer:
        if tensor.name == "matrix":
            tensor.raw_data = bytes(len(tensor.raw_data))  # all zeros: every picture gets the same answer
    bad = tiny_artifact(tmp_path / "bad.onnx", graph=graph)
    by_clock(monkeypatch, {"good.onnx": (10.0, 12.0), "bad.onnx": (1.0, 1.2)})
    report = tune([good, bad], pictures=pictures, max_drop=1, seconds=SECONDS)
    assert {trial.file: trial.verdict for trial in report.trials} == {"good.onnx": "chosen", "bad.onnx": "loses too much"}
    nothing = tune([bad], pictures=pictures, max_drop=1, reference=good, seconds=SECONDS)
    assert nothing.chosen is None
    assert "a drop of at most 1 points" in nothing.missed[0]


def lose(monkeypatch: pytest.MonkeyPatch, drop: float, high: float) -> None:
    by_clock(monkeypatch, {"m.onnx": (1.0, 1.2)})
    monkeypatch.setattr(room, "_compare", lambda *_: room._Compared(drop, 0.99, Interval(drop - 0.5, high)))


def test_a_drop_of_exactly_the_budget_holds_it(tmp_path: Path, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, 100 * (7 / 1000), 1.4)
    assert tune([tiny_artifact(tmp_path / "m.onnx")], pictures=pictures, max_drop=0.7, seconds=SECONDS).chosen is not None


def test_what_the_pictures_cannot_rule_out_is_said(tmp_path: Path, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, said = tiny_artifact(tmp_path / "m.onnx"), "40 pictures do not rule out that m.onnx loses 1.4 points"
    lose(monkeypatch, 0.2, 1.4)
    unsure = tune([artifact], pictures=pictures, max_drop=1, calibration=pictures, seconds=SECONDS)
    assert any(said in note for note in unsure.notes)
    assert unsure.chosen is not None
    assert unsure.chosen.lost == Interval(-0.3, 1.4)
    lose(monkeypatch, 0.2, 0.9)
    sure = tune([artifact], pictures=pictures, max_drop=1, calibration=pictures, seconds=SECONDS)
    assert not any(said in note for note in sure.notes)


@pytest.mark.parametrize(
    ("fitted", "budget", "why"),
    [(True, 1.0, "no layer of m.onnx gets thinner"), (False, 1.0, "--calib"), (True, None, "--max-drop"), (False, None, "")],
)
def test_why_thin_layers_were_not_tried_is_said(
    tmp_path: Path, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch, fitted: bool, budget: float | None, why: str
) -> None:
    by_clock(monkeypatch, {"m.onnx": (1.0, 1.2)})
    report = tune(
        [tiny_artifact(tmp_path / "m.onnx")],
        pictures=pictures,
        max_drop=budget,
        calibration=pictures if fitted else None,
        four_bit=False,
        seconds=SECONDS,
    )
    said = [note for note in report.notes if "thin" in note]
    assert len(said) == bool(why)
    assert not why or why in said[0]
    console = Console(width=80, record=True)
    show(report)(console)
    assert not why or f"Note: {said[0]}." in " ".join(console.export_text().split())


def test_without_a_way_that_is_fast_enough_nothing_is_stored(tmp_path: Path, one_thread: None) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    report = tune([artifact], max_latency_ms=1e-6, seconds=SECONDS)
    assert report.chosen is None
    assert "at most 1e-06 ms" in report.missed[0]
    assert read_manifest(artifact.path).tuned is None
    done = CliRunner().invoke(main, ["tune", str(artifact.path), "--max-latency", "0.001us", "--seconds", "0.01", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["chosen"] is None


def test_int8_graphs_are_tried_in_4_bits_and_the_winner_can_be_copied(tmp_path: Path, one_thread: None) -> None:
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
    for budget in ({"max_drop": float("nan")}, {"max_latency_ms": float("nan")}, {"max_latency_ms": -1.0}):
        with pytest.raises(InputError, match="expected a number from 0"):
            tune([artifact], **budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [["--max-drop", "nan"], ["--seconds", "nan"]])
def test_a_budget_that_is_no_number_is_refused(tmp_path: Path, words: list[str]) -> None:
    done = CliRunner().invoke(main, ["tune", str(tiny_artifact(tmp_path / "m.onnx").path), *words])
    assert done.exit_code == 2
    assert "'nan' is no number" in done.stderr


def test_where_the_choice_goes_is_looked_at_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    monkeypatch.setattr(room, "benchmark", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(InputError, match=r"best\.plan would hold a \.onnx"):
        tune([artifact], output=tmp_path / "best.plan")
    with pytest.raises(ArtifactMissing, match=r"cannot write in .*m\.onnx.*Try: -o"):
        tune([artifact], output=artifact.path / "best.onnx")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="who is root may write everywhere")
def test_models_that_may_only_be_read_are_tuned_into_another_folder(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "models" / "m.onnx")
    artifact.path.parent.chmod(0o500)
    try:
        with pytest.raises(ArtifactMissing, match="cannot write in"):
            tune([artifact], seconds=SECONDS)
        assert tune([artifact], seconds=SECONDS, output=tmp_path / "best.onnx").path == tmp_path / "best.onnx"
    finally:
        artifact.path.parent.chmod(0o700)


def test_the_command_shows_a_table(tmp_path: Path, one_thread: None) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    done = CliRunner().invoke(main, ["tune", str(artifact.path), "--seconds", "0.01"])
    assert done.exit_code == 0, done.output
    assert "chosen" in done.stdout
    assert "keeps the choice" in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system does not tell what others do")
def test_a_busy_machine_is_warned_of(tmp_path: Path, one_thread: None) -> None:
    artifact, page = tiny_artifact(tmp_path / "m.onnx"), tmp_path / "page.html"
    words = ["tune", str(artifact.path), "--batch", "256", "--seconds", "0.2", "--json", "--html", str(page)]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(usable_cores())]
    try:
        done = CliRunner().invoke(main, words)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert "other processes kept" in found["warnings"][0]
    assert "Run it again when the machine is quiet" in page.read_text()
    assert max(trial["others_cpus"] for trial in found["trials"]) > 0.2


def test_a_person_sees_warnings_and_what_is_noise(tmp_path: Path) -> None:
    report = tune([tiny_artifact(tmp_path / "m.onnx")], seconds=SECONDS)
    first, second, *others = report.trials
    known = replace(second, times_longer=Interval(0.95, 1.08), verdict="as fast")
    console = Console(width=120, record=True)
    show(replace(report, trials=(first, known, *others), warnings=("others were busy",)))(console)
    text = console.export_text()
    assert "0.95 to 1.08×" in text
    assert "as fast: the difference is within it" in text
    assert "Warning: others were busy." in text


def test_a_line_holds_a_way_and_its_verdict_in_80_columns(tmp_path: Path, pictures: PictureSet) -> None:
    report = tune([tiny_artifact(tmp_path / "alexnet.thin10.int8.cpu.onnx")], pictures=pictures, seconds=SECONDS)
    trials = tuple(replace(trial, backend="onnxruntime", latency_ms=12.3, drop=-0.2) for trial in report.trials)
    console = Console(width=80, record=True)
    show(replace(report, trials=(trials[0], replace(trials[1], verdict="loses too much"), *trials[2:])))(console)
    lines = console.export_text().splitlines()
    assert any(line.startswith("alexnet.thin10.int8.cpu") and "chosen" in line and "+0.20" in line for line in lines)
    assert sum(line.startswith("file") for line in lines) == 1


def test_a_timing_that_was_disturbed_is_taken_again_and_the_quietest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ATTEMPTS", 2)
    with Runtime(tiny_artifact(tmp_path / "m.onnx").path) as runtime:
        quiet = benchmark(runtime, [1], seconds=SECONDS)
        calls = iter([replace(quiet, others_cpus=1.0, warnings=("busy",)), replace(quiet, others_cpus=0.0), None])
        monkeypatch.setattr(room, "benchmark", lambda *_, **__: next(calls))
        assert room._timed([runtime], 1, SECONDS).others_cpus == 0
    assert next(calls) is None, "what was quiet is not taken again"


def test_a_difference_that_is_noise_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a fake one: file a takes 10 or 12 ms, b 10 or 12.1, c 20."""
    artifacts = [tiny_artifact(tmp_path / f"{name}.onnx", graph=tiny_graph(bias=n)) for n, name in enumerate("abc")]
    taken = {"a.onnx": (10.0, 12.0), "b.onnx": (10.0, 12.1), "c.onnx": (20.0, 20.0)}
    by_clock(monkeypatch, taken)
    report = tune(artifacts, seconds=SECONDS)
    assert [(trial.file, trial.verdict) for trial in report.trials] == [
        ("a.onnx", "chosen"),
        ("b.onnx", "as fast"),
        ("c.onnx", "slower"),
    ]
    chosen, _, slower = report.trials
    assert chosen.times_longer is None
    assert slower.times_longer is not None
    assert 20 / 12 <= slower.times_longer.low <= 20 / 11 <= slower.times_longer.high <= 20 / 10
