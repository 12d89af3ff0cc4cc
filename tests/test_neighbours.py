"""What others take of the CPU while something is timed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_deploy import neighbours as room
from alexnet_deploy.neighbours import LEAST_SECONDS, Neighbours, complaints

SPIN = "import time; end = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass\nprint(time.process_time())"


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system does not tell")
def test_another_process_is_counted_until_it_turns_out_to_be_a_child_of_ours() -> None:
    watch, began = Neighbours(), time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as process:
        assert process.stdout
        spent = float(process.stdout.read())
        found, seconds = watch.cpus(), time.perf_counter() - began
    assert spent > 0.05
    assert found is not None
    assert found * seconds > 0.8 * spent - 0.05
    waited_for, seconds = watch.cpus(), time.perf_counter() - began
    assert waited_for is not None
    assert waited_for * seconds < found * seconds - 0.8 * spent + 0.05


def test_only_processors_that_may_be_used_count_and_only_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ticks = room.os.sysconf("SC_CLK_TCK")
    now = {"wall": 0.0, "own": 0.0}
    stat = tmp_path / "stat"
    monkeypatch.setattr(room, "_STAT", stat)
    monkeypatch.setattr(room, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(room, "process_time", lambda: now["own"])
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda process: {0, 2})

    def write(busy: int) -> None:
        row = f"{busy} 0 {busy} 5 5 {busy} 0 {busy} 0 0"  # user, nice, system, idle, waiting, irq, softirq, steal
        stat.write_text(f"cpu  {row}\ncpu0 {row}\ncpu1 {row}\ncpu2 {row}\ncpu20 {row}\nintr 1 2 3\n")

    write(0)
    watch = Neighbours()
    now.update(wall=10.0, own=3.0)
    write(ticks)  # a second in each of four columns, on two processors: eight seconds, three of them our own
    assert watch.cpus() == pytest.approx(0.5)


def test_too_short_a_time_and_a_system_that_does_not_tell_say_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Neighbours().cpus() is None
    monkeypatch.setattr(room, "_STAT", tmp_path / "none")
    watch = Neighbours()
    time.sleep(LEAST_SECONDS)
    assert watch.cpus() is None


def test_little_is_not_worth_a_word() -> None:
    assert complaints(None, 2) == complaints(0.19, 2) == complaints(1.0, 64) == ()
    assert "1.0 of 2 CPUs" in complaints(1.0, 2)[0]
