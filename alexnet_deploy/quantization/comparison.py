"""Two graphs of one network, by what they answer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from alexnet_deploy.manifest import Manifest
from alexnet_deploy.onnx_graph.classifier import logits_of
from alexnet_deploy.onnx_graph.session import Array, GraphRunner
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization.feeding import feeds


def logits(model: ModelProto, manifest: Manifest, pictures: PictureSet, batch_size: int = 16) -> npt.NDArray[np.float32]:
    """What a graph in memory answers, float32 (N, classes); Q/DQ as written."""
    runner = GraphRunner(model, [logits_of(model)])
    rows = [runner.run(feed)[0][:count] for feed, count in feeds(pictures, manifest, batch_size)]
    return np.concatenate(rows).reshape(len(pictures), -1).astype(np.float32)


def relative_error(reference: Array, candidate: Array) -> float:
    """Noise power over signal power of logits; what is common to all classes of a picture counts for neither."""
    signal = reference - reference.mean(axis=1, keepdims=True)
    noise = candidate - candidate.mean(axis=1, keepdims=True) - signal
    power = float(np.square(signal, dtype=np.float64).sum())
    return float(np.square(noise, dtype=np.float64).sum()) / max(power, float(np.finfo(np.float64).tiny))


def typical_error(reference: Array, candidate: Array) -> float:
    """As `relative_error`, of a typical picture: the geometric mean over all of them, which no single one can decide."""
    each = [relative_error(*pair) for pair in zip(reference[:, None], candidate[:, None], strict=True)]
    return float(np.exp(np.log(np.maximum(each, np.finfo(np.float32).tiny)).mean()))
