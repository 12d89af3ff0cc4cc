"""A Ray worker is killed in the middle of its work: the run ends well, and nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from alexnet_deploy.backends.fake import write_fake
from tests.test_score import command, jpeg, results

PICTURES = 4000


def workers_of(driver: int) -> list[psutil.Process]:
    """Its actors; Ray names them by what they run."""
    family = psutil.Process(driver).children(recursive=True)
    return [p for p in family if p.cmdline() and p.cmdline()[0].startswith("ray::") and "_Worker" in p.cmdline()[0]]


def test_a_killed_ray_worker_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    model = write_fake(tmp_path / "shoes.onnx", height=16, width=16).path
    (tmp_path / "in").mkdir()
    (tmp_path / "sound.png").write_bytes(jpeg(0))
    (tmp_path / "broken.png").write_bytes(b"broken")
    names = {f"{tmp_path}/in/{i:04d}.png" for i in range(PICTURES)}
    for name in names:
        os.link(tmp_path / ("broken.png" if name.endswith("0.png") else "sound.png"), name)
    output = tmp_path / "out"
    words = command(tmp_path / "in", output, "-m", model, "--shard-size", "10", "--ray", "2", "--json")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    killed = 0
    while process.poll() is None and killed < 2 and time.monotonic() < end:
        begun = len(list(output.glob("part-*"))) if output.is_dir() else 0
        if begun > 20 + 60 * killed and (found := workers_of(process.pid)):
            found[0].send_signal(signal.SIGKILL)
            killed += 1
        time.sleep(0.005)
    stdout, stderr = process.communicate(timeout=300)
    assert killed == 2, "it was over too soon"
    assert process.returncode == 0, stderr
    report = json.loads(stdout)
    assert report["workers"] == 2
    assert set(results(output)) | set(results(output, "rejects")) == names
    assert len(results(output)) == PICTURES - PICTURES // 10
