"""From a trained AlexNet to a running engine, with proof.

    from alexnet_deploy import Runtime
    probabilities = Runtime("engine.plan").predict(batch)

Names are imported when they are first used, so that `import alexnet_deploy` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module

__version__ = "0.1.0"

# Since 1.29 the onnxruntime packages for Linux and macOS send usage data to their maker from the moment they are imported,
# by a thread that also hangs forked processes when they exit. Set it to 0 yourself to allow that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Runtime": "runtime",
    "Artifact": "artifact",
    "Manifest": "manifest",
    "Preprocess": "manifest",
    "PictureSet": "pictures",
    "AlexnetDeployError": "errors",
    "FallbackWarning": "errors",
}
__all__ = ["__version__", *_HOME]

TYPE_CHECKING = False  # type checkers take it to be True; the module typing has more to import than all else here
if TYPE_CHECKING:
    from typing import Any

    from alexnet_deploy.artifact import Artifact
    from alexnet_deploy.errors import AlexnetDeployError, FallbackWarning
    from alexnet_deploy.manifest import Manifest, Preprocess
    from alexnet_deploy.pictures import PictureSet
    from alexnet_deploy.runtime import Runtime


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
