"""Packages that only some commands need: a missing one is an error that names what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alexnet_deploy.errors import AlexnetDeployError


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around the imports of `what` (such as "serve"), which need the optional dependencies `name`.

    Raises:
        AlexnetDeployError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("alexnet_deploy"):
            raise
        raise AlexnetDeployError(
            f"{what} needs the package {error.name}, which is not installed", fix=f"pip install 'alexnet-deploy[{name}]'"
        ) from error
