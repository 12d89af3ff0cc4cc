"""What the tests of serving share: artifacts of the fake backend, a server on loopback, and bare HTTP."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from alexnet_deploy.backends.fake import write_fake
from alexnet_deploy.serving.running import background
from alexnet_deploy.serving.server import Server
from alexnet_deploy.serving.settings import Settings
from tests.patience import PATIENCE_S

LABELS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def write_model(path: Path, **fields: Any) -> Path:
    """A 16-pixel classifier of ten classes that only the fake backend loads."""
    write_fake(path, labels=LABELS, height=16, width=16, **fields)
    return path


@contextlib.contextmanager
def serving(*specs: str | Path, **settings: Any) -> Iterator[Server]:
    with background(specs, Settings(**{"port": 0, "grpc_port": None, **settings}), backend="fake") as server:
        yield server


def ask(server: Server, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    connection = http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def infer_body(batch: np.ndarray) -> bytes:
    """A request for all outputs, in JSON."""
    tensor = {"name": "input", "datatype": "FP32", "shape": list(batch.shape), "data": batch.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def pixels_of(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))
