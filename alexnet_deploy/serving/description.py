"""What a server says about itself and its models, in the protocol's words."""

from __future__ import annotations

from typing import Any

from alexnet_deploy import __version__
from alexnet_deploy.manifest import to_builtins
from alexnet_deploy.serving.models import Metadata
from alexnet_deploy.serving.repository import Repository
from alexnet_deploy.serving.settings import Settings

NAME = "alexnet-deploy"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")


def server() -> dict[str, Any]:
    return {"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def config(model: Metadata, settings: Settings) -> dict[str, Any]:
    """The part of Triton's ModelConfig that clients such as perf_analyzer read."""
    return {
        "name": model.name,
        "platform": model.platform,
        "backend": model.platform.rpartition("_")[0],
        "max_batch_size": settings.max_batch,
        "input": [_port(t.name, t.datatype, t.shape) for t in model.inputs],
        "output": [_port(t.name, t.datatype, t.shape) for t in model.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": int(settings.max_delay_s * 1e6)},
    }


def statistics(repository: Repository, name: str = "", version: str = "") -> list[dict[str, Any]]:
    """The protocol's statistics of one model, one version, or all of them. Raises UnknownModel."""
    if name:
        with repository.leased(name, version):
            pass
    chosen = [m for m in repository.models() if name in ("", m.name) and version in ("", m.version)]
    return [_statistics(repository, m.name, m.version) for m in chosen]


def _statistics(repository: Repository, name: str, version: str) -> dict[str, Any]:
    counted = to_builtins(repository.metrics.statistics(name, version))
    durations = {key: counted.pop(key) for key in ("success", "fail", "queue", "compute_infer")}
    return {"name": name, "version": version, **counted, "inference_stats": durations}


def _port(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    # Without the batch, which max_batch_size implies.
    return {"name": name, "data_type": f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}", "dims": list(shape[1:])}
