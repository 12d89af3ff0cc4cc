"""Where served models come from: artifacts named on the command line, or a folder as Triton lays one out.

models/alexnet.int8.plan                 the model "alexnet.int8", version 1
shoes=models/shoes.onnx                  the model "shoes"
shoes:2=models/shoes-2.onnx              its version 2
repository/                              repository/<model>/<version>/<one artifact>, versions being numbers
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_deploy.artifact import existing_file
from alexnet_deploy.errors import ArtifactMissing, InputError, UnknownModel
from alexnet_deploy.manifest import KIND_OF_SUFFIX

Versions = dict[str, Path]
_NAMED = re.compile(r"(?P<name>[\w.-]+)(?::(?P<version>\d+))?=(?P<path>.+)", re.ASCII)
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
FIRST = "1"


class Sources:
    """The files of every model that could be served, looked up anew whenever one is loaded."""

    def __init__(self, specs: Sequence[str]) -> None:
        """
        Raises:
            ArtifactMissing: a file or folder that does not exist.
            InputError: two files for the same model and version, or nothing to serve.
        """
        self._files: dict[str, Versions] = {}
        self._folders: list[Path] = []
        for spec in specs:
            if Path(spec).is_dir():
                self._folders.append(Path(spec))
            else:
                self._add(spec)
        if not self.names():
            raise InputError("there is nothing to serve", expected="artifacts, or a folder of <model>/<version>/<artifact>")

    def names(self) -> list[str]:
        """Every model there is: the files as they were named, then what is in the folders."""
        in_folders = {p.name for folder in self._folders for p in _listed(folder) if _NAME.fullmatch(p.name) and _numbered(p)}
        return list(dict.fromkeys([*self._files, *sorted(in_folders)]))

    def versions(self, name: str) -> Versions:
        """The files of a model, the newest version last.

        Raises:
            UnknownModel: there is no such model.
            ArtifactMissing: a version's folder holds no artifact, or several.
        """
        if name in self._files:
            return _sorted(self._files[name])
        if _NAME.fullmatch(name):
            for folder in self._folders:
                if found := _numbered(folder / name):
                    return _sorted({version.name: _artifact_in(version) for version in found})
        raise UnknownModel(f"there is no model {name[:64]!r}", expected=f"one of {', '.join(self.names()[:16])}")

    def _add(self, spec: str) -> None:
        match = _NAMED.fullmatch(spec) if not Path(spec).exists() else None
        path = existing_file(match["path"] if match else spec)
        name = match["name"] if match else path.stem
        version = str(int((match and match["version"]) or FIRST))
        versions = self._files.setdefault(name, {})
        if version in versions:
            raise InputError(
                f"{versions[version]} and {path} would both be version {version} of {name!r}",
                expected="one file a version",
                fix=f"{name}-a={versions[version]} {name}-b={path}, or {name}:2={path}",
            )
        versions[version] = path


def _numbered(folder: Path) -> list[Path]:
    return [p for p in _listed(folder) if p.name.isdecimal() and p.is_dir()]


def _listed(folder: Path) -> list[Path]:
    """What is in a folder; nothing where it is none, is gone, may not be read, or no file could have its name."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _sorted(versions: Versions) -> Versions:
    return dict(sorted(versions.items(), key=lambda item: int(item[0])))


def _artifact_in(folder: Path) -> Path:
    """The one artifact of a version; a plan's twin beside it does not count."""
    found = sorted(p for p in _listed(folder) if KIND_OF_SUFFIX.get(p.suffix) in ("onnx", "plan"))
    plans = [p for p in found if KIND_OF_SUFFIX[p.suffix] == "plan"]
    chosen = plans or found
    if len(chosen) != 1:
        raise ArtifactMissing(
            f"{folder} holds {', '.join(p.name for p in chosen) or 'no artifact'}",
            expected="one plan or ONNX graph, with its .json",
        )
    return chosen[0]
