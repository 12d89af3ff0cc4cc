"""How figures are written, the same in the terminal and in HTML."""

from __future__ import annotations

from collections.abc import Iterable

from alexnet_deploy.machine import Machine
from alexnet_deploy.ran import Ran
from alexnet_deploy.statistics import Interval, PairedDifference, Rate
from alexnet_deploy.types import GraphForm

NONE = "–"


def percent(fraction: float | None, digits: int = 1) -> str:
    return NONE if fraction is None else f"{100 * fraction:.{digits}f} %"


def rate(of: Rate | None, digits: int = 1) -> str:
    """With as many digits more as it takes: 100.0 % is all of them and 0.0 % none, not nearly."""
    if of is None:
        return NONE
    while 0 < of.count < of.total and percent(of.fraction, digits) in (percent(0, digits), percent(1, digits)):
        digits += 1
    return percent(of.fraction, digits)


def interval(of: Interval, digits: int = 1) -> str:
    """As percent: "89.1 to 92.7 %"."""
    return f"{100 * of.low:.{digits}f} to {100 * of.high:.{digits}f} %"


def points(fraction: float) -> str:
    """A difference of two rates, in percentage points, with its sign: "−0.30"."""
    rounded = round(100 * fraction, 2)
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def signed(value: float) -> str:
    """A tick on an axis of differences: "−0.5", "0", "+0.5"."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def drop(of: PairedDifference | None) -> str:
    """The change of accuracy (not the drop: worse is negative) with its 95 % interval."""
    if of is None:
        return NONE
    return f"{points(-of.drop)} ({points(-of.interval.high)} to {points(-of.interval.low)})"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.995 else "p = 1"


def size(size_bytes: int) -> str:
    """Decimal megabytes, as file managers and hubs count them."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 50_000 else f"{size_bytes / 1e3:.1f} kB"


def milliseconds(value: float | None) -> str:
    """Three significant digits, at most two of them behind the point."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def per_second(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def times(value: float | None) -> str:
    """A ratio: "3.6×", "0.03×"."""
    if value is None:
        return NONE
    return f"{value:.0f}×" if value >= 100 else f"{value:.1f}×" if value >= 0.95 else f"{value:.2f}×"


def error(value: float | None) -> str:
    """A relative error: "1.2e-05", "0" where there is none."""
    return NONE if value is None else "0" if value == 0 else f"{value:.1e}"


def decibels(value: float | None) -> str:
    return "identical" if value is None else f"{value:.1f} dB"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else "{} min {} s".format(*divmod(round(value), 60))


def ran_on(ran: Ran) -> str:
    """ "onnxruntime", "tensorrt-rtx on cuda", "onnxruntime (twin)": what ran, and whether a twin did in its stead."""
    where = "" if ran.device == "cpu" else f" on {ran.device}"
    return f"{ran.backend}{where}{' (twin)' if ran.twin_of else ''}"


def ran_sentences(each: Iterable[Ran]) -> list[str]:
    """What must be known of how each ran: the plans that did not run themselves, and the graphs that are not meant for here."""
    sentences = []
    for ran in dict.fromkeys(each):
        if ran.twin_of:
            sentences.append(
                f"{ran.file} did not run itself: no usable GPU here. Its twin {ran.running} ran in its stead, on {ran.backend}."
            )
        elif ran.kind == "onnx" and ran.form is GraphForm.TENSORRT and ran.device == "cpu":
            sentences.append(f"{ran.file} is written for TensorRT: {ran.backend} imitates it exactly, but slowly, on the CPU.")
    return sentences


def warnings(of: Iterable[str]) -> list[str]:
    """What a measurement says against itself, as sentences."""
    return [f"Warning: {warning}." for warning in of]


def machine(of: Machine) -> str:
    """One line: the processor, cores, system and versions that matter."""
    memory = f", {of.memory_bytes / 2**30:.0f} GiB" if of.memory_bytes else ""
    packages = ", ".join(f"{name} {version}" for name, version in of.packages.items())
    return f"{of.cpu}, {count(of.cores, 'core')}{memory}, {of.system}, Python {of.python}; {packages}"


def count(number: int, one: str, many: str = "") -> str:
    """ "1 picture", "1,000 pictures"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def times_interval(of: Interval | None) -> str:
    """ "3.4 to 3.8×"."""
    return NONE if of is None else f"{of.low:.2f} to {of.high:.2f}×"
