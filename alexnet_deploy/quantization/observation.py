"""What goes through a float32 graph while it looks at pictures, in memory that does not depend on their number."""

from __future__ import annotations

from onnx import ModelProto

from alexnet_deploy.errors import CalibrationError
from alexnet_deploy.manifest import Manifest
from alexnet_deploy.onnx_graph.session import Array, GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.balance import NO_FACTORS, Channels, Factors, balanceable, choose_factors
from alexnet_deploy.quantization.feeding import feeds, of_pictures, some
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.layers import find_layers
from alexnet_deploy.quantization.qdq import observed_tensors
from alexnet_deploy.types import Progress, silent

_EXPOSED_BYTES = 64 << 20
_BALANCING_PICTURES, _BALANCING_BATCH = 256, 16


def observe(
    model: ModelProto,
    manifest: Manifest,
    pictures: PictureSet,
    batch_size: int = 16,
    factors: Factors = NO_FACTORS,
    progress: Progress = silent,
) -> Observer:
    """Histograms of the tensors that quantisation needs (`qdq.observed_tensors`), over all pictures.

    Raises:
        CalibrationError: a tensor held NaN or infinity.
    """
    observer = Observer(model, manifest, factors)
    observer.add(pictures, batch_size, progress)
    for name, histogram in observer.histograms.items():
        if not histogram.finite:
            raise CalibrationError(
                f"{name} holds NaN or infinity for some calibration pictures",
                expected="a graph that computes finite numbers",
                fix="alexnet-deploy verify the model, and check the preprocessing in its manifest",
            )
    return observer


class Observer:
    """A graph opened for looking at its activations.

    Attributes:
        histograms: of each tensor that quantisation needs, over everything that was added.
        multiplied: of the tensors with factors, times these.
    """

    def __init__(self, model: ModelProto, manifest: Manifest, factors: Factors = NO_FACTORS) -> None:
        tensors = observed_tensors(model, find_layers(model))
        self.histograms = {name: Histogram() for name in tensors}
        self.multiplied = {name: Histogram() for name in factors}
        self._factors = factors
        self._manifest = manifest
        self._given = model.graph.input[0].name
        self._runner = GraphRunner(model, [name for name in tensors if name != self._given])

    def add(self, pictures: PictureSet, batch_size: int = 16, progress: Progress = silent) -> None:
        """Runs the graph on every picture, in smaller batches where the activations would take too much memory."""
        batch_size = min(batch_size, max(1, _EXPOSED_BYTES // _exposed_bytes(self._runner, self._manifest, pictures)))
        done = 0
        for feed, rows in feeds(pictures, self._manifest, batch_size):
            values = dict(zip(self._runner.outputs, self._runner.run(feed), strict=True)) | {self._given: feed}
            for name, histogram in self.histograms.items():
                histogram.add(of_pictures(values[name], rows, len(feed)))
            for name, histogram in self.multiplied.items():
                histogram.add(of_pictures(values[name], rows, len(feed)) * self._factors[name])
            done += rows
            progress("calibrate", done, len(pictures))


def channel_factors(model: ModelProto, manifest: Manifest, pictures: PictureSet) -> dict[str, Array]:
    """What the channels of each tensor are multiplied by, where that is predicted to help; most graphs have no such tensor."""
    layers = find_layers(model)
    names = balanceable(model, layers, observed_tensors(model, layers))
    if not names:
        return {}
    runner = GraphRunner(model, names)
    channels = {name: Channels() for name in names}
    for feed, rows in feeds(some(pictures, _BALANCING_PICTURES), manifest, _BALANCING_BATCH):
        for name, values in zip(runner.outputs, runner.run(feed), strict=True):
            channels[name].add(of_pictures(values, rows, len(feed)))
    return choose_factors(model, layers, channels)


def _exposed_bytes(runner: GraphRunner, manifest: Manifest, pictures: PictureSet) -> int:
    """Bytes of all outputs for one picture, found by running the smallest batch."""
    feed, _ = next(feeds(pictures, manifest, 1))
    return max(1, sum(value.nbytes for value in runner.run(feed)) // len(feed))
