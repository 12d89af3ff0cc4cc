"""The table of backends. Adding one: a module with a Backend in it, a line here, and the conformance suite running on it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from alexnet_deploy.errors import InputError
from alexnet_deploy.manifest import Kind
from alexnet_deploy.types import Flavour

if TYPE_CHECKING:
    from alexnet_deploy.backends.base import Backend


class Entry(Struct, frozen=True):
    """One line of the table.

    Attributes:
        home: "module:Class", imported when it is first used.
        kinds: the artifacts that it loads.
        needs: the importable package that it stands on.
        extra: what to install: pip install 'alexnet-deploy[extra]'.
        devices: where it can run.
        automatic: whether Runtime may choose it; otherwise it must be named.
    """

    home: str
    kinds: tuple[Kind, ...]
    needs: str
    extra: str
    devices: tuple[str, ...]
    automatic: bool = True

    @property
    def installed(self) -> bool:
        """Whether the package is there, without importing it."""
        return find_spec(self.needs) is not None

    def backend(self) -> type[Backend]:
        module, _, name = self.home.partition(":")
        return cast("type[Backend]", getattr(import_module(f"{__name__}.{module}"), name))


# In the order of preference for each kind of artifact.
BACKENDS: dict[str, Entry] = {
    "pytorch": Entry("pytorch:PyTorchBackend", ("checkpoint",), "torch", "train", ("cpu", "cuda")),
    "onnxruntime": Entry("ort:OnnxRuntimeBackend", ("onnx",), "onnxruntime", "cpu", ("cpu", "cuda")),
    "openvino": Entry("openvino:OpenVinoBackend", ("onnx",), "openvino", "openvino", ("cpu",)),
    "tensorrt": Entry("trt:TensorRtBackend", ("plan",), "tensorrt", "tensorrt", ("cuda",)),
    "tensorrt-rtx": Entry("trt:TensorRtRtxBackend", ("plan",), "tensorrt_rtx", "rtx", ("cuda",)),
    "fake": Entry("fake:FakeBackend", ("checkpoint", "onnx", "plan"), "numpy", "", ("cpu", "cuda"), automatic=False),
}
# Whose plans they run.
FLAVOURS = {"tensorrt": Flavour.TENSORRT, "tensorrt-rtx": Flavour.TENSORRT_RTX}


def entry(name: str) -> Entry:
    """The table's line for `name`; "tensorrt_rtx" is understood too. Raises InputError for an unknown name."""
    found = BACKENDS.get(name.replace("_", "-")) if isinstance(name, str) else None
    if found is None:
        raise InputError(f"there is no backend {name!r}", expected=f"one of {', '.join(BACKENDS)}")
    return found
