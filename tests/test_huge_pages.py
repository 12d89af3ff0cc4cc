"""Memory is brought into huge pages where it is full and the system allows it; what lies in it never changes."""

from __future__ import annotations

import ctypes
import mmap
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy import huge_pages
from alexnet_deploy.huge_pages import LEAST, SIZE, HugePages, full_blocks, is_allowed
from alexnet_deploy.runtime import Runtime
from tests.small_nets import CLASSES, Net, artifact_of
from tests.tiny import tiny_artifact

PAGE = 4096
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked of Linux")


def gives_huge_pages() -> bool:
    """Whether this system does, asked directly: Linux 6.1 or later, and memory in one piece."""
    block = np.frombuffer(mmap.mmap(-1, 2 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    block[:] = 1
    start = -(-range_of(block)[0] // SIZE) * SIZE
    return is_allowed() and ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), 25) == 0


@pytest.fixture
def memory() -> np.ndarray:
    """32 MB of nobody else's, of which nothing is there yet."""
    return np.frombuffer(mmap.mmap(-1, 16 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def range_of(memory: np.ndarray) -> tuple[int, int]:
    start = memory.__array_interface__["data"][0]
    return start, start + memory.nbytes


def blocks_of(memory: np.ndarray) -> range:
    """Addresses of whole huge pages in it."""
    start, end = range_of(memory)
    return range(-(-start // SIZE) * SIZE, end - SIZE + 1, SIZE)


def all_but(memory: np.ndarray) -> frozenset[int]:
    """What is full now, without this."""
    return full_blocks() - set(blocks_of(memory))


def in_huge_pages(memory: np.ndarray) -> int:
    """Bytes of it that are."""
    start, end = range_of(memory)
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            low, high = (int(address, 16) for address in first.split("-"))
            inside = low < end and high > start
        elif inside and first == "AnonHugePages:":
            found += 1024 * int(rest[0])
    return found


@linux
def test_a_block_is_full_when_its_last_page_is_there(memory: np.ndarray) -> None:
    first, *others = blocks_of(memory)
    offset = first - range_of(memory)[0]
    memory[offset : offset + SIZE - PAGE] = 1
    assert first not in full_blocks()
    memory[offset + SIZE - 1] = 1
    assert {first, *others} & full_blocks() == {first}


@linux
def test_what_is_free_again_is_given_back_when_it_is_tidied() -> None:
    code = """if True:
        import ctypes
        from alexnet_deploy.huge_pages import SIZE, full_blocks
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        pieces = [libc.malloc(SIZE // 32) for _ in range(1000)]  # too small for mappings of their own
        for piece in pieces:
            ctypes.memset(piece, 1, SIZE // 32)
        taken = full_blocks()
        for piece in pieces[:-1]:  # the last keeps the heap from shrinking by itself
            libc.free(ctypes.c_void_p(piece))
        print(len(taken), len(taken & full_blocks()), len(taken & full_blocks(tidy=True)))
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken, kept, tidied = map(int, ran.stdout.split())
    if tidied == taken and "glibc" not in platform.libc_ver():
        pytest.skip("this C library gives nothing back")
    assert taken >= kept > tidied + 8


@linux
def test_full_memory_comes_into_huge_pages_at_once_and_stays_what_it_was(
    memory: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_deploy.huge_pages.AFTER_SECONDS", 60.0)
    if not gives_huge_pages():
        pytest.skip("this system gives no huge pages to who asks")
    memory[:] = np.arange(len(memory)) % 251
    before, started = memory.copy(), time.monotonic()
    HugePages(all_but(memory)).settle()
    assert time.monotonic() - started < 60
    assert in_huge_pages(memory) > 0
    assert np.array_equal(memory, before)


@linux
def test_memory_with_holes_is_left_alone(memory: np.ndarray) -> None:
    memory[: PAGE * 100] = 1
    memory[::SIZE] = 1
    already = in_huge_pages(memory)  # all of them where the system gives huge pages to everybody
    HugePages(all_but(memory)).settle()
    assert in_huge_pages(memory) == already


@linux
def test_stopped_before_its_time_it_does_nothing(memory: np.ndarray) -> None:
    memory[:] = 1
    already = in_huge_pages(memory)
    pages = HugePages(all_but(memory))
    time.sleep(0.1)  # a tenth of what it waits
    pages.stop()
    pages.stop()
    assert in_huge_pages(memory) == already


@linux
@pytest.mark.skipif("not is_allowed()", reason="this system gives no huge pages to who asks")
def test_memory_that_is_gone_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    block = mmap.mmap(-1, 16 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(block, np.uint8)
    array[:] = 1
    pages = HugePages(all_but(array))
    blocks = frozenset(blocks_of(array))
    monkeypatch.setattr(pages, "_taken", lambda: blocks)
    del array
    block.close()
    pages.settle()
    assert pages._thread is not None
    assert not pages._thread.is_alive()


@linux
def test_what_the_application_takes_meanwhile_is_its_own(memory: np.ndarray) -> None:
    memory[:] = 1
    pages = HugePages(all_but(memory))
    few = np.frombuffer(mmap.mmap(-1, 8 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    few[:] = 1
    assert {*blocks_of(memory), *blocks_of(few)} <= pages._taken()
    much = np.frombuffer(mmap.mmap(-1, 64 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    much[:] = 1
    assert pages._taken() == set(blocks_of(memory))
    pages.stop()
    del few, much


def test_an_administrator_who_says_never_is_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    monkeypatch.setattr(huge_pages, "_SETTING", setting)
    for text, expected in (("always [madvise] never", True), ("[always] madvise never", True), ("always madvise [never]", False)):
        setting.write_text(text)
        assert is_allowed() is expected
    assert HugePages(frozenset())._thread is None


@pytest.mark.parametrize("hidden", ["missing", "a folder"])
def test_a_sandbox_that_tells_nothing_of_memory_is_no_reason_not_to_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: str
) -> None:
    """What may not be read is a folder here: who runs the tests as root may read every file."""
    secret = tmp_path / "secret"
    if hidden == "a folder":
        secret.mkdir()
    for name in ("_MAPS", "_SETTING"):
        monkeypatch.setattr(huge_pages, name, secret)
    assert full_blocks(tidy=True) == frozenset()
    assert not is_allowed()
    with Runtime(tiny_artifact(tmp_path / "m.onnx").path) as runtime:
        runtime.settle()


def test_for_little_memory_nothing_is_begun(tmp_path: Path) -> None:
    assert HugePages(full_blocks())._thread is None
    with Runtime(tiny_artifact(tmp_path / "m.onnx").path) as runtime:
        assert runtime._huge_pages is not None
        assert runtime._huge_pages._thread is None
        runtime.settle()


@linux
def test_answers_are_the_same_before_meanwhile_and_after(tmp_path: Path) -> None:
    net = Net()
    hidden = net.op("Relu", net.gemm(net.op("Flatten", "input"), "wide", (2048, 3 * 32 * 32)))  # 24 MB of weights
    net.gemm(hidden, "last", (CLASSES, 2048), out="logits")
    path = artifact_of(net.model(), tmp_path).path
    # A process of its own: here the weights may come to lie in memory that a test before has left.
    code = """if True:
        import sys
        import numpy as np
        from alexnet_deploy.runtime import Runtime

        batch = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
        with Runtime(sys.argv[1], "cpu", "onnxruntime") as runtime:
            print(len(runtime._huge_pages._taken()))
            expected = runtime.logits(batch)
            runtime._huge_pages._now.set()
            answers = [runtime.logits(batch) for _ in range(50)]
            runtime.settle()
            answers.append(runtime.logits(batch))
        print(all(np.array_equal(answer, expected) for answer in answers))
        with Runtime(sys.argv[1], "cpu", "onnxruntime") as closed_at_once:
            closed_at_once.logits(batch)
        thread = closed_at_once._huge_pages._thread
        print(thread is None or not thread.is_alive())
    """
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    blocks, same, ended = ran.stdout.split()
    assert int(blocks) >= LEAST
    assert (same, ended) == ("True", "True")
