"""The adapter, on the real TensorRT for RTX wherever that can be done without a GPU."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import BackendMissing, BuildError
from alexnet_deploy.trt import adapter
from alexnet_deploy.trt.adapter import BuildMonitor, Log, TensorRt, interruptible
from alexnet_deploy.types import Flavour, silent


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    return adapter.load(Flavour.TENSORRT_RTX)


def test_a_flavour_is_imported_once(rtx: TensorRt) -> None:
    assert adapter.load(Flavour.TENSORRT_RTX) is rtx
    assert str(rtx) == f"tensorrt-rtx {rtx.version}"


@pytest.mark.skipif(adapter.installed(Flavour.TENSORRT), reason="tensorrt is installed here")
def test_a_flavour_that_is_missing_names_its_extra() -> None:
    with pytest.raises(BackendMissing, match="tensorrt is not installed") as caught:
        adapter.load(Flavour.TENSORRT)
    assert caught.value.fix == "pip install 'alexnet-deploy[tensorrt]'"


def test_bindings_without_their_library_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(adapter, "import_module", broken)
    monkeypatch.setattr(adapter, "installed", lambda flavour: True)
    with pytest.raises(BackendMissing, match=r"is installed but does not load \(libnvinfer\.so\.11"):
        adapter.load.__wrapped__(Flavour.TENSORRT)


def test_targets_are_read_from_the_library(rtx: TensorRt) -> None:
    names = rtx.capabilities()
    assert names[-1] == "current"
    numbers = [int(name.removeprefix("sm")) for name in names[:-1]]
    assert numbers == sorted(numbers)
    assert {80, 86, 89, 120} <= set(numbers)


def test_tensorrt_itself_builds_for_the_gpu_that_is_here() -> None:
    module: Any = SimpleNamespace(__version__="11.4.0.12", ILogger=object)
    bindings = TensorRt(Flavour.TENSORRT, module)
    assert bindings.capabilities() == ("current",)
    assert not bindings.portable


def test_fp32_layers_keep_fp32_and_engines_can_be_captured(rtx: TensorRt) -> None:
    trt = rtx.trt
    builder = trt.Builder(rtx.logger)
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)
    config = rtx.config(builder, ("sm86", "sm120"))
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert [config.get_compute_capability(i).name for i in range(config.num_compute_capabilities)] == ["SM86", "SM120"]
    with pytest.raises(BuildError, match="does not take current as target 2 of 2"):
        rtx.config(builder, ("sm86", "current"))


def test_one_call_serves_tensorrt_10_and_11() -> None:
    """10.x wants the flag for strong types, 11.x takes it, and a later one may no longer have it."""
    asked: list[int] = []
    builder = SimpleNamespace(create_network=asked.append)
    for flags in (SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1), SimpleNamespace(STRONGLY_TYPED=0), SimpleNamespace()):
        module: Any = SimpleNamespace(__version__="0", ILogger=object, NetworkDefinitionCreationFlag=flags)
        TensorRt(Flavour.TENSORRT, module).network(builder)
    assert asked == [0b10, 0b1, 0]


@pytest.mark.parametrize("plan", [b"", b"vtrt", b"x" * 1000, b"vtrt" + bytes(1000)])
def test_what_is_no_plan_is_not_valid(rtx: TensorRt, plan: bytes) -> None:
    assert rtx.invalidity(plan)


def test_tensorrt_itself_has_no_validity_check() -> None:
    module: Any = SimpleNamespace(__version__="11.4.0.12", ILogger=object, Runtime=object)
    assert TensorRt(Flavour.TENSORRT, module).invalidity(b"anything") == ()


# The log


def test_warnings_and_errors_are_collected_and_the_rest_is_not() -> None:
    log = Log()
    with log.collect() as messages:
        log.write("VERBOSE", "thousands of these")
        log.write("WARNING", "slow")
        log.write("ERROR", "wrong")
    log.write("ERROR", "too late")
    assert messages == ["slow", "wrong"]


def test_collectors_do_not_see_each_others_past() -> None:
    log = Log()
    with log.collect() as outer:
        log.write("ERROR", "first")
        with log.collect() as inner:
            thread = threading.Thread(target=log.write, args=("ERROR", "from another thread"))
            thread.start()
            thread.join()
    assert outer == ["first", "from another thread"]
    assert inner == ["from another thread"]


def test_tensorrt_speaks_to_pythons_logging(rtx: TensorRt, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "alexnet_deploy"), rtx.log.collect() as messages:
        rtx.engine(b"no plan at all")
    assert messages
    assert [record.getMessage() for record in caplog.records] == messages


def test_nothing_reaches_stderr_when_nobody_listens(rtx: TensorRt, capfd: pytest.CaptureFixture[str]) -> None:
    rtx.engine(b"no plan at all")
    sys.stderr.flush()
    assert capfd.readouterr().err == ""


# Progress


@st.composite
def builds(draw: st.DrawFn) -> list[tuple[str, str | None, int]]:
    """Phases as a tree: (name, parent, steps)."""
    phases: list[tuple[str, str | None, int]] = [("root", None, draw(st.integers(1, 6)))]
    for index in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from([name for name, _, _ in phases]))
        phases.append((f"phase {index}", parent, draw(st.integers(1, 6))))
    return phases


@given(builds())
def test_nested_phases_make_one_percentage_that_rises_to_a_hundred(phases: list[tuple[str, str | None, int]]) -> None:
    seen: list[int] = []
    monitor = BuildMonitor(lambda task, done, total, note="": seen.append(done), "build")

    def walk(name: str, parent: str | None, steps: int) -> None:
        monitor.start(name, parent, steps)
        children = [phase for phase in phases if phase[1] == name]
        for step in range(steps):
            for child in children[step::steps]:
                walk(*child)
            assert monitor.step(name, step)
        monitor.finish(name)

    walk(*phases[0])
    assert seen == sorted(set(seen))
    assert seen[-1] == 100
    assert seen[0] >= 0


def test_a_cancelled_build_is_told_to_stop() -> None:
    monitor = BuildMonitor(silent, "build")
    monitor.start("root", None, 3)
    assert monitor.step("root", 0)
    monitor.cancel()
    assert not monitor.step("root", 1)


def test_unknown_phases_are_taken_calmly() -> None:
    monitor = BuildMonitor(silent, "build")
    assert monitor.step("never started", 4)
    monitor.finish("never started")
    monitor.start("orphan", "never started", 0)
    assert monitor.step("orphan", 0)


# signals


@pytest.fixture
def told_to_end() -> Iterator[None]:
    """A program that takes SIGTERM as an exception."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "exception"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_kept_until_the_block_ends(number: int, exception: type[BaseException], told_to_end: None) -> None:
    cancelled: list[bool] = []
    reached_the_end = False
    before = signal.getsignal(number)
    with pytest.raises(exception), interruptible(lambda: cancelled.append(True)):
        signal.raise_signal(number)
        reached_the_end = True
    assert cancelled == [True]
    assert reached_the_end
    assert signal.getsignal(number) is before


def test_the_signals_exception_counts_and_not_what_the_cancelled_work_failed_with() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("cancelled")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, None])  # None: it was set in C
def test_signals_that_python_does_not_handle_are_left_alone(handler: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: handler)
    monkeypatch.setattr(signal, "signal", lambda number, handler: pytest.fail(f"{number} was changed"))
    with interruptible():
        pass


def test_other_threads_build_without_touching_signals() -> None:
    handlers: list[Any] = []

    def work() -> None:
        with interruptible(lambda: None):
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]
