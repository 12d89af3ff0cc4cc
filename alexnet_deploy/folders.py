"""The folders of this user: what may be deleted at any time, and what was set once for all. Both as the XDG standard has them.

https://specifications.freedesktop.org/basedir/latest
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """For what can be made again, such as fetched weights: $ALEXNET_DEPLOY_CACHE, or a folder of our own in the user's cache.

    It is not created here.
    """
    chosen = os.environ.get("ALEXNET_DEPLOY_CACHE")
    return Path(chosen) if chosen else _base("XDG_CACHE_HOME", ".cache") / "alexnet-deploy"


def config_files() -> tuple[Path, ...]:
    """Where settings are read from, whether it is there or not; the later file has the last word."""
    return _base("XDG_CONFIG_HOME", ".config") / "alexnet-deploy" / "config.toml", Path("alexnet-deploy.toml")


def _base(variable: str, otherwise: str) -> Path:
    """The standard says that a relative path in one of its variables is to be ignored."""
    chosen = Path(os.environ.get(variable, ""))
    return chosen if chosen.is_absolute() else _home() / otherwise


def _home() -> Path:
    """Where it is, or the name that Debian has for the home of those who have none, and that does not exist."""
    try:
        return Path.home()
    except RuntimeError:  # HOME is not set, and the system does not know this user: a container that is run as any number
        return Path("/nonexistent")
