"""Where it is told what happens: the standard library's logging, silent unless the application listens.

    logging.getLogger("alexnet_deploy").setLevel(logging.INFO)      # which back end was taken, which file was written

Every record is below WARNING: what a user must know is a warning or an error, not a line in a log.
"""

from __future__ import annotations

import logging

ROOT = "alexnet_deploy"
logging.getLogger(ROOT).addHandler(logging.NullHandler())


def logger(module: str) -> logging.Logger:
    """The logger of a module, given its `__name__`; those of `training` are found under alexnet_deploy as well."""
    return logging.getLogger(module if module.startswith(ROOT) else f"{ROOT}.{module}")
