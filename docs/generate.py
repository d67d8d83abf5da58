"""The pages that are made from the code: `python -m docs.generate` writes docs/cli.md, docs/api.md and
sweeps/schema.json. A test says when one of them is out of date."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import typer.main
from typer.core import TyperGroup

from docs.sweep_schema import sweep_schema
from orchestrator.cli.app import app

ROOT = Path(__file__).parent.parent
HEAD = "<!-- Made by `make generated` from the code. Do not edit. -->\n\n"
PUBLIC = ("trainers", "poisons", "orchestrator.report", "orchestrator.tracking")
WIDTH = 160  # of a line of the schema
MARKUP = re.compile(r"\[/?[a-z ]*\]")  # rich's, in help texts


def cli_page() -> str:
    """The commands of `opsctl` with their arguments and options."""
    intro = (
        "# Commands\n\nEvery option with a variable can also be set in the environment. "
        "`opsctl COMMAND --help` prints the same.\n"
    )
    return HEAD + intro + "".join(_command(typer.main.get_command(app), "opsctl"))


def _command(command: typer.core.TyperCommand | TyperGroup, name: str) -> Iterator[str]:
    if isinstance(command, TyperGroup):
        if name != "opsctl":
            yield f"\n## {name}\n\n{_prose(command.help)}\n"
        for inner in command.commands.values():
            yield from _command(inner, f"{name} {inner.name}")
        return
    yield f"\n## {name}\n\n{_prose(command.help)}\n"
    params = [param for param in command.params if param.name != "help"]
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name == "option"]
    shown = "".join(f" {_argument(param)}" for param in arguments)
    yield f"\n```text\n{name}{' [OPTIONS]' if options else ''}{shown}\n```\n"
    if arguments:
        rows = (f"| `{_argument(param)}` | {_cell(param.help)} |\n" for param in arguments)
        yield "\n| argument | meaning |\n| --- | --- |\n" + "".join(rows)
    if options:
        yield "\n| option | variable | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(
            map(_option, options)
        )


def _argument(param: typer.core.TyperArgument) -> str:
    name = (param.metavar or param.name or "").strip("[].").upper()
    name += "..." if param.nargs == -1 else ""
    return name if param.required else f"[{name}]"


def _option(param: typer.core.TyperOption) -> str:
    names = " / ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    variable = f"`{param.envvar}`" if param.envvar else ""
    default = param.default if param.show_default is not False else None
    default = default() if callable(default) else default
    shown = "" if default in (None, False) or not _plain(default) else f"`{_plain(default)}`"
    if param.required:
        shown = "required"
    return f"| {names} | {variable} | {shown} | {_cell(param.help)} |\n"


def _plain(default: object) -> str:
    """A default as it is typed."""
    return (
        str(getattr(default, "value", default)).lower()
        if default is True
        else str(getattr(default, "value", default))
    )


def _prose(text: str | None) -> str:
    """A help text's paragraphs, one line each."""
    paragraphs = re.split(r"\n\s*\n", MARKUP.sub("", inspect.cleandoc(text or "")))
    return "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in paragraphs)


def _cell(text: str | None) -> str:
    return _escaped(" ".join((text or "").split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text whose `<`, `*` and `$` are themselves, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*<$_])", r"\\\1", p) for p in parts)


def api_page() -> str:
    """The public names of each package, which Sphinx fills in from their docstrings."""
    parts = [
        HEAD,
        "# Python API\n\nThe names in each package's `__all__`. Everything else may change.\n",
    ]
    for package in PUBLIC:
        module = importlib.import_module(package)
        parts.append(f"\n## {package}\n")
        parts += [_documented(package, name, getattr(module, name)) for name in sorted(module.__all__)]
    return "".join(parts)


def _documented(package: str, name: str, value: object) -> str:
    kind = (
        "autoclass" if inspect.isclass(value) else "autofunction" if inspect.isroutine(value) else "py:data"
    )
    members = "   :members:\n" if kind == "autoclass" else ""
    return f"\n```{{eval-rst}}\n.. {kind}:: {package}.{name}\n{members}```\n"


def schema_file() -> str:
    """The JSON schema of sweep files."""
    return _pretty(sweep_schema()) + "\n"


def _pretty(value: object, indent: int = 0) -> str:
    """JSON in lines of moderate length: what fits on one is on one."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) + indent <= WIDTH or not isinstance(value, dict | list):
        return text
    inner = (
        [f"{json.dumps(key, ensure_ascii=False)}: {_pretty(item, indent + 1)}" for key, item in value.items()]
        if isinstance(value, dict)
        else [_pretty(item, indent + 1) for item in value]
    )
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = f",\n{' ' * (indent + 1)}".join(inner)
    return f"{opening}\n{' ' * (indent + 1)}{lines}\n{' ' * indent}{closing}"


GENERATED: dict[str, Callable[[], str]] = {
    "docs/cli.md": cli_page,
    "docs/api.md": api_page,
    "sweeps/schema.json": schema_file,
}


def main() -> None:
    for name, make in GENERATED.items():
        (ROOT / name).write_text(make())
        print(name)


if __name__ == "__main__":
    main()
