"""An asyncio worker: pictures come through a queue, are gathered into batches, and the event loop never waits.

python examples/asyncio_worker.py models/alexnet.onnx photos/*.jpg
"""

from __future__ import annotations

import asyncio
import os
import sys

import numpy as np

from alexnet_deploy import Runtime
from alexnet_deploy.preprocess import decode_fitted

BATCH = 16


async def work(runtime: Runtime, queue: asyncio.Queue[str | None]) -> None:
    """Classifies what comes through the queue until None does."""
    ended = False
    while not ended:
        files = [await queue.get()]
        while len(files) < BATCH and not queue.empty():
            files.append(queue.get_nowait())
        ended = None in files
        names = [name for name in files if name is not None]
        if names:
            pictures = await asyncio.gather(*(asyncio.to_thread(decode_fitted, name, runtime.recipe) for name in names))
            probabilities = await runtime.apredict(np.stack(pictures))
            for name, row in zip(names, probabilities, strict=True):
                best = int(row.argmax())
                print(f"{name}: {runtime.manifest.label(best)} ({row[best]:.1%})")


async def main(model: str, files: list[str]) -> None:
    queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=4 * BATCH)
    with Runtime(model, backend=os.environ.get("BACKEND")) as runtime:
        worker = asyncio.create_task(work(runtime, queue))
        for file in [*files, None]:
            await queue.put(file)
        await worker


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
