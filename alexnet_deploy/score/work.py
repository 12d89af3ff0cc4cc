"""Shards through a Runtime: read and decoded by threads that run ahead, also into the next shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np

from alexnet_deploy.decoding import Fitted, fitted_one, in_threads
from alexnet_deploy.errors import OutputNotFinite, PictureError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.preprocess import Pixels
from alexnet_deploy.runtime import MOST_AT_ONCE, Runtime
from alexnet_deploy.score.parts import Reject, Result
from alexnet_deploy.score.shards import Picture, Shard


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of one shard."""

    number: int
    results: list[Result]
    rejects: list[Reject]


@dataclass(frozen=True, slots=True)
class _Turn:
    """A picture on its way; `picture` None ends the shard."""

    shard: int
    picture: Picture | None


def score_shards(
    runtime: Runtime, shards: Iterable[tuple[int, Shard]], *, batch_size: int | None = None, workers: int | None = None
) -> Iterator[Scored]:
    """Scores numbered shards, in order.

    Args:
        batch_size: pictures in one call of the engine; the artifact's favourite when None.
        workers: threads that read and decode; one a core when None.
    """
    size = batch_size or min(runtime.batch.opt, MOST_AT_ONCE)
    turns = (turn for number, shard in shards for turn in _turns(number, shard))
    ready = in_threads(partial(_prepared, recipe=runtime.recipe), turns, ahead=2 * size, workers=workers)
    results: list[Result] = []
    rejects: list[Reject] = []
    names: list[str] = []
    waiting: list[Pixels] = []

    def flush() -> None:
        if waiting:
            results.extend(_results(runtime, names, waiting, rejects))
            names.clear()
            waiting.clear()

    with closing(ready):
        for turn, prepared in ready:
            if turn.picture is None:
                flush()
                yield Scored(turn.shard, results, rejects)
                results, rejects = [], []
            elif isinstance(prepared, Exception):
                rejects.append(Reject(turn.picture.name, str(prepared)))
            elif prepared is not None:
                names.append(turn.picture.name)
                waiting.append(prepared)
                if len(waiting) == size:
                    flush()


def _turns(number: int, shard: Shard) -> Iterator[_Turn]:
    yield from (_Turn(number, picture) for picture in shard.pictures())
    yield _Turn(number, None)


def _prepared(turn: _Turn, recipe: Preprocess) -> tuple[_Turn, Fitted | None]:
    if turn.picture is None:
        return turn, None
    # The content is let go here: what waits for the engine is the fitted picture alone.
    kept = _Turn(turn.shard, Picture(turn.picture.name))
    try:
        return kept, fitted_one(turn.picture.open(), recipe)
    except PictureError as error:
        return kept, error


def _results(runtime: Runtime, names: list[str], pictures: list[Pixels], rejects: list[Reject]) -> list[Result]:
    try:
        probabilities = runtime.predict(np.stack(pictures))
    except OutputNotFinite as error:
        if len(pictures) == 1:
            rejects.append(Reject(names[0], str(error)))
            return []
        # One picture that the engine chokes on is one reject, not a batch of them.
        each = (_results(runtime, [name], [picture], rejects) for name, picture in zip(names, pictures, strict=True))
        return [result for one in each for result in one]
    best = probabilities.argmax(axis=1)
    label = runtime.manifest.label
    return [
        Result(name, label(int(index)), int(index), float(row[index]))
        for name, index, row in zip(names, best, probabilities, strict=True)
    ]
