"""Models by name and version, loaded and unloaded while requests run.

A new version is loaded and warmed up beside the old one, then takes its place; the old one finishes what it was given.
Nothing changes when loading fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict, Unpack

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import AlexnetDeployError, UnknownModel
from alexnet_deploy.machine import usable_cores
from alexnet_deploy.package import open_artifact
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.serving.backlog import Backlog
from alexnet_deploy.serving.cost import Cost
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.models import Metadata, ServedModel, measure
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.sources import Sources


class Where(TypedDict, total=False):
    """Where models run, as Runtime takes it."""

    device: str
    backend: str | None
    threads: int | None


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository's index; `state` is "READY" or "UNAVAILABLE"."""

    name: str
    version: str
    state: str
    reason: str = ""


class Repository:
    """What is served. Made and used in one event loop."""

    def __init__(self, sources: Sources, settings: Settings, **where: Unpack[Where]) -> None:
        self.metrics = Metrics(self._waiting_rows)
        self._sources = sources
        self._settings = settings
        self._where = where
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._failures: dict[str, str] = {}
        self._changing = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._backlog = Backlog(settings.max_wait_s)
        self._preparing = ThreadPoolExecutor(usable_cores(), "alexnet-deploy-pictures")

    @contextmanager
    def leased(self, name: str, version: str = "") -> Iterator[ServedModel]:
        """A model that stays open while the block runs; the newest version where none is named.

        Raises:
            UnknownModel: it is not served.
        """
        versions = self._models.get(name, {})
        model = versions.get(version or next(reversed(versions), ""))
        if model is None:
            what = f"model {name[:64]!r}" + (f" version {version[:16]!r}" if version else "")
            served = ", ".join(f"{n} {v}" for n, vs in self._models.items() for v in vs)
            raise UnknownModel(f"{what} is not served", expected=f"one of {served[:400]}" if served else "a loaded model")
        with model.leased():
            yield model

    def metadata(self, name: str, version: str = "") -> Metadata:
        """Raises UnknownModel."""
        with self.leased(name, version) as model:
            return model.metadata(tuple(self._models[name]))

    def models(self) -> list[ServedModel]:
        """Every version that is served, the newest of each model last."""
        return [model for versions in self._models.values() for model in versions.values()]

    def index(self) -> list[IndexEntry]:
        """Every model there is, served or not."""
        entries = [IndexEntry(m.name, m.version, "READY") for m in self.models()]
        missing = [name for name in self._sources.names() if name not in self._models]
        return entries + [IndexEntry(name, "", "UNAVAILABLE", self._failures.get(name, "unloaded")) for name in missing]

    async def load_all(self) -> None:
        """Loads everything there is; raises what the first failure raised."""
        for name in self._sources.names():
            await self.load(name)

    async def load(self, name: str) -> None:
        """Loads a model, or what has changed of it since.

        Raises:
            UnknownModel: there are no files for it.
            AlexnetDeployError: a file cannot be loaded; what was served before still is.
        """
        async with self._changing:
            try:
                files = self._sources.versions(name)
                served = self._models.get(name, {})
                fresh: dict[str, ServedModel] = {}
                try:
                    for version, path in files.items():
                        artifact = await asyncio.to_thread(open_artifact, path, check_hash=False)
                        old = served.get(version)
                        same = old is not None and old.runtime.artifact == artifact
                        fresh[version] = old if old is not None and same else await self._open(name, version, artifact)
                except BaseException:
                    self._retire([m for v, m in fresh.items() if m is not served.get(v)])
                    raise
            except AlexnetDeployError as error:
                self._failures[name] = str(error)
                raise
            self._failures.pop(name, None)
            self._models[name] = fresh
            self._retire([m for v, m in served.items() if m is not fresh.get(v)])

    async def unload(self, name: str) -> None:
        """Takes a model out of service; what it was given before is still answered.

        Raises:
            UnknownModel: it is not served.
        """
        async with self._changing:
            if name not in self._models:
                raise UnknownModel(f"model {name[:64]!r} is not served", expected="a loaded model")
            self._retire(list(self._models.pop(name).values()))

    async def close(self) -> None:
        """Takes everything out of service, and waits until the last answer is given."""
        async with self._changing:
            for name in list(self._models):
                self._retire(list(self._models.pop(name).values()))
        await asyncio.gather(*self._closing)
        self._preparing.shutdown(wait=False)
        self._backlog.close()

    async def _open(self, name: str, version: str, artifact: Artifact) -> ServedModel:
        def load() -> tuple[Runtime, Cost]:
            runtime = Runtime(artifact.path, **self._where)
            return runtime, measure(runtime, self._settings.max_batch)

        runtime, cost = await asyncio.to_thread(load)
        record = self.metrics.recorder(name, version)
        return ServedModel(name, version, runtime, cost, self._settings, self._preparing, record, self._backlog.refuses)

    def _retire(self, models: list[ServedModel]) -> None:
        for model in models:
            task = asyncio.create_task(model.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _waiting_rows(self) -> int:
        return sum(model.batcher.reserved_rows for model in self.models())
