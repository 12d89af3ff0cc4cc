"""What people expect of any command line: settings in files and variables, -q and -v, completion, logging that stays quiet."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from alexnet_deploy import folders, logs
from alexnet_deploy.cli import COMMANDS, common, main
from alexnet_deploy.errors import ArtifactMissing


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, an empty home, and no variables of ours."""
    for name in [name for name in os.environ if name.startswith(("ALEXNET_DEPLOY_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@click.command(cls=common.Command, name="train")
@click.option("--epochs", type=int, default=30)
@click.option("--lr", type=float, default=0.02)
@click.option("--int8", "precision", flag_value="int8")
@click.option("--fp16", "precision", flag_value="fp16")
@click.option("--skip", multiple=True)
@click.option("--flip/--no-flip", default=True)
def train(**options: Any) -> common.Result:
    """A command with one option of each kind, that gives back what it got."""
    with common.progress_bars() as progress:
        progress("step", 1, 1)
    common.note("a note")
    logs.logger("training.train").info("one epoch done")
    logs.logger("alexnet_deploy.runtime").debug("a detail")
    return common.Result(options, lambda console: console.print(str(sorted(options.items()))))


def run(*words: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(train, words)


def got(*words: str, **environment: str) -> dict[str, Any]:
    import json

    result = run("--json", "-q", *words, **environment)
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def settings_file(text: str) -> None:
    Path("alexnet-deploy.toml").write_text(text)


def user_file(text: str) -> None:
    path = folders.config_files()[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_options_are_taken_from_a_file_by_their_long_names() -> None:
    settings_file('[train]\nepochs = 3\nint8 = true\nskip = ["first", "last"]\nflip = false\n')
    assert got() == {"epochs": 3, "lr": 0.02, "precision": "int8", "skip": ["first", "last"], "flip": False}


def test_options_are_taken_from_the_environment_by_their_long_names() -> None:
    names = {"EPOCHS": "3", "INT8": "1", "SKIP": "first last", "FLIP": "no"}
    found = got(**{f"ALEXNET_DEPLOY_TRAIN_{name}": value for name, value in names.items()})
    assert found == {"epochs": 3, "lr": 0.02, "precision": "int8", "skip": ["first", "last"], "flip": False}


def test_the_command_line_beats_the_environment_beats_the_project_beats_the_user() -> None:
    user_file("[train]\nepochs = 1\nlr = 0.5\n")
    assert (got()["epochs"], got()["lr"]) == (1, 0.5)
    settings_file("[train]\nepochs = 2\n")
    assert (got()["epochs"], got()["lr"]) == (2, 0.5)
    assert got(ALEXNET_DEPLOY_TRAIN_EPOCHS="3")["epochs"] == 3
    assert got("--epochs", "4", ALEXNET_DEPLOY_TRAIN_EPOCHS="3")["epochs"] == 4


def test_a_flag_on_the_command_line_beats_its_rival_in_a_file() -> None:
    settings_file("[train]\nint8 = true\n")
    assert got("--fp16")["precision"] == "fp16"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[train\n", "alexnet-deploy.toml cannot be read"),
        ("[trian]\nepochs = 3\n", "trian is no command; expected models, or one of"),
        ("[train]\nepoch = 3\n", "train has no option --epoch"),
        ("train = 3\n", "expected a section [train]"),
        ("a = " + "[" * 5000, "alexnet-deploy.toml cannot be read: "),
        ("[train]\nint8 = 7\n", "[train] int8 is 7; expected true or false"),
        ("[train]\nepochs = [1, 2]\n", "[train] epochs is a list; expected one value"),
        ("[train]\nint8 = true\nfp16 = true\n", "[train] int8 and alexnet-deploy.toml [train] fp16 exclude each other"),
        ("[train]\nepochs = 'many'\n", "(set in alexnet-deploy.toml [train] epochs)"),
    ],
)
def test_a_wrong_setting_is_one_message_that_says_where_it_stands(text: str, says: str) -> None:
    settings_file(text)
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (".", "alexnet-deploy.toml cannot be read: Is a directory"),
        ("/proc/self/mem", "alexnet-deploy.toml cannot be read: Input/output error"),  # stands for what one may not read
        ("loop", "alexnet-deploy.toml cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_settings_file_that_cannot_be_read_is_one_message(target: str, says: str) -> None:
    Path("loop").symlink_to("loop")
    Path("alexnet-deploy.toml").symlink_to(target)
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {says}; expected a file that you may read")
    assert run("--help").exit_code == 0


def test_variables_that_exclude_each_other_are_named() -> None:
    result = run(ALEXNET_DEPLOY_TRAIN_INT8="1", ALEXNET_DEPLOY_TRAIN_FP16="1")
    assert result.exit_code == 2
    assert "$ALEXNET_DEPLOY_TRAIN_INT8 and $ALEXNET_DEPLOY_TRAIN_FP16 exclude each other" in result.stderr
    assert got(ALEXNET_DEPLOY_TRAIN_INT8="1", ALEXNET_DEPLOY_TRAIN_FP16="0")["precision"] == "int8"


def test_a_wrong_variable_is_named_in_the_message() -> None:
    result = run(ALEXNET_DEPLOY_TRAIN_EPOCHS="many")
    assert result.exit_code == 2
    assert "(set in $ALEXNET_DEPLOY_TRAIN_EPOCHS)" in result.stderr


def test_the_real_commands_take_settings_by_the_name_they_are_called_by() -> None:
    for name, option in {"train": "EPOCHS", "predict": "TOP", "build-engine": "MAX_BATCH", "bench": "SECONDS"}.items():
        variable = f"ALEXNET_DEPLOY_{name.upper().replace('-', '_')}_{option}"
        result = CliRunner(env={variable: "many"}).invoke(main, [name, "a.onnx", "b.jpg"][: 2 if name != "predict" else 3])
        assert f"(set in ${variable})" in result.stderr


def test_help_is_given_however_wrong_the_settings_are() -> None:
    settings_file("[train\n")
    assert run("--help").exit_code == 0


def test_the_models_folder_is_a_setting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert common.models_folder() == Path("models")
    settings_file('models = "artifacts"\n')
    assert common.models_folder() == Path("artifacts")
    monkeypatch.setenv("ALEXNET_DEPLOY_MODELS", "elsewhere")
    assert common.models_folder() == Path("elsewhere")


def test_quiet_hides_notes_and_keeps_the_result() -> None:
    assert "note: a note" in run().stderr
    quiet = run("-q")
    assert quiet.stderr == ""
    assert "epochs" in quiet.stdout


def test_quiet_still_shows_errors() -> None:
    @click.command(cls=common.Command)
    def broken() -> common.Result:
        raise ArtifactMissing("a.onnx does not exist")

    assert CliRunner().invoke(broken, ["-q"]).stderr == "error: a.onnx does not exist\n"


def test_verbose_tells_what_happens_and_twice_tells_all() -> None:
    assert "one epoch done" not in run().stderr
    once, twice = run("-v").stderr, run("-vv").stderr
    assert "alexnet_deploy.training.train: one epoch done" in once
    assert "a detail" not in once
    assert "alexnet_deploy.runtime: a detail" in twice


def test_verbose_says_which_settings_were_taken() -> None:
    settings_file("[train]\nepochs = 3\n")
    assert "epochs is 3 (set in alexnet-deploy.toml [train] epochs)" in run("-v").stderr


def test_an_error_comes_with_its_traceback_only_when_all_is_asked_for() -> None:
    shown = [CliRunner().invoke(main, [*words, "build-engine", "none.onnx"]).stderr for words in ((), ("-v",), ("-vv",))]
    assert ["Traceback" in text for text in shown] == [False, False, True]


def test_listening_ends_with_the_run() -> None:
    run("-vv")
    package = logging.getLogger("alexnet_deploy")
    assert [type(handler) for handler in package.handlers] == [logging.NullHandler]
    assert package.level == logging.NOTSET


def test_as_a_library_nothing_is_printed_and_an_application_can_listen() -> None:
    says = "from alexnet_deploy import logs; logs.logger('alexnet_deploy.runtime').warning('something')"
    listens = f"import logging; logging.basicConfig(format='%(name)s %(message)s'); {says}"
    silent, heard = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for code in (says, listens))
    assert (silent.stdout, silent.stderr) == ("", "")
    assert heard.stderr == "alexnet_deploy.runtime something\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_calls_us(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_ALEXNET_DEPLOY_COMPLETE={shell}_complete" in result.stdout


def completed(*words: str) -> list[str]:
    """What bash is offered for the last word, asked as bash asks."""
    environment = {
        **os.environ,
        "_ALEXNET_DEPLOY_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("alexnet-deploy", *words)),
        "COMP_CWORD": str(len(words)),
    }
    program = Path(sys.executable).with_name("alexnet-deploy")
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_choices_are_completed() -> None:
    assert set(completed("")) >= set(COMMANDS)
    assert completed("build-e") == ["build-engine"]
    assert {"--calib-method", "--calib-count"} <= set(completed("build-engine", "--calib"))
    assert "tensorrt-rtx" in completed("build-engine", "--target", "")


def test_a_misspelt_command_is_answered_with_the_right_one() -> None:
    result = CliRunner().invoke(main, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'. Did you mean train?" in result.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_reader_that_has_enough_changes_neither_the_exit_code_nor_stderr(form: tuple[str, ...]) -> None:
    code = """if True:
        import sys, click
        from alexnet_deploy.cli import common
        @click.command(cls=common.Command)
        def long():
            lines = ["line"] * 100_000
            return common.Result({"lines": lines}, lambda c: [c.print(line) for line in lines], missed=("a gate",))
        long()"""
    with subprocess.Popen([sys.executable, "-c", code, *form], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout
        assert program.stderr
        program.stdout.read(10)
        program.stdout.close()
        assert program.stderr.read() == b"missed: a gate\n"
    assert program.returncode == 1


@pytest.mark.parametrize(
    ("stream", "words", "code"),
    [
        ("stdout", "--help", 0),
        ("stdout", "doctor --help", 0),
        ("stdout", "inspect none.onnx --json", 2),
        ("stderr", "inspect none.onnx", 2),
        ("stderr", "none", 2),
        ("stderr", "inspect --none", 2),
    ],
)
@pytest.mark.parametrize("fault", ["full", "left"])
def test_streams_that_take_nothing_change_no_exit_code_but_where_the_answer_is_lost(
    stream: str, words: str, code: int, fault: str
) -> None:
    """A disk that is full, or a reader that left: neither may look like the 1 of a missed gate."""
    reading, broken = os.pipe()
    os.close(reading)
    with Path("/dev/full").open("wb") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full if fault == "full" else broken}
        done = subprocess.run([Path(sys.executable).with_name("alexnet-deploy"), *words.split()], text=True, **streams)  # type: ignore[call-overload]
    os.close(broken)
    answer_is_lost = stream == "stdout" and fault == "full"
    assert done.returncode == (2 if answer_is_lost else code)
    assert not answer_is_lost or done.stderr.endswith("error: No space left on device\n")
    assert "Traceback" not in f"{done.stdout}{done.stderr}"


MISSING = """
import sys
from click.testing import CliRunner
sys.modules[sys.argv[1]] = None  # as if it were not installed
from alexnet_deploy.cli import main
for words in sys.argv[2:]:
    ran = CliRunner().invoke(main, words.split())
    print(ran.exit_code, ran.stderr.strip().splitlines()[-1])
"""


@pytest.mark.parametrize(
    ("package", "extra", "commands"),
    [
        ("torch", "train", ["demo", "train", "export models/a.safetensors", "inspect alexnet"]),
        ("onnx", "build", ["demo", "export models/a.safetensors", "adopt a.onnx", "build-engine models/a.onnx", "tune a.onnx"]),
        ("onnxruntime", "cpu", ["demo"]),
    ],
)
def test_without_a_package_every_command_that_needs_it_says_what_to_install(
    package: str, extra: str, commands: list[str]
) -> None:
    Path("models").mkdir()
    for name in ("models/a.safetensors", "models/a.onnx", "a.onnx"):
        Path(name).write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", MISSING, package, *commands], capture_output=True, text=True, check=True)
    for said in done.stdout.splitlines():
        assert said.startswith("2 error: ")
        assert f"needs the package {package}, which is not installed" in said
        assert said.endswith(f"pip install 'alexnet-deploy[{extra}]'")
    assert len(done.stdout.splitlines()) == len(commands)


def test_a_disk_that_is_full_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    from alexnet_deploy.files import replacing

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with (
            pytest.raises(ArtifactMissing, match=r"a\.onnx could not be written: .*make room"),
            replacing(tmp_path / "a.onnx") as path,
        ):
            path.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.glob("**/*onnx*")) == []


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    from alexnet_deploy.files import replacing

    for path in (tmp_path, Path(), Path("/")):
        with pytest.raises(ArtifactMissing, match="is a folder; expected a file to write"), replacing(path):
            pass
    refused = CliRunner().invoke(main, ["train", "--html", "."])
    assert (refused.exit_code, "is a directory" in refused.stderr) == (2, True)


def test_a_device_stays_what_it_is(tmp_path: Path) -> None:
    """As root, `-o /dev/null` renamed an ordinary file over the device."""
    from alexnet_deploy.files import replacing

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ArtifactMissing, match="is a device or a pipe"), replacing(path):
            pass
        assert not path.is_file()


def test_behind_a_closed_folder_nothing_is_written(tmp_path: Path) -> None:
    from alexnet_deploy.files import replacing

    closed, me = tmp_path / "closed", os.geteuid()
    closed.mkdir(mode=0)
    if me == 0:  # who is root may go anywhere
        os.seteuid(65534)
    try:
        with pytest.raises(ArtifactMissing, match=r"cannot write in .*closed: Permission denied"), replacing(closed / "a.onnx"):
            pass
    finally:
        os.seteuid(me)
        closed.chmod(0o700)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --data demo --recipe modern --width 0", "width 0.0; expected 0.01 to 8"),
        ("train --save-seconds nan", "'nan' is no number"),
        ("build-engine --max-drop nan", "'nan' is no number"),  # it held whatever came
        ("build-engine --max-batch 65537", "65537 is not in the range 1<=x<=65536"),
        (f"predict a b --batch {'9' * 30}", "is not in the range 1<=x<=65536"),
        ("build-engine --seed -1", "-1 is not in the range x>=0"),
        ("verify a b --seed -1", "-1 is not in the range x>=0"),
        ("evaluate a --seed -1", "-1 is not in the range x>=0"),
        ("train --save-seconds -1", "-1.0 is not in the range x>=0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(words: str, says: str) -> None:
    refused = CliRunner().invoke(main, words.split())
    assert refused.exit_code == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_cache_follows_the_xdg_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folders.cache_folder() == tmp_path / "home/.cache/alexnet-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert folders.cache_folder() == tmp_path / "home/.cache/alexnet-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folders.cache_folder() == tmp_path / "cache/alexnet-deploy"
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "mine"))
    assert folders.cache_folder() == tmp_path / "mine"


def test_a_user_without_a_home_has_settings_here_and_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run as any number: HOME is not set, and the system knows nobody of this number."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    settings_file("[train]\nepochs = 3\n")
    assert got()["epochs"] == 3
    assert not folders.cache_folder().parent.parent.exists()
