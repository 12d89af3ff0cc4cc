"""The right engine for this machine: every file, backend and thread count is measured, the fastest that holds its budgets kept.

1. Every trial is timed alone, for a moment.
2. From the fastest on, trials are compared with the reference on pictures until FINALISTS of them hold the accuracy budget.
3. These are timed again in turns, so that a neighbour's load hits all alike, and the fastest is chosen.

A timing that other processes disturb is taken once more; where they go on, the report warns. What was chosen is written into
the manifest of its file, where Runtime finds it, for machines with this CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from alexnet_deploy.answers import Answers, answers
from alexnet_deploy.artifact import Artifact, update_manifest, write_artifact
from alexnet_deploy.backends import BACKENDS
from alexnet_deploy.benchmark import BenchmarkReport, benchmark
from alexnet_deploy.errors import AlexnetDeployError, DataWarning, FallbackWarning, InputError
from alexnet_deploy.files import folder_beside
from alexnet_deploy.gpu import gpus
from alexnet_deploy.machine import Machine
from alexnet_deploy.manifest import TunedRecord
from alexnet_deploy.neighbours import complaints
from alexnet_deploy.parity import compare
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.cpu_forms import other_forms
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.statistics import Interval, ratio_of_medians
from alexnet_deploy.types import Precision, Progress, silent

FINALISTS = 4
ATTEMPTS = 2
_ROUNDING = 1e-9  # points: 7 of 1,000 pictures are no more than 0.7 points


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way to run.

    Attributes:
        file, precision: what ran; precision as its layers have it, "int8+int4" where they differ.
        backend, device, threads: as Runtime takes them.
        latency_ms: the median of a call; of the second, fairer timing where it came so far. None where it does not run.
        drop: of top-1 accuracy against the reference, in percentage points; None where it was not compared.
        agreement: share of top-1 answers that are the reference's, 0 to 1; None likewise.
        lost: what the budget is compared with, in percentage points, 95 % interval: the drop, or on pictures without labels the
            share of other answers. None likewise.
        times_longer: latency divided by that of the way chosen, 95 % interval, where both were timed in turns; where it holds 1,
            their difference is noise.
        others_cpus: CPUs that other processes kept busy while it was timed; None where the system does not tell.
        verdict: "chosen", or in a few words why not.
    """

    file: str
    precision: str
    backend: str
    device: str
    threads: int | None
    latency_ms: float | None = None
    drop: float | None = None
    agreement: float | None = None
    lost: Interval | None = None
    times_longer: Interval | None = None
    others_cpus: float | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneReport:
    """All that was tried.

    Attributes:
        machine: where.
        reference: the file that accuracy was compared with.
        batch: pictures in a call.
        pictures: how many were compared, 0 for none.
        max_latency_ms, max_drop: the budgets; None for none.
        trials: those that were timed again and compared, then the others; the fastest first.
        chosen: the best that holds the budgets, or None.
        path: its file.
        missed: one sentence where there is none.
        warnings: one sentence where other processes were busy during a timing, so that the choice may be their doing.
        notes: what was not tried and why, and what the pictures cannot tell of the choice; a sentence each.
    """

    machine: Machine
    reference: str
    batch: int
    pictures: int
    max_latency_ms: float | None
    max_drop: float | None
    trials: tuple[Trial, ...]
    chosen: Trial | None
    path: Path | None
    missed: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def tune(
    artifacts: Sequence[Artifact],
    *,
    batch: int = 1,
    max_latency_ms: float | None = None,
    max_drop: float | None = None,
    pictures: PictureSet | None = None,
    reference: Artifact | None = None,
    calibration: PictureSet | None = None,
    four_bit: bool = True,
    seconds: float = 0.5,
    output: Path | None = None,
    progress: Progress = silent,
) -> TuneReport:
    """Finds the fastest way to run a model here, and stores it in the manifest of the file that won.

    Args:
        artifacts: forms of one model: FP32, FP16, INT8 graphs, plans. A plan that cannot run here stands for its twin.
        batch: pictures in a call.
        max_latency_ms: of the median call.
        max_drop: of top-1 accuracy against `reference`, in percentage points; on pictures without labels, of agreement.
        pictures: what accuracy is compared on; needed where `max_drop` is given.
        reference: what it is compared with; the first of `artifacts` when None.
        calibration: pictures that thinner forms of FP32 graphs are fitted to: wide layers and convolutions as two thin ones, in
            INT8 for the CPU. They are tried where there is a `max_drop` to hold them to.
        four_bit: try INT8 graphs of the CPU form with 4-bit weights in their fully connected layers as well, in blocks of 32 and
            of 128.
        seconds: for each timing.
        output: copy the file that won here, so that applications always load the same name.

    Raises:
        InputError: no artifacts, a batch below 1, or a drop to be limited without pictures.
    """
    if not artifacts or batch < 1:
        raise InputError(
            "there is nothing to tune" if not artifacts else f"batch {batch}", expected="artifacts, and a batch from 1"
        )
    for what, most in (("max_latency_ms", max_latency_ms), ("max_drop", max_drop)):
        if most is not None and not most >= 0:  # nor is nan, which no figure is above
            raise InputError(f"{what} is {most}", expected="a number from 0")
    suffixes = {*(artifact.path.suffix for artifact in artifacts), *(".onnx" for artifact in artifacts if artifact.manifest.twin)}
    if output is not None and output.suffix not in suffixes:  # now: measuring takes minutes
        raise InputError(
            f"{output.name} would hold a {artifacts[0].path.suffix}", expected=f"a name ending in {' or '.join(sorted(suffixes))}"
        )
    if max_drop is not None and pictures is None:
        raise InputError("a drop is to be limited, and there are no pictures", expected="pictures", fix="--data DIR")
    with folder_beside(output or artifacts[0].path, ".tune-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # the report says what ran; accuracy is measured, not guessed
        thin_for = calibration if max_drop is not None else None
        notes: list[str] = []
        if (calibration is None) != (max_drop is None) and any(each.manifest.precision is Precision.FP32 for each in artifacts):
            notes.append(
                f"thin layers were not tried: they need {'--max-drop' if calibration else 'pictures to fit to, --calib'}"
            )
        files = list(_files(artifacts, folder, batch, four_bit, thin_for, notes.append, progress))
        ranked = _screen(files, batch, seconds, progress)
        judged = _judge(ranked, reference or artifacts[0], pictures, max_drop, progress)
        judged = _time_in_turns(judged, batch, seconds)
        judged, won = _choose(judged, max_latency_ms)
        path = _keep(won, artifacts, batch, output) if won else None
    missed = () if won else (_missed(judged, max_latency_ms, max_drop),)
    count = len(pictures) if pictures else 0
    if won:
        notes.extend(_doubts(won.trial, count, max_drop))
    machine = Machine.here()
    return TuneReport(
        machine=machine,
        reference=(reference or artifacts[0]).path.name,
        batch=batch,
        pictures=count,
        max_latency_ms=max_latency_ms,
        max_drop=max_drop,
        trials=tuple(each.trial for each in judged),
        chosen=won.trial if won else None,
        path=path,
        missed=missed,
        warnings=complaints(max((each.trial.others_cpus or 0.0 for each in judged), default=None), machine.cores),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Tried:
    artifact: Artifact
    trial: Trial

    def open(self) -> Runtime:
        return Runtime(self.artifact.path, self.trial.device, self.trial.backend, threads=self.trial.threads)

    def with_(self, **changes: object) -> _Tried:
        return replace(self, trial=replace(self.trial, **changes))  # type: ignore[arg-type]

    @property
    def sound(self) -> bool:
        """Not given up on so far."""
        return not self.trial.verdict


def _files(
    artifacts: Sequence[Artifact],
    folder: Path,
    batch: int,
    four_bit: bool,
    calibration: PictureSet | None,
    told: Callable[[str], None],
    progress: Progress,
) -> Iterator[Artifact]:
    """What can run here, each file once: artifacts, twins in the stead of plans, and other forms written into `folder`."""
    seen: set[str] = set()
    for artifact in artifacts:
        twin = artifact.twin() if artifact.manifest.kind == "plan" and not gpus() else None
        runs = twin or artifact
        if runs.manifest.sha256 in seen:
            continue
        forms = other_forms(runs, folder, batch=batch, four_bit=four_bit, calibration=calibration, told=told, progress=progress)
        for form in chain([runs], forms):
            if form.manifest.sha256 not in seen:  # thin layers of two sizes may come to the same rank
                seen.add(form.manifest.sha256)
                yield form


def _ways(artifact: Artifact) -> Iterator[_Tried]:
    """Every backend that is installed, on every device and number of threads."""
    precisions = dict.fromkeys(layer.precision.value for layer in artifact.manifest.layers)
    precision = "+".join(precisions) or artifact.manifest.precision.value
    for name, line in BACKENDS.items():
        if artifact.manifest.kind not in line.kinds or not line.automatic or not line.installed:
            continue
        for device in line.devices:
            if device == "cuda" and not gpus():
                continue
            for threads in _thread_counts() if device == "cpu" else (None,):
                trial = Trial(file=artifact.path.name, precision=precision, backend=name, device=device, threads=threads)
                yield _Tried(artifact, trial)


def _thread_counts() -> tuple[int, ...]:
    """1, 2, 4 ... and all cores."""
    cores = Machine.here().cores
    return tuple(sorted({*(2**power for power in range(cores.bit_length()) if 2**power < cores), cores}))


def _screen(files: Sequence[Artifact], batch: int, seconds: float, progress: Progress) -> list[_Tried]:
    """Every way of every file, timed alone; the fastest first, those that do not run last."""
    tried: list[_Tried] = []
    ways = [way for file in files for way in _ways(file)]
    for done, way in enumerate(ways, 1):
        try:
            with way.open() as runtime:
                report = _timed([runtime], batch, seconds)
            tried.append(way.with_(latency_ms=report.timings[0].p50_ms, others_cpus=report.others_cpus))
        except AlexnetDeployError as error:
            tried.append(way.with_(verdict=f"does not run: {error.found}"))
        progress("time each way", done, len(ways), way.trial.file)
    return sorted(tried, key=lambda each: each.trial.latency_ms or float("inf"))


def _timed(runtimes: Sequence[Runtime], batch: int, seconds: float) -> BenchmarkReport:
    """In turns; the quietest of ATTEMPTS where others disturb the first: they may be busy for a moment only."""
    attempts: list[BenchmarkReport] = []
    while len(attempts) < ATTEMPTS and (not attempts or attempts[-1].warnings):
        attempts.append(benchmark(runtimes, [batch], seconds=seconds))
    return min(attempts, key=lambda each: each.others_cpus or 0.0)


def _judge(
    ranked: Sequence[_Tried], reference: Artifact, pictures: PictureSet | None, max_drop: float | None, progress: Progress
) -> list[_Tried]:
    """Compares with the reference, from the fastest on, until there are enough finalists."""
    if pictures is None:
        return [
            each.with_(verdict="" if place < FINALISTS else "slower") if each.sound else each for place, each in enumerate(ranked)
        ]
    with Runtime(reference.path) as runtime:
        (expected,) = answers([runtime], pictures)
    known: dict[tuple[str, str, str], _Compared] = {}
    judged: list[_Tried] = []
    finalists = 0
    for each in ranked:
        if not each.sound or finalists == FINALISTS:
            judged.append(each.with_(verdict="slower") if each.sound else each)
            continue
        key = (each.trial.file, each.trial.backend, each.trial.device)
        if key not in known:
            known[key] = _compare(each, expected, pictures)
            progress("compare with the reference", len(known), FINALISTS)
        drop, agreement, lost = known[key]
        too_much = max_drop is not None and (100 * (1 - agreement) if drop is None else drop) > max_drop + _ROUNDING
        finalists += not too_much
        verdict = "loses too much" if too_much else ""
        judged.append(each.with_(drop=drop, agreement=agreement, lost=lost, verdict=verdict))
    return judged


class _Compared(NamedTuple):
    """As in Trial."""

    drop: float | None
    agreement: float
    lost: Interval


def _compare(way: _Tried, expected: Answers, pictures: PictureSet) -> _Compared:
    with way.open() as runtime:
        (found,) = answers([runtime], pictures)
    if found.calibrated_on:
        warnings.warn(
            f"{found.ran.file} was calibrated on {found.calibrated_on} of {len(pictures)} pictures: its accuracy is flattered",
            DataWarning,
            2,
        )
    report = compare(expected, found)
    same = report.agreement
    if report.difference is None:
        return _Compared(None, same.fraction, Interval(100 * (1 - same.interval.high), 100 * (1 - same.interval.low)))
    of = report.difference
    return _Compared(100 * of.drop, same.fraction, Interval(100 * of.interval.low, 100 * of.interval.high))


def _time_in_turns(judged: Sequence[_Tried], batch: int, seconds: float) -> list[_Tried]:
    finalists = [index for index, each in enumerate(judged) if each.sound]
    result = list(judged)
    if len(finalists) > 1:
        with ExitStack() as opened:
            runtimes = [opened.enter_context(judged[index].open()) for index in finalists]
            report = _timed(runtimes, batch, 2 * seconds)
        fastest = min(report.timings, key=lambda timing: timing.p50_ms)
        for index, timing in zip(finalists, report.timings, strict=True):
            longer = None if timing is fastest else ratio_of_medians(timing.latencies_ms, fastest.latencies_ms)[1]
            changes = {"latency_ms": timing.p50_ms, "times_longer": longer, "others_cpus": report.others_cpus}
            result[index] = judged[index].with_(**changes)
    return sorted(result, key=lambda each: (not each.sound, each.trial.latency_ms or float("inf")))


def _choose(judged: Sequence[_Tried], max_latency_ms: float | None) -> tuple[list[_Tried], _Tried | None]:
    result, won = [], None
    for each in judged:
        if each.sound:
            assert each.trial.latency_ms is not None
            if max_latency_ms is not None and each.trial.latency_ms > max_latency_ms:
                each = each.with_(verdict="too slow")
            elif won is None:
                won = each = each.with_(verdict="chosen")
            else:
                same = each.trial.times_longer is not None and 1 in each.trial.times_longer
                each = each.with_(verdict="as fast" if same else "slower")
        result.append(each)
    return result, won


def _keep(won: _Tried, artifacts: Sequence[Artifact], batch: int, output: Path | None) -> Path:
    """Writes the choice into the manifest of its file; a file made here moves beside the artifact it was made from."""
    machine, trial = Machine.here(), won.trial
    assert trial.latency_ms is not None
    record = TunedRecord(
        backend=trial.backend,
        device=trial.device,
        threads=trial.threads,
        batch=batch,
        latency_ms=trial.latency_ms,
        cpu=machine.cpu,
        cores=machine.cores,
    )
    made_here = won.artifact.path.parent not in {artifact.path.parent for artifact in artifacts}
    if output is None and not made_here:
        return update_manifest(won.artifact, tuned=record).path
    path = output or artifacts[0].path.with_name(won.artifact.path.name)
    if path.suffix != won.artifact.path.suffix:
        raise InputError(
            f"{path.name} would hold a {won.artifact.path.suffix}", expected=f"a name ending in {won.artifact.path.suffix}"
        )
    # The twin is named for its folder: a plan that moves elsewhere goes without.
    twin = won.artifact.manifest.twin if path.parent.resolve() == won.artifact.path.parent.resolve() else None
    manifest = structs.replace(won.artifact.manifest, tuned=record, twin=twin)
    return write_artifact(path, manifest, won.artifact.path.read_bytes()).path


def _doubts(chosen: Trial, pictures: int, max_drop: float | None) -> Iterator[str]:
    """What the pictures, which the choice was made by as well, cannot tell of it."""
    if max_drop is not None and chosen.lost is not None and chosen.lost.high > max_drop:
        yield (
            f"{pictures:,} pictures do not rule out that {chosen.file} loses {chosen.lost.high:.1f} points (95 %), more than "
            f"{max_drop:g}: verify it on others, or compare on more"
        )


def _missed(judged: Sequence[_Tried], max_latency_ms: float | None, max_drop: float | None) -> str:
    wanted = []
    if max_latency_ms is not None:
        wanted.append(f"at most {max_latency_ms:g} ms")
    if max_drop is not None:
        wanted.append(f"a drop of at most {max_drop:g} points")
    compared = [t.trial for t in judged if t.trial.drop is not None or t.trial.agreement is not None]
    ran = [t.trial for t in judged if t.trial.latency_ms is not None]
    if not ran:
        return "nothing of what was given runs on this machine: alexnet-deploy doctor says what it can"
    best = min(compared or ran, key=lambda trial: trial.latency_ms or 0)
    found = f"{best.latency_ms:.2f} ms" + (f" with a drop of {best.drop:.2f} points" if best.drop is not None else "")
    return f"no way to run it keeps {' and '.join(wanted)}; the fastest, {best.file} on {best.backend}, takes {found}"
