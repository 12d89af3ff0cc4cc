"""What this machine can run: every backend is really tried, each in a process of its own.

A library that crashes, hangs or prints while it is imported then spoils one line of the answer, and nothing else.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np

from alexnet_deploy.artifact import Artifact, write_artifact
from alexnet_deploy.backends import BACKENDS
from alexnet_deploy.backends.base import Options
from alexnet_deploy.errors import AlexnetDeployError, BackendError
from alexnet_deploy.gpu import Gpu, driver_cuda_version, gpus, problem
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import Kind, Manifest, Preprocess
from alexnet_deploy.types import BatchRange, Flavour, TensorSpec

PROBE_SECONDS = 120

# An ONNX graph of one node, x -> Flatten -> y, for pictures of 2x2: (N, 3, 2, 2) to (N, 12). Small enough to carry along,
# so that the backends can be tried where the package onnx is not installed.
_TINY_ONNX = base64.b64decode(
    "CAgSADpICg8KAXgSAXkiB0ZsYXR0ZW4SAWdaHAoBeBIXChUIARIRCgMSAU4KAggDCgIIAgoCCAJiFAoBeRIPCg0IARIJCgMSAU4KAggMQgQKABAR"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """Whether one backend works here.

    Attributes:
        name: as in the table of backends.
        kinds: the artifacts that it runs.
        version: of its package, or "" when it is not installed.
        devices: where it was tried and worked: "cpu", "cuda".
        builds: whether it can build plans here (the TensorRT flavours), GPU or not.
        problems: for each device that does not work, why.
        fix: what to install, or "".
    """

    name: str
    kinds: tuple[Kind, ...]
    version: str
    devices: tuple[str, ...]
    builds: bool
    problems: dict[str, str]
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """What this machine can run.

    Attributes:
        machine: CPU, memory, versions.
        gpus: the usable ones.
        gpu_problem: why there are none, or "".
        driver_cuda: the newest CUDA that the driver speaks, "13.0", or "".
        backends: in the order of the table.
        advice: what would make this machine faster or safer, a sentence each.
    """

    machine: Machine
    gpus: tuple[Gpu, ...]
    gpu_problem: str
    driver_cuda: str
    backends: tuple[BackendStatus, ...]
    advice: tuple[str, ...]


@dataclass(slots=True)
class Probe:
    """What a try in a process of its own found."""

    version: str = ""
    devices: list[str] = field(default_factory=list)
    builds: bool = False
    problems: dict[str, str] = field(default_factory=dict)


def examine() -> DoctorReport:
    """Tries everything; takes a few seconds."""
    names = [name for name, line in BACKENDS.items() if line.automatic]
    with ThreadPoolExecutor(2) as pool:
        statuses = tuple(pool.map(_examine_backend, names))
    machine = Machine.here()
    cuda = driver_cuda_version()
    return DoctorReport(
        machine=machine,
        gpus=gpus(),
        gpu_problem=problem(),
        driver_cuda=f"{cuda[0]}.{cuda[1]}" if cuda else "",
        backends=statuses,
        advice=_advice(machine, statuses),
    )


def _advice(machine: Machine, backends: tuple[BackendStatus, ...]) -> tuple[str, ...]:
    found = []
    if not machine.vnni:
        found.append(
            "This CPU has no VNNI: INT8 graphs for it need 7-bit weights (reduce_range), which quantise picks by itself here."
        )
    if not any("onnx" in b.kinds and b.devices for b in backends):
        found.append("No ONNX graph runs here, and so no plan's twin: pip install 'alexnet-deploy[cpu]'")
    plans = [b for b in backends if "plan" in b.kinds]
    if gpus() and not any(b.devices for b in plans):
        missing = " or ".join(b.fix for b in plans if b.fix)
        found.append("There is a GPU, and no TensorRT that can use it" + (f": {missing}" if missing else ""))
    return tuple(found)


def _examine_backend(name: str) -> BackendStatus:
    line = BACKENDS[name]
    install = f"pip install 'alexnet-deploy[{line.extra}]'"
    if not line.installed:
        found = Probe(problems=dict.fromkeys(line.devices, f"the package {line.needs} is not installed"))
    else:
        found = _probe_elsewhere(name)
    needs_gpu_build = name == "onnxruntime" and gpus() and "cuda" not in found.devices
    return BackendStatus(
        name=name,
        kinds=line.kinds,
        version=found.version,
        devices=tuple(found.devices),
        builds=found.builds,
        problems=found.problems,
        fix=install if not found.version else "pip install 'alexnet-deploy[gpu]'" if needs_gpu_build else "",
    )


def _probe_elsewhere(name: str) -> Probe:
    code = f"from alexnet_deploy.doctor import main; main({name!r})"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        return Probe(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        reason = f"did not answer within {PROBE_SECONDS} s"
    except (ValueError, IndexError, TypeError):
        ending = (done.stderr.strip().splitlines() or [""])[-1]
        reason = f"ended with exit code {done.returncode} while it was tried. {ending}".strip()
    return Probe(version="?", problems=dict.fromkeys(BACKENDS[name].devices, reason))


def main(name: str) -> None:
    """The process of one backend's own: prints its Probe as the last line of stdout."""
    found = Probe()
    try:
        found.version = str(import_module(BACKENDS[name].needs).__version__).partition("-")[0]
    except Exception as error:  # whatever a broken installation raises
        found.problems = dict.fromkeys(BACKENDS[name].devices, f"does not import: {error}")
    else:
        _TRIES[name](found, name)
    sys.stdout.write(
        "\n"
        + json.dumps({"version": found.version, "devices": found.devices, "builds": found.builds, "problems": found.problems})
        + "\n"
    )


def _try_graph(found: Probe, name: str) -> None:
    """Runs the tiny graph on each device, by the same way that Runtime takes."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = _tiny_artifact(Path(folder) / "tiny.onnx")
        for device in BACKENDS[name].devices:
            try:
                engine = BACKENDS[name].backend().load(artifact, Options(device))
                batch = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
                if not np.array_equal(engine.run(batch), batch.reshape(1, 12)):
                    raise BackendError("gives wrong numbers", expected="the input as it went in", fix="reinstall the package")
                found.devices.append(device)
            except AlexnetDeployError as error:
                found.problems[device] = error.found


def _try_torch(found: Probe, name: str) -> None:
    import torch

    found.devices.append("cpu")
    if torch.cuda.is_available():
        try:
            torch.ones(8, 8, device="cuda").matmul(torch.ones(8, 8, device="cuda")).cpu()
            found.devices.append("cuda")
        except RuntimeError as error:
            found.problems["cuda"] = str(error).splitlines()[0]
    else:
        found.problems["cuda"] = problem() or f"torch {torch.__version__} is built for the CPU only"


def _try_tensorrt(found: Probe, name: str) -> None:
    """Whether the library starts and builds; and, with a GPU, whether it is for that, starts, and CUDA can be called."""
    from alexnet_deploy.trt import adapter

    library = adapter.load(Flavour(name))
    if library.portable or gpus():
        found.builds = library.trt.Builder(library.logger) is not None
    if not gpus():
        found.problems["cuda"] = problem()
        return
    try:
        import_module("cuda.bindings.runtime")
    except ImportError as error:
        found.problems["cuda"] = (
            f"the package cuda-bindings is not installed ({error}): pip install 'alexnet-deploy[{BACKENDS[name].extra}]'"
        )
        return
    if not library.names(sm := gpus()[0].sm):
        found.problems["cuda"] = f"it does not name {sm} among the GPUs that it is for; whether it runs plans there is unknown"
    elif library.trt.Runtime(library.logger) is None:
        found.problems["cuda"] = "its runtime does not start"
    else:
        found.devices.append("cuda")


def _tiny_artifact(path: Path) -> Artifact:
    return write_artifact(
        path,
        Manifest(
            kind="onnx",
            input=TensorSpec("x", "float32", (None, 3, 2, 2)),
            output=TensorSpec("y", "float32", (None, 12)),
            preprocess=Preprocess(height=2, width=2),
            batch=BatchRange(1, 1, 1),
        ),
        _TINY_ONNX,
    )


_TRIES: dict[str, Callable[[Probe, str], None]] = {
    "pytorch": _try_torch,
    "onnxruntime": _try_graph,
    "openvino": _try_graph,
    "tensorrt": _try_tensorrt,
    "tensorrt-rtx": _try_tensorrt,
}
