"""Writes docs/reference.md from the code: every command with its options, every public name with its docstring.

python tools/make_reference.py            write it
python tools/make_reference.py --check    exit code 1 when it is out of date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import alexnet_deploy
from alexnet_deploy.cli import COMMANDS, main

PAGE = Path(__file__).parent.parent / "docs/reference.md"
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Warns|Yields):$")
HEADER = """# Reference

Made from the code by `tools/make_reference.py`; [how-tos](index.md#how-to) show the commands at work.

"""


def reference() -> str:
    return HEADER + "\n".join([*_commands(), *_names()]).rstrip() + "\n"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "Every command also takes `--json` (one JSON object on stdout), `-q` and `-v`."
    yield "Exit codes: 0 done, 1 a gate was missed, 2 a clear error, 130 interrupted, 143 terminated.\n"
    shared = ("--json", "-q, --quiet", "-v, --verbose", "-h, --help", "--help")
    with click.Context(main, info_name="alexnet-deploy") as group:
        for name in COMMANDS:
            command = main.get_command(group, name)
            assert command is not None
            with click.Context(command, info_name=name, parent=group) as context:
                yield f"### alexnet-deploy {name}\n"
                yield f"{_prose(inspect.cleandoc(command.help or ''))}\n"
                usage = " ".join(command.collect_usage_pieces(context))
                yield f"`alexnet-deploy {name} {usage}`\n"
                records = [option.get_help_record(context) for option in command.get_params(context)]
                shown = [record for record in records if record and record[0] not in shared]
                if shown:
                    yield "| Option | |\n| --- | --- |"
                    yield from (f"| `{_cell(option)}` | {_cell(text)} |" for option, text in shown)
                    yield ""


def _names() -> Iterator[str]:
    yield "## Python\n"
    yield "`from alexnet_deploy import ...`\n"
    for name in alexnet_deploy.__all__:
        value = getattr(alexnet_deploy, name)
        if inspect.isclass(value):
            yield from _class(name, value)
        elif inspect.isfunction(value):
            yield f"### {name}{_signature(value)}\n"
            yield f"{_docstring(value)}\n"
    yield "## Errors\n"
    yield f"```\n{inspect.cleandoc(sys.modules['alexnet_deploy.errors'].__doc__ or '')}\n```\n"


def _class(name: str, kind: type) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{_docstring(kind)}\n"
    made = vars(kind).get("__init__")
    if made and made.__doc__:
        yield f"#### {name}{_signature(made)}\n"
        yield f"{_docstring(made)}\n"
    for member, value in vars(kind).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if member.startswith("_") or not (inspect.isfunction(function) or isinstance(function, property)):
            continue
        call = "" if isinstance(function, property) else _signature(function)
        yield f"#### {name}.{member}{call}\n"
        yield f"{_docstring(function)}\n"


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values() if p.name not in {"self", "cls"}
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _docstring(thing: Any) -> str:
    return _prose(inspect.getdoc(thing) or "")


def _prose(text: str) -> str:
    """A Google docstring as Markdown: sections in bold, their entries as a list, examples as code."""
    lines: list[str] = []
    in_section = in_code = False
    for line in text.replace("\b\n", "").splitlines():
        indented = line.startswith("    ") or (line.startswith("  ") and not in_section)
        if in_code and line and not indented:
            lines.append("```")
            in_code = False
        if found := SECTION.match(line):
            lines += [f"**{found[1]}**", ""]
            in_section = True
        elif in_section and line.startswith("    ") and not line.startswith("     "):
            entry, colon, rest = line.strip().partition(": ")
            lines.append(f"- `{entry}`{colon}{rest}" if colon else f"- {line.strip()}")
        elif in_section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        elif indented and not in_code:
            lines += ["```", line.strip()]
            in_code = True
        else:
            in_section = in_section and not line
            lines.append(line.strip() if in_code else line)
    if in_code:
        lines.append("```")
    return "\n".join(lines).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0
            if PAGE.read_text(encoding="utf-8") == reference()
            else "docs/reference.md is out of date: python tools/make_reference.py"
        )
    PAGE.write_text(reference(), encoding="utf-8")
