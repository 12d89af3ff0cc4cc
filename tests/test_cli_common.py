"""What every command shares, shown on small commands of our own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from alexnet_deploy.cli import common, ending, main
from alexnet_deploy.errors import ArtifactMissing, FallbackWarning
from alexnet_deploy.types import Precision


def run(function: Any, *words: str) -> Result:
    return CliRunner().invoke(click.command(cls=common.Command)(function), words)


def done() -> common.Result:
    return common.Result({"answer": 42}, lambda console: console.print("forty-two"))


def missed() -> common.Result:
    return common.Result({"answer": 41}, lambda console: console.print("forty-one"), missed=("the answer is 41, below 42",))


def broken() -> common.Result:
    raise ArtifactMissing("a.onnx does not exist", expected="an ONNX graph", fix="alexnet-deploy export")


def test_a_person_reads_text_and_a_machine_one_json_object() -> None:
    assert run(done).stdout == "forty-two\n"
    assert json.loads(run(done, "--json").stdout) == {"answer": 42}
    assert run(done).exit_code == 0


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_terminal_that_does_not_know_its_width_gets_the_answer_too(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert run(done).stdout == "forty-two\n"


def test_what_libraries_print_natively_does_not_get_into_the_answer() -> None:
    program = """
import ctypes, os, click
from alexnet_deploy.cli import common
@click.command(cls=common.Command)
def chatty():
    ctypes.CDLL(None).puts(b"from C")
    os.write(1, b"from a compiler")
    print("from a library")
    return common.Result({"answer": 42}, lambda console: console.print("forty-two"))
chatty()
"""
    for words, answer in ((["--json"], '{\n  "answer": 42\n}\n'), ([], "forty-two\n")):
        ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
        assert ran.stdout == answer
        assert all(line in ran.stderr for line in ("from C", "from a compiler", "from a library"))


def test_a_missed_gate_is_exit_code_1_and_named_in_both_forms() -> None:
    text, machine = run(missed), run(missed, "--json")
    assert (text.exit_code, machine.exit_code) == (1, 1)
    assert "missed: the answer is 41, below 42" in text.stderr
    assert json.loads(machine.stdout) == {"answer": 41, "missed": ["the answer is 41, below 42"]}


def test_an_error_is_exit_code_2_one_line_and_no_traceback() -> None:
    result = run(broken)
    assert result.exit_code == 2
    assert result.stderr == "error: a.onnx does not exist; expected an ONNX graph. Try: alexnet-deploy export\n"
    assert result.stdout == ""


def test_an_error_is_json_too() -> None:
    assert json.loads(run(broken, "--json").stdout) == {
        "error": {
            "kind": "ArtifactMissing",
            "found": "a.onnx does not exist",
            "expected": "an ONNX graph",
            "fix": "alexnet-deploy export",
        }
    }


def test_the_systems_own_errors_are_one_line() -> None:
    def full_disk() -> common.Result:
        raise OSError(28, "No space left on device", "models/alexnet.onnx")

    result = run(full_disk)
    assert (result.exit_code, result.stderr) == (2, "error: No space left on device: models/alexnet.onnx\n")


@pytest.mark.parametrize("moment", ["make_context", "invoke"])  # options are read, the command works
def test_ctrl_c_is_exit_code_130(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(common.Command, moment, press)
    result = CliRunner().invoke(main, ["doctor"])
    assert (result.exit_code, result.stderr) == (130, "stopped: interrupted; nothing half-written is left behind\n")


ENDED = """
import os, signal, sys, time
from pathlib import Path
from alexnet_deploy.cli import common, main
from alexnet_deploy.files import replacing

def works(*_):
    with replacing(Path(sys.argv[1])):
        ready, begun = os.pipe()
        child = os.fork()
        if not child:
            os.write(begun, b".")
            while True:  # one long sleep could begin after the signal came and before Python looked
                time.sleep(0.01)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(list(Path(sys.argv[1]).parent.iterdir())), flush=True)
        try:
            signal.raise_signal(int(sys.argv[2]))
        finally:
            signal.raise_signal(int(sys.argv[2]))  # `timeout` sends it twice

common.Command.invoke = works
main(["doctor"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_told_to_end_leaves_nothing_half_written(number: int, code: int, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ENDED, tmp_path / "a.onnx", str(number)], capture_output=True, text=True)
    assert done.returncode == code
    assert re.fullmatch(r"stopped: \w+; nothing half-written is left behind\n", done.stderr)
    assert list(tmp_path.iterdir()) == []
    assert done.stdout == "-15 1\n"  # a process that it forked ends at once, and removes nothing


def test_a_sigterm_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending.by_exception():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_that_nobody_foresaw_is_not_taken_for_a_missed_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.Command, "invoke", lambda *_: 1 / 0)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 2
    assert "ZeroDivisionError" in result.stderr
    assert "error: a mistake in alexnet-deploy" in result.stderr.splitlines()[-1]


def test_our_warnings_are_shown_once_and_those_of_libraries_are_not() -> None:
    def warns() -> common.Result:
        for _ in range(2):  # as often as a set is opened, and a library changes what is shown
            warnings.warn("the twin runs on the CPU", FallbackWarning, stacklevel=1)
            warnings.simplefilter("ignore", ResourceWarning)
        warnings.warn("deprecated", UserWarning, stacklevel=1)
        return done()

    assert run(warns).stderr == "warning: the twin runs on the CPU\n"


def test_without_artifacts_the_command_that_makes_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_MODELS", str(tmp_path))
    with pytest.raises(ArtifactMissing, match=r"no fp32 \*\.onnx in .*Try: alexnet-deploy export"):
        common.latest(".onnx", Precision.FP32, "alexnet-deploy export")


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("alexnet-deploy, version 0.")
