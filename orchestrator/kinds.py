"""What can be named in a sweep file: every member of every family, with its fields and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

import poisons  # noqa: F401  (its members join their families)
from trainers import InputError, Plugin
from trainers.spec import nearest, plain


def tables(family: str | None = None) -> Iterator[Table]:
    """A table per family. Raises InputError for a family that does not exist."""
    if family is not None and family not in Plugin.families:
        raise InputError(f"unknown family {family!r}{nearest(family, Plugin.families)}")
    for name, base in sorted(Plugin.families.items()):
        if family in (None, name):
            table = Table(
                "kind", "fields and defaults", "what it is", title=name, title_justify="left", expand=True
            )
            for kind, member in sorted(base.registry.items()):
                table.add_row(
                    f"[cyan]{kind}[/]", escape("\n".join(_fields(member)) or "-"), escape(_line(member))
                )
            yield table


def _fields(member: type[Plugin]) -> Iterator[str]:
    for name, field in member.model_fields.items():
        default = (
            "required" if field.is_required() else _written(field.get_default(call_default_factory=True))
        )
        yield f"{name}: {default}"


def _written(default: object) -> str:
    value = plain(default)
    if isinstance(value, dict) and "kind" in value:
        return str(value["kind"])
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _line(member: type[Plugin]) -> str:
    return (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ")
