"""A FastAPI application that classifies pictures with one Runtime, shared by all requests.

    pip install 'alexnet-deploy[cpu]' fastapi uvicorn
    MODEL=models/alexnet.onnx uvicorn fastapi_app:app --app-dir examples
    curl --data-binary @cat.jpg http://127.0.0.1:8000/classify

For the Open Inference Protocol, batching across requests and overload, `alexnet-deploy serve` is there already; this is for a
picture classifier inside an application of your own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from alexnet_deploy import AlexnetDeployError, Runtime
from alexnet_deploy.preprocess import decode

MAX_BYTES = 20 << 20


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Runtime(os.environ["MODEL"], backend=os.environ.get("BACKEND")) as runtime:
        app.state.runtime = runtime
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
async def classify(request: Request, top: int = 5) -> list[dict[str, str | float]]:
    picture = bytearray()
    async for piece in request.stream():
        picture += piece
        if len(picture) > MAX_BYTES:
            raise HTTPException(413, f"at most {MAX_BYTES:,} bytes")
    runtime: Runtime = request.app.state.runtime
    try:
        pixels = await run_in_threadpool(decode, bytes(picture))  # decoding takes longer than some engines
        answer = await run_in_threadpool(runtime.classify, [pixels], top)
    except AlexnetDeployError as error:
        raise HTTPException(400, str(error)) from error
    return [{"label": label, "probability": probability} for label, probability in answer[0]]
