"""What this machine can run, for a person."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from alexnet_deploy.doctor import BackendStatus, DoctorReport
from alexnet_deploy.report import terminal, words
from alexnet_deploy.report.terminal import Show

_KINDS = {"checkpoint": "checkpoints", "onnx": "ONNX graphs", "plan": "TensorRT plans"}


def doctor(of: DoctorReport) -> Show:
    """The machine, a line a backend, and below what is wrong with each and how it is mended."""

    def show(console: Console) -> None:
        terminal.facts(
            console,
            [
                ("CPU", f"{of.machine.cpu}, {words.count(of.machine.cores, 'core')}, {'VNNI' if of.machine.vnni else 'no VNNI'}"),
                ("GPU", _gpus(of)),
                ("Python", f"{of.machine.python} on {of.machine.system}"),
            ],
        )
        console.print()
        terminal.table(
            console,
            ["backend", "runs", "version", "here on"],
            [[b.name, ", ".join(_KINDS[kind] for kind in b.kinds), b.version or words.NONE, _where(b)] for b in of.backends],
        )
        # Without a GPU that "cuda" does not work needs no saying again.
        terminal.facts(console, [(b.name, _why(b)) for b in of.backends if b.problems and (of.gpus or not b.version)])
        terminal.lines(console, of.advice, style="yellow")

    return show


def _gpus(of: DoctorReport) -> str:
    if of.gpu_problem:
        return f"none: {of.gpu_problem}"
    each = [f"{gpu.name} ({gpu.sm}, {words.size(gpu.memory_bytes)})" for gpu in of.gpus]
    return f"{', '.join(each)}; driver for CUDA up to {of.driver_cuda}"


def _where(status: BackendStatus) -> Text:
    if status.devices:
        return Text(", ".join(status.devices), "green")
    return Text("builds only", "yellow") if status.builds else Text("no", "red")


def _why(status: BackendStatus) -> str:
    reasons = dict.fromkeys(status.problems.values())
    text = "; ".join(reason if len(status.problems) == 1 else f"{_devices(status, reason)}: {reason}" for reason in reasons)
    return f"{text}. {status.fix}" if status.fix else text


def _devices(status: BackendStatus, reason: str) -> str:
    return ", ".join(device for device, why in status.problems.items() if why == reason)
