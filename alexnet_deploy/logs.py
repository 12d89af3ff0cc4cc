"""Where it is told what happens: the standard library's logging, silent unless the application listens.

    logging.getLogger("alexnet_deploy").setLevel(logging.INFO)      # which back end was taken, which file was written

What a user must know is a warning of Python's or an error, not a line in a log.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

ROOT = "alexnet_deploy"


class Logger:
    """A module's logger, without `logging` where nobody listens.

    It takes Runtime some 4 ms to import (docs/decisions/0522-*.md), and whoever listens has imported it: where nobody has, a
    record would reach nobody.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, message: str, *values: object) -> None:
        if logger := self._heard():
            logger.debug(message, *values, stacklevel=2)

    def info(self, message: str, *values: object) -> None:
        if logger := self._heard():
            logger.info(message, *values, stacklevel=2)

    def warning(self, message: str, *values: object) -> None:
        if logger := self._heard():
            logger.warning(message, *values, stacklevel=2)

    def _heard(self) -> logging.Logger | None:
        return _logger(self._name) if "logging" in sys.modules else None


def logger(module: str) -> Logger:
    """The logger of a module, given its `__name__`; those of `training` are found under alexnet_deploy as well."""
    return Logger(module if module.startswith(ROOT) else f"{ROOT}.{module}")


@cache
def _logger(name: str) -> logging.Logger:
    import logging

    _silence()
    return logging.getLogger(name)


@cache
def _silence() -> None:
    """Without a handler, `logging` itself would print warnings."""
    import logging

    logging.getLogger(ROOT).addHandler(logging.NullHandler())
