"""Options that are set once: in a file or in the environment, by their long name.

    # alexnet-deploy.toml                     # or in the environment
    models = "artifacts"                      ALEXNET_DEPLOY_MODELS=artifacts
    [train]
    epochs = 30                               ALEXNET_DEPLOY_TRAIN_EPOCHS=30
    [build-engine]
    int8 = true                               ALEXNET_DEPLOY_BUILD_ENGINE_INT8=1

The command line has the last word; then the environment, ./alexnet-deploy.toml, the user's own file, and the built-in default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from alexnet_deploy.errors import InputError
from alexnet_deploy.folders import config_files

PREFIX = "ALEXNET_DEPLOY_"
TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and where it was set, in words for a message."""

    value: object
    origin: str


def settings_of(command: str, options: Sequence[click.Parameter], known: Sequence[str]) -> dict[str, Setting]:
    """What is set for a command, by the name that its function has for the option.

    Args:
        command: such as "build-engine".
        options: what the command takes.
        known: all commands, so that a misspelt section is noticed.

    Raises:
        InputError: a file is no TOML, or names a command or an option that does not exist, or two that exclude each other.
    """
    named = {opt[2:]: option for option in options if isinstance(option, click.Option) for opt in option.opts if opt[:2] == "--"}
    found: dict[str, Setting] = {}
    for path in config_files():
        content = _read(path)
        for name in content.keys() - {*known, "models"}:
            raise InputError(f"{path}: {name} is no command", expected=f"models, or one of {', '.join(known)}")
        section = content.get(command, {})
        if not isinstance(section, dict):
            raise InputError(f"{path}: {command} is {section!r}", expected=f"a section [{command}]")
        for name in sorted(section.keys() - named.keys()):
            raise InputError(f"{path}: {command} has no option --{name}", fix=f"alexnet-deploy {command} --help")
        found |= _together(_assigned(named[name], value, f"{path} [{command}] {name}") for name, value in section.items())
    variables = {name: f"{_prefix(command)}{name.upper().replace('-', '_')}" for name in named}
    return found | _together(
        _assigned(named[name], os.environ[variable], f"${variable}")
        for name, variable in variables.items()
        if os.environ.get(variable)
    )


def models() -> str | None:
    """The models folder that is set, if any."""
    if chosen := os.environ.get(f"{PREFIX}MODELS"):
        return chosen
    for path in reversed(config_files()):
        chosen = _read(path).get("models")
        if isinstance(chosen, str):
            return chosen
        if chosen is not None:
            raise InputError(f"{path}: models is {chosen!r}", expected="a folder", fix='models = "artifacts"')
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", expected="a file that you may read", fix=f"chmod +r {path}, or remove it"
        ) from error
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", expected="TOML") from error


def _prefix(command: str) -> str:
    return f"{PREFIX}{command.upper().replace('-', '_')}_"


def _together(each: Iterable[dict[str, Setting]]) -> dict[str, Setting]:
    """What is set in one place. Raises InputError where two flags there are for one parameter."""
    found: dict[str, Setting] = {}
    for name, setting in (pair for one in each for pair in one.items()):
        if name in found:
            raise InputError(f"{found[name].origin} and {setting.origin} exclude each other", expected="one of them")
        found[name] = setting
    return found


def _assigned(option: click.Option, value: object, origin: str) -> dict[str, Setting]:
    """The parameter and its value; one of several flags for one parameter (--int8, --fp16) stands for its own value."""
    assert option.name is not None
    if option.is_flag and not option.is_bool_flag:
        return {option.name: Setting(option.flag_value, origin)} if _truth(value, origin) else {}
    if option.is_flag:
        return {option.name: Setting(_truth(value, origin), origin)}
    if isinstance(value, str) and option.multiple:
        value = option.type.split_envvar_value(value)
    if isinstance(value, list) and not option.multiple and option.nargs == 1:
        raise InputError(f"{origin} is a list", expected="one value")
    return {option.name: Setting(value, origin)}


def _truth(value: object, origin: str) -> bool:
    spelt = str(value).lower()
    if spelt not in TRUE | FALSE:
        raise InputError(f"{origin} is {value!r}", expected="true or false")
    return spelt in TRUE
