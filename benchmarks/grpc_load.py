"""The same load over gRPC: one channel, as tritonclient has it, and a message that is serialised once."""

from __future__ import annotations

import asyncio
import time

import grpc
from http_load import AFTER_503_S, Answers

from alexnet_deploy.serving.messages import SERVICE

_STATUS = {grpc.StatusCode.OK: 200, grpc.StatusCode.UNAVAILABLE: 503}


def closed_loop(address: str, request: bytes, seconds: float, in_flight: int) -> Answers:
    """`in_flight` calls of ModelInfer under way at any time; statuses are counted as HTTP has them."""
    return asyncio.run(_closed_loop(address, request, seconds, in_flight))


async def _closed_loop(address: str, request: bytes, seconds: float, in_flight: int) -> Answers:
    answers = Answers()
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", request_serializer=None, response_deserializer=None)
        await channel.channel_ready()
        end = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < end:
                start = time.perf_counter()
                call = infer(request)
                status = _STATUS[await call.code()]
                answers.add(status, time.perf_counter() - start)
                if status == 503:
                    await asyncio.sleep(AFTER_503_S)

        await asyncio.gather(*(one() for _ in range(in_flight)))
    return answers
