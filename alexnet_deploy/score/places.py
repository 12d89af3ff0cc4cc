"""Paths and URLs through fsspec, and the errors of whatever library stands behind it as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from alexnet_deploy.errors import AlexnetDeployError, DataError

# They have no folders to make, and s3fs would make a bucket instead: one more for each mistyped name.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})


def is_url(location: str) -> bool:
    return "://" in location


def is_object_store(location: str) -> bool:
    return location.partition("://")[0] in _OBJECT_STORES


def filesystem(location: str) -> tuple[Any, str]:
    """The filesystem of a path or URL, and the path in it.

    Raises:
        DataError: fsspec does not know it, or it does not answer.
        AlexnetDeployError: the package for it is not installed.
    """
    with translated(location):
        found: tuple[Any, str] = fsspec.core.url_to_fs(location)
        return found


@contextmanager
def translated(location: str) -> Iterator[None]:
    """Around what is done with a path or URL.

    Libraries of object stores raise errors of their own (botocore's NoCredentialsError is no OSError): for URLs all are
    translated, for paths those of the operating system.

    Raises:
        DataError: it cannot be read or written.
        AlexnetDeployError: the package for it is not installed.
    """
    try:
        yield
    except ImportError as error:
        missing = error if error.name else error.__cause__
        name = getattr(missing, "name", None) or str(error)
        raise AlexnetDeployError(
            f"{location.partition('://')[0]}:// needs the package {name}, which is not installed", fix=f"pip install {name}"
        ) from error
    except AlexnetDeployError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and not is_url(location):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"{location} cannot be read or written ({reason})", expected="a path, or a URL that fsspec can open"
        ) from error
