"""Tensors to a safetensors file, where a full disk is an OSError as for any other file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust ends the text of one


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file. Raises OSError, with its number, where the system refuses."""
    path.touch()
    usual = path.stat().st_mode
    try:
        save_file(tensors, path, metadata)
        path.chmod(usual)  # safetensors' files can be read by nobody else
    except SafetensorError as error:
        if found := _SYSTEM_ERROR.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
