"""What the demo does once there is a model: both engines, every artifact verified, all of them timed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.benchmark import BenchmarkReport, benchmark
from alexnet_deploy.engine import build_engine
from alexnet_deploy.layer_error import compare_layers
from alexnet_deploy.manifest import CalibrationRecord
from alexnet_deploy.parity import verify_all
from alexnet_deploy.parity_report import Verification
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.calibration import Distribution
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import Precision, Progress, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of everything; the defaults are the demo's, QUICK is for a first look and for tests."""

    calibration_pictures: int = 256
    test_pictures: int = 1000
    batches: tuple[int, ...] = (1, 8, 32)
    bench_seconds: float = 0.7


QUICK = Effort(calibration_pictures=64, test_pictures=200, batches=(1, 8, 32), bench_seconds=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the demo, and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """Everything the demo found.

    Attributes:
        folder: where the artifacts are.
        steps: in order, with their time.
        calibration: where INT8's ranges came from.
        activations: what was calibrated, tensor by tensor.
        verification: every artifact against the checkpoint.
        speed: of every artifact, the checkpoint first.
    """

    folder: Path
    steps: tuple[Step, ...]
    calibration: CalibrationRecord
    activations: tuple[Distribution, ...]
    verification: Verification
    speed: BenchmarkReport

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


class Stopwatch:
    """Collects the time of one step after the other."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        """Ends the step that began with the one before."""
        now = perf_counter()
        self.steps.append(Step(name=name, seconds=now - self._last))
        self._last = now


def build_and_prove(
    checkpoint: Artifact,
    onnx: Artifact,
    pictures: PictureSet,
    watch: Stopwatch,
    effort: Effort = Effort(),
    *,
    progress: Progress = silent,
) -> DemoReport:
    """Builds the FP16 and INT8 engines beside `onnx`, verifies every artifact against `checkpoint`, and times them all.

    Args:
        checkpoint, onnx: the model, and what was exported from it.
        pictures: held-out pictures to verify on. INT8 is calibrated on those that the model was trained on.
        watch: told of every step; one that has timed the steps before is welcome.

    Raises:
        BackendMissing: no TensorRT is installed; and whatever `build_engine`, `verify_all` and `benchmark` raise.
    """
    folder = onnx.path.parent
    fp16 = build_engine(onnx, folder / "alexnet.fp16.plan", Precision.FP16, progress=progress)
    watch.lap("build FP16")
    int8 = build_engine(onnx, folder / "alexnet.int8.plan", Precision.INT8, count=effort.calibration_pictures, progress=progress)
    watch.lap("calibrate and build INT8")
    assert int8.calibration is not None
    graphs = [artifact for report in (fp16, int8) for artifact in report.artifacts[:-1]]
    candidates = [onnx, *graphs, fp16.plan, int8.plan]
    with ExitStack() as opened:
        reference, *others = [opened.enter_context(Runtime(artifact.path)) for artifact in (checkpoint, *candidates)]
        chosen = pictures.sample(effort.test_pictures)
        verification = verify_all(reference, others, chosen, progress=progress)
        quantised = [
            other for other in others if other.manifest.kind == "onnx" and other.manifest.precision is not Precision.FP32
        ]
        layers = compare_layers(others[0], quantised, chosen, progress)
        watch.lap("verify")
        speed = benchmark([reference, *others], effort.batches, seconds=effort.bench_seconds, most_runs=500, progress=progress)
        watch.lap("benchmark")
    return DemoReport(
        folder=folder,
        steps=tuple(watch.steps),
        calibration=int8.calibration,
        activations=int8.activations,
        verification=replace(verification, layers=layers),
        speed=speed,
    )
