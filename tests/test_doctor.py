"""doctor: every backend is tried, and none can spoil the rest."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from alexnet_deploy import doctor
from alexnet_deploy.backends import BACKENDS, Entry
from alexnet_deploy.cli import main
from alexnet_deploy.gpu import Gpu, gpus


@pytest.fixture(scope="module")
def report() -> doctor.DoctorReport:
    return doctor.examine()


def test_every_backend_that_may_be_chosen_is_examined(report: doctor.DoctorReport) -> None:
    assert [b.name for b in report.backends] == [name for name, line in BACKENDS.items() if line.automatic]


def test_onnxruntime_works_on_the_cpu(report: doctor.DoctorReport) -> None:
    (found,) = (b for b in report.backends if b.name == "onnxruntime")
    assert "cpu" in found.devices
    assert found.version[0].isdigit()


def test_what_does_not_work_has_a_reason_and_what_is_missing_a_command(report: doctor.DoctorReport) -> None:
    for found in report.backends:
        assert set(found.devices) | set(found.problems) == set(BACKENDS[found.name].devices)
        if not found.version:
            assert found.fix == f"pip install 'alexnet-deploy[{BACKENDS[found.name].extra}]'"


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_gpu_it_says_why(report: doctor.DoctorReport) -> None:
    assert report.gpu_problem
    assert not any("cuda" in b.devices for b in report.backends)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "ended with exit code -6"),
        ("raise RuntimeError('no libfoo')", "does not import: no libfoo"),
        ("print('noise on import')\n__version__ = '1'", "exit code"),
    ],
)
def test_a_library_that_crashes_spoils_its_own_line_only(
    code: str, reason: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "brokenlib.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    # The process of its own sees the real table, so the broken library takes the place of one that is in it.
    (folder / "openvino.py").write_text(code)
    sys.modules.pop("openvino", None)
    line = BACKENDS["openvino"]
    monkeypatch.setitem(BACKENDS, "openvino", Entry(line.home, line.kinds, "openvino", line.extra, line.devices))
    found = doctor._examine_backend("openvino")
    assert found.devices == ()
    assert reason in found.problems["cpu"] or "openvino" in found.problems["cpu"]


@pytest.mark.parametrize(("capability", "devices"), [((8, 9), ["cuda"]), ((9, 0), [])])
def test_tensorrt_for_rtx_works_on_the_gpus_that_it_names(
    capability: tuple[int, int], devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is made up, and so is that TensorRT's runtime starts on it; which GPUs it names is the library's own word."""
    library = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(doctor, "gpus", lambda: (Gpu("NVIDIA made up", capability, 80 << 30),))
    monkeypatch.setattr(library, "Runtime", lambda logger: object())
    found = doctor.Probe()
    doctor._try_tensorrt(found, "tensorrt-rtx")
    assert found.builds
    assert found.devices == devices
    assert ("does not name sm90" in found.problems.get("cuda", "")) == (devices == [])


def test_where_no_tensorrt_can_use_the_gpu_the_missing_one_is_advised(
    report: doctor.DoctorReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "gpus", lambda: (Gpu("NVIDIA made up", (9, 0), 80 << 30),))
    line = replace(report.backends[0], kinds=("plan",), devices=(), fix="")
    missing = replace(line, version="", fix="pip install 'alexnet-deploy[tensorrt]'")
    said = "There is a GPU, and no TensorRT that can use it: "
    assert f"{said}{missing.fix}" in doctor._advice(report.machine, (missing, line))
    assert not [advice for advice in doctor._advice(report.machine, (replace(line, devices=("cuda",)),)) if said in advice]


def test_the_command_prints_a_table_and_json(report: doctor.DoctorReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: report)  # which took seconds, and was done above
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == 0
    assert "onnxruntime" in shown.output
    data = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert {"machine", "gpus", "backends", "advice"} <= set(data)
