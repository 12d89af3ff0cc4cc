"""Writes docs/errors.md: every error that alexnet-deploy raises on purpose, read from the code itself.

python tools/make_error_table.py            write it
python tools/make_error_table.py --check    exit 1 if the file is not what the code says
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path

from alexnet_deploy import errors

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Errors

Every error that alexnet-deploy raises on purpose, read from the code by `tools/make_error_table.py`. Each is one sentence: what
was found, what was expected, and what mends it. *Words in italics* stand for what was found in your case. A command ends with
exit code 1 when a gate was missed, and 2 for every other error; `-vv` shows where it arose.

In Python every one is an `AlexnetDeployError` with the attributes `found`, `expected` and `fix`.
"""


@dataclass(frozen=True, order=True)
class Entry:
    """One place that raises: the class, the module, the three parts of the sentence as templates."""

    kind: str
    found: str
    expected: str
    fix: str
    module: str


def entries() -> list[Entry]:
    """Every raise of one of our errors, once a wording."""
    paths = sorted([*ROOT.glob("alexnet_deploy/**/*.py"), *ROOT.glob("training/**/*.py")])
    return sorted({entry for path in paths for entry in _in_module(path)})


def page() -> str:
    """The whole document."""
    every = entries()
    parts = [HEAD]
    for kind in dict.fromkeys(entry.kind for entry in every):
        about = (getdoc(getattr(errors, kind)) or "").splitlines()[0]
        parts.append(f"## {kind}\n\n{about}\n")
        parts.append("| What was found | What was expected | What to do | Raised in |\n| --- | --- | --- | --- |")
        for entry in every:
            if entry.kind == kind:
                cells = [entry.found, entry.expected, entry.fix, f"`{entry.module}`"]
                parts.append("| " + " | ".join(_cell(text) for text in cells) + " |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _in_module(path: Path) -> Iterator[Entry]:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id=kind) | ast.Attribute(attr=kind)):
                known = getattr(errors, kind, None)
            case _:
                continue
        if not (isinstance(known, type) and issubclass(known, errors.AlexnetDeployError) and node.args):
            continue
        named = {keyword.arg: template(keyword.value) for keyword in node.keywords}
        yield Entry(kind, template(node.args[0]), named.get("expected", ""), named.get("fix", ""), module)


def template(node: ast.expr) -> str:
    """A string expression as a reader should see it: what is known as it is, what is not in italics."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(template(value) for value in values)
        case ast.FormattedValue(value=value):
            return template(value) if isinstance(value, ast.IfExp) else f"*{_name(value)}*"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case ast.IfExp(body=body, orelse=other):
            return " / ".join(dict.fromkeys(text for text in (template(body), template(other)) if text))
        case _:
            return f"*{_name(node)}*"


def _name(node: ast.expr) -> str:
    """The last word of an expression that says something: path.name -> path, len(files) -> files."""
    words = [n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)]
    dull = {"len", "str", "name", "join", "repr", "sorted", "self", "value", "type", "error", "strerror", "list"}
    telling = [word for word in words if word not in dull]
    word = (telling or words or ["…"])[0]
    return word.strip("_").replace("_", " ").lower()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    document = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != document:
            sys.exit(f"{PAGE.relative_to(ROOT)} is not what the code says; run: python tools/make_error_table.py")
        return
    PAGE.write_text(document, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(entries())} errors")


if __name__ == "__main__":
    main()
