"""The gRPC messages of open_inference.proto, as classes.

They live in a descriptor pool of their own: protobuf's default pool takes each message name once, and an application that
also uses tritonclient has `inference.ModelInferRequest` in it already. Loading a descriptor, not generated code, leaves the
choice of the protobuf version to the application.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    described = descriptor_pb2.FileDescriptorSet.FromString((files(__package__) / "open_inference.desc").read_bytes())
    for file in described.file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """The class of a message, such as "ModelInferRequest"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))
