"""Scores all there is, and says what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.machine import usable_cores
from alexnet_deploy.ran import Ran
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.score.find import find
from alexnet_deploy.score.parts import Output, Record
from alexnet_deploy.score.shards import Shard
from alexnet_deploy.score.work import score_shards
from alexnet_deploy.types import Progress, silent, whole_number

SHARD_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """What a run did.

    Attributes:
        ran: what scored them; on Ray, the first of them.
        source, output: as they were named.
        scored, rejected: pictures of this run.
        shards, resumed: of the whole work; done by earlier runs.
        seconds: of this run, from the first shard to the last.
        workers: Runtimes at once.
    """

    ran: Ran
    source: str
    output: str
    scored: int
    rejected: int
    shards: int
    resumed: int
    seconds: float
    workers: int

    @property
    def pictures_per_s(self) -> float:
        return (self.scored + self.rejected) / self.seconds if self.seconds else 0.0


def score(
    artifact: str | Path,
    source: str,
    output: str,
    *,
    shard_size: int = SHARD_SIZE,
    picture_column: str = "",
    name_column: str = "",
    device: str = "auto",
    backend: str | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    ray_workers: int = 0,
    ray_address: str | None = None,
    progress: Progress = silent,
) -> ScoreReport:
    """Scores every picture of `source` that has not been scored into `output` yet.

    Args:
        artifact, device, backend: as Runtime takes them.
        source: a folder, glob, list, Parquet, tars, a set, or a URL of one; see find.py.
        output: a folder or its URL; the parts of an earlier run of the same work are kept.
        shard_size: pictures a part; Parquet input is cut at its row groups.
        batch_size: pictures in one call of the engine; the artifact's favourite when None.
        threads: that read and decode, a Runtime; one a core when None.
        ray_workers: Runtimes on Ray; 0 works in this process.
        ray_address: of a cluster; None starts Ray on this machine.

    Raises:
        DataError: there is nothing to score.
        InputError: `output` holds the results of other work.
    """
    for what, number in (("shard_size", shard_size), ("batch_size", batch_size), ("threads", threads)):
        if number is not None:
            whole_number(number, what)
    work = find(source, shard_size=shard_size, picture_column=picture_column, name_column=name_column)
    parts = Output(output)
    with Runtime(artifact, device, backend) as runtime:
        model = runtime.running
        done = parts.begin(
            Record(
                source=source,
                digest=work.digest,
                shards=len(work.shards),
                model=model.path.name,
                model_sha256=model.manifest.sha256,
            )
        )
        todo = [(number, shard) for number, shard in enumerate(work.shards) if number not in done]
        start = time.perf_counter()
        if ray_workers:
            from alexnet_deploy.score.distributed import score_on_ray

            # Runtimes on one machine share its cores; on a cluster nobody knows here how they are spread.
            engine_threads = None if ray_address else max(1, usable_cores() // ray_workers)
            options = (str(runtime.artifact.path.resolve()), device, backend, batch_size, threads, engine_threads)
            counts = score_on_ray(options, todo, output, workers=ray_workers, address=ray_address)
        else:
            counts = _score_here(runtime, todo, parts, batch_size, threads, model)
        scored = rejected = 0
        for finished, (more_scored, more_rejected) in enumerate(counts, start=len(done) + 1):
            scored += more_scored
            rejected += more_rejected
            progress("score", finished, len(work.shards), f"{scored + rejected:,} pictures, {rejected:,} rejected")
        return ScoreReport(
            ran=Ran.of(runtime),
            source=source,
            output=output,
            scored=scored,
            rejected=rejected,
            shards=len(work.shards),
            resumed=len(done),
            seconds=time.perf_counter() - start,
            workers=ray_workers or 1,
        )


def _score_here(
    runtime: Runtime, todo: list[tuple[int, Shard]], parts: Output, batch_size: int | None, threads: int | None, model: Artifact
) -> Iterator[tuple[int, int]]:
    """Scores and writes shard by shard; gives the numbers of scored and rejected pictures of each."""
    for done in score_shards(runtime, todo, batch_size=batch_size, workers=threads):
        parts.write(done.number, model.manifest.sha256, done.results, done.rejects)
        yield len(done.results), len(done.rejects)
