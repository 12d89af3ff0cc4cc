"""The machine that a figure was measured on; nothing is measured here."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from msgspec import Struct

# Whatever changes speed or numbers. Packages that are not installed are left out.
PACKAGES = (
    "alexnet-deploy",
    "numpy",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


class Machine(Struct, frozen=True, kw_only=True):
    """What to write beside a measurement so that somebody else can judge it.

    Attributes:
        cpu: the processor's own name.
        cores: CPUs that this process may use; of a container's share, not of the whole machine.
        memory_bytes: of the machine, or 0 when unknown.
        vnni: whether the CPU multiplies int8 without saturating 16-bit sums (AVX512-VNNI, AVX-VNNI, or ARM's dot product).
        system, python: names and versions.
        packages: installed versions of what does the work.
        measured: UTC, ISO 8601.
    """

    cpu: str
    cores: int
    memory_bytes: int
    vnni: bool
    system: str
    python: str
    packages: dict[str, str] = {}
    measured: str = ""

    @classmethod
    def here(cls) -> Machine:
        return cls(
            cpu=cpu_name(),
            cores=usable_cores(),
            memory_bytes=_memory_bytes(),
            vnni=has_vnni(),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            packages=_versions(PACKAGES),
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def cpu_name() -> str:
    info = _cpuinfo()
    return info.get("model name") or info.get("Model") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_vnni() -> bool:
    """Whether int8 products are summed in 32 bits by one instruction; without it U8S8 kernels saturate at 16 bits."""
    return not _cpu_flags().isdisjoint({"avx512_vnni", "avx_vnni", "asimddp"}) or platform.machine() == "arm64"


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16; elsewhere PyTorch converts it to float32 and back, and is slower for it."""
    return not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def peak_memory_bytes() -> int:
    """The largest resident size of this process since its program started; 0 where the system does not tell.

    Not getrusage's, which counts what the process that started this one held.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # here, because it is slow to import, and Runtime does without

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _cpu_flags() -> set[str]:
    info = _cpuinfo()
    return set(info.get("flags", info.get("Features", "")).split())


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields, or {} where there is no /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
