"""Weights to start from: torchvision's published AlexNet, files of its kind, checkpoints, Caffe's models, the ONNX zoo's."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from alexnet_deploy.artifact import existing_file
from alexnet_deploy.errors import ArtifactCorrupt, ArtifactMissing, InputError, ModelError
from alexnet_deploy.files import replacing
from alexnet_deploy.folders import cache_folder
from alexnet_deploy.types import Progress, silent
from training.foreign_weights import read_caffe, read_onnx
from training.model import AlexNet

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0
_TASK = "download"


@dataclass(frozen=True, slots=True)
class Published:
    """A file on the web.

    Attributes:
        url: where it is.
        sha256: the beginning of its SHA-256, as far as its publisher states it.
        size_bytes: of the whole file.
    """

    url: str
    sha256: str
    size_bytes: int


# torchvision names its files after the first eight digits of their SHA-256, and states no more of it.
IMAGENET = Published("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79", 244_408_911)


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by the names of this family, on the CPU.

    Attributes:
        tensors: float32, a state_dict.
        arch: the member of the family, where the file says it; "" where only names and shapes can tell.
    """

    tensors: Mapping[str, torch.Tensor]
    arch: str = ""


def read_weights(source: str, progress: Progress = silent) -> Weights:
    """Weights from a file.

    Args:
        source: "imagenet" (downloaded once), or a file that ends in .pth, .pt, .safetensors, .caffemodel or .onnx.

    Raises:
        InputError: another suffix.
        ArtifactMissing: no such file; or not in the cache, and the network cannot be reached.
        ArtifactCorrupt: the file is damaged, or holds more than tensors.
        ModelError: a Caffe or ONNX model that is no AlexNet.
    """
    path = fetch(IMAGENET, progress) if source == "imagenet" else existing_file(source)
    if path.suffix == ".caffemodel":
        return Weights(*read_caffe(path))
    if path.suffix == ".onnx":
        return Weights(*read_onnx(path))
    if path.suffix == ".safetensors":
        try:
            return Weights(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactCorrupt(f"{path} cannot be read as safetensors ({error})", expected="whole weights") from error
    if path.suffix not in (".pth", ".pt"):
        raise InputError(
            f"weights in {path.name}", expected="imagenet, or a file ending in .pth, .pt, .safetensors, .caffemodel or .onnx"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on what its zip reader and its restricted unpickler raise
        raise ArtifactCorrupt(
            f"{path} cannot be read as a state_dict", expected="tensors alone, as torch.save(model.state_dict()) writes them"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ArtifactCorrupt(f"{path} holds no state_dict", expected="as torch.save(model.state_dict()) writes it")
    return Weights(dict(content))


def start_from(model: AlexNet, weights: Weights) -> bool:
    """Copies weights into a model; its last layer keeps its own where the number of classes differs.

    Returns:
        Whether the last layer is a new one.

    Raises:
        ModelError: they are another architecture's, or another width's.
    """
    if weights.arch and weights.arch != model.config.arch:
        raise ModelError(
            f"these are weights of {weights.arch}: it computes in another order than {model.config.arch}",
            expected="weights of the same architecture",
            fix=f"--arch {weights.arch}",
        )
    tensors = weights.tensors
    own = model.state_dict()
    *_, head = (name.rpartition(".")[0] for name in own)
    head_names = [name for name in own if name.startswith(f"{head}.")]
    new_head = any(name in tensors and tensors[name].shape != own[name].shape for name in head_names)
    wanted = {name for name in own if not (new_head and name in head_names)}
    misfits = sorted(
        name
        for name in wanted | set(tensors) - set(head_names)
        if name not in own or _shape(tensors.get(name)) != own[name].shape
    )
    if misfits:
        raise ModelError(
            f"the weights do not fit {model.config.arch} at width {model.config.width:g}: {misfits[0]} "
            f"is {_described(tensors.get(misfits[0]))}, not {_described(own.get(misfits[0]))}",
            expected="weights of the same architecture and width",
            fix="--arch and --width as they were trained with",
        )
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(tensors[name])
    return new_head


def fetch(published: Published, progress: Progress = silent) -> Path:
    """The file in the cache, downloaded if it is not there; an interrupted download goes on where it broke off.

    Raises:
        ArtifactMissing: it is not in the cache, and the network cannot be reached.
        ArtifactCorrupt: what came has another SHA-256.
    """
    path = cache_folder() / "weights" / published.url.rpartition("/")[2]
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _download(published, part, progress)
    except OSError as error:  # urllib's errors are
        raise ArtifactMissing(
            f"{path.name} is not in the cache, and {published.url} cannot be fetched ({error})",
            expected="a network connection, once",
            fix=f"fetch it elsewhere and put it at {path}, or name it: --weights {path.name}",
        ) from error
    found = _sha256(part)
    if not found.startswith(published.sha256):
        part.unlink()
        raise ArtifactCorrupt(
            f"{published.url} gave a file of SHA-256 {found[:12]}…",
            expected=f"one that starts with {published.sha256}",
            fix="try again later",
        )
    with replacing(path) as temporary:
        part.replace(temporary)
    return path


def _download(published: Published, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.is_file() else 0
    if have == published.size_bytes:
        return
    request = urllib.request.Request(published.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        if answer.status != 206:  # the server sends the whole file
            have = 0
        with part.open("ab" if have else "wb") as file:
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                progress(_TASK, min(have, published.size_bytes), published.size_bytes, "bytes")
    if have < published.size_bytes:
        raise OSError(f"the connection broke off after {have:,} of {published.size_bytes:,} bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shape(tensor: torch.Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _described(tensor: torch.Tensor | None) -> str:
    return "not there" if tensor is None else f"{tuple(tensor.shape)}"
