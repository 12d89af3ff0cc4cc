"""The same work on Ray Data: an actor pool of Runtimes, each taking some shards at a time and writing their parts.

The parts are what counts, as in one process: a worker that dies has written a whole part or none, and Ray gives its task to
another, which writes the same parts again. On a cluster, the artifact's path and the output must be the same on every machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_deploy.errors import AlexnetDeployError
from alexnet_deploy.extras import extra
from alexnet_deploy.machine import usable_cores
from alexnet_deploy.score.shards import Shard

# Artifact, device, backend, batch size, threads that decode, threads of the engine: what an actor works with.
Options = tuple[str, str, str | None, int | None, int | None, int | None]

# Ray's driver holds some 15 kB for each task, and spends some 25 ms on it: many shards share one. But a worker that dies costs
# its whole task once more, all workers want work until the end, and somebody watches the progress.
_MOST_SHARDS_A_TASK = 50
_FEWEST_TASKS = 100
_FEWEST_TASKS_A_WORKER = 8
# An actor that asked for a whole CPU would starve Ray's own readers on a small machine, and the job would never end.
_ACTOR_CPUS = 0.5
_SMALLEST_RAY_CPUS = 4


class _Worker:
    """An actor: one Runtime, the shards of one task at a time."""

    def __init__(self, options: Options, output: str) -> None:
        from alexnet_deploy.runtime import Runtime
        from alexnet_deploy.score.parts import Output

        artifact, device, backend, self._batch_size, self._threads, engine_threads = options
        self._runtime = Runtime(artifact, device, backend, threads=engine_threads)
        self._parts = Output(output)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        from alexnet_deploy.score.work import score_shards

        todo = list(zip((int(n) for n in batch["number"]), batch["shard"], strict=True))
        for done in score_shards(self._runtime, todo, batch_size=self._batch_size, workers=self._threads):
            self._parts.write(done.number, self._runtime.running.manifest.sha256, done.results, done.rejects)
            yield {"scored": [len(done.results)], "rejected": [len(done.rejects)]}


def tasks(shards: int, workers: int) -> int:
    """How many tasks so many shards are spread over."""
    a_task = min(_MOST_SHARDS_A_TASK, math.ceil(shards / max(_FEWEST_TASKS, _FEWEST_TASKS_A_WORKER * workers)))
    return math.ceil(shards / a_task)


def score_on_ray(
    options: Options, todo: Sequence[tuple[int, Shard]], output: str, *, workers: int, address: str | None
) -> Iterator[tuple[int, int]]:
    """Numbers of scored and rejected pictures of each shard, as they are done.

    Raises:
        AlexnetDeployError: Ray is not installed, or a worker failed for good.
    """
    if not todo:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # else it keeps lines back until the process ends
    # On a machine that is busy with other things a worker needs longer to start than the minute Ray gives it, and the run hung.
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")
    with extra("ray", "score --ray"):
        import ray
        from ray.data import ActorPoolStrategy
    started = not ray.is_initialized()
    if started:
        cpus = None if address else max(_SMALLEST_RAY_CPUS, usable_cores())
        ray.init(address=address, num_cpus=cpus, include_dashboard=False if address is None else None, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shards = ray.data.from_items(
        [{"number": number, "shard": shard} for number, shard in todo], override_num_blocks=tasks(len(todo), workers)
    )
    scored = shards.map_batches(
        _Worker,
        fn_constructor_args=(options, output),
        batch_size=None,  # all of a task's
        compute=ActorPoolStrategy(size=min(workers, len(todo))),
        num_cpus=_ACTOR_CPUS,
        num_gpus=1 if options[1] == "cuda" else 0,
    )
    try:
        for row in scored.iter_rows():
            yield row["scored"], row["rejected"]
    except ray.exceptions.RayError as error:
        raise AlexnetDeployError(
            f"a Ray worker failed: {error}", fix="run the same command again: what is done is kept"
        ) from error
    finally:
        if started:
            ray.shutdown()
