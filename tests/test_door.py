"""The door of a Runtime: closing waits for those inside, and for nobody else."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from alexnet_deploy import door as room
from alexnet_deploy.door import Door
from alexnet_deploy.errors import RuntimeClosed
from tests.patience import PATIENCE_S


def test_whoever_comes_after_closing_is_turned_away() -> None:
    door = Door()
    with door:
        pass
    door.close()
    door.close()
    with pytest.raises(RuntimeClosed), door:
        pytest.fail("nobody gets in")


def test_closing_waits_for_all_inside() -> None:
    door, inside, go, left = Door(), threading.Barrier(4), threading.Event(), []
    with door:  # somebody was there before, and has left
        pass

    def call() -> None:
        with door:
            inside.wait()
            go.wait()
            left.append(door.closed)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait()
    closing = threading.Thread(target=door.close)
    closing.start()
    while not door.closed:
        pass
    with pytest.raises(RuntimeClosed), door:
        pytest.fail("nobody gets in, nor does who is turned away count as inside")
    closing.join(0.05)
    assert closing.is_alive()
    go.set()
    for thread in (*threads, closing):
        thread.join(PATIENCE_S)
    assert not closing.is_alive()
    assert left == [True] * 3


def test_a_call_that_was_interrupted_at_any_step_does_not_keep_it_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before each instruction of the door's code in turn; KeyboardInterrupt comes in the main thread alone."""
    interrupted = 0
    while _interrupted_at(interrupted, monkeypatch):
        interrupted += 1
    assert interrupted > 10


def _interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a call has as many steps; the door closes afterwards."""
    door, steps, was_empty = Door(), iter(range(step + 1)), []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != room.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps, None) == step:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        with door:
            pass
    except KeyboardInterrupt:
        hit = True
    else:
        hit = False
    finally:
        sys.settrace(None)
    monkeypatch.setattr(door._empty, "wait", lambda: was_empty.append(door._empty.is_set()))  # instead of waiting for ever
    door.close()
    assert was_empty == [True]
    return hit
