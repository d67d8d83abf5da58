"""Tables of all plug-ins and settings that a sweep file can name, with their fields and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from orchestrator.planning.spec import ReportSpec, RunSpec
from poisons import DataSpec
from trainers import EvaluationSpec, InputError, Plugin, Spec, TrainSpec
from trainers.families import Architecture
from trainers.spec import nearest, plain


def tables(family: str | None = None) -> Iterator[Table]:
    """A table per family. Raises InputError for a family that does not exist."""
    if family is None:
        yield _sweep_file()
    if family is not None and family not in Plugin.families:
        raise InputError(f"unknown family {family!r}{nearest(family, Plugin.families)}")
    for name, base in sorted(Plugin.families.items()):
        if family in (None, name):
            table = Table(
                "kind", "fields and defaults", "what it is", title=name, title_justify="left", expand=True
            )
            for kind, member in sorted(base.registry.items()):
                table.add_row(Text(kind, "cyan"), "\n".join(_fields(member)) or "-", _line(member))
            yield table


def _sweep_file() -> Table:
    """The parts of a sweep file that are not plug-ins."""
    parts: dict[str, type[Spec]] = {
        "data": DataSpec,
        "train": TrainSpec,
        "evaluation": EvaluationSpec,
        "run": RunSpec,
        "report": ReportSpec,
    }
    table = Table(
        "part", "fields and defaults", "what it is", title="sweep file", title_justify="left", expand=True
    )
    for part, spec in parts.items():
        table.add_row(Text(part, "cyan"), "\n".join(_fields(spec)), _line(spec))
    return table


def _fields(member: type[Spec]) -> Iterator[str]:
    for name, field in member.model_fields.items():
        default = (
            "required" if field.is_required() else _written(field.get_default(call_default_factory=True))
        )
        yield f"{name}: {default}"
    if issubclass(member, Architecture) and not any(f.is_required() for f in member.model_fields.values()):
        yield from (f"train.{name}: {_yaml(value)}" for name, value in member().recipe().items())


def _yaml(value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(item)}" for name, item in value.items()) + "}"
    return str(value)


def _written(default: object) -> str:
    value = plain(default)
    if isinstance(value, dict):
        return str(value["kind"]) if "kind" in value else _yaml(value)
    if isinstance(value, list):
        return "[" + ", ".join(str(v["kind"]) if isinstance(v, dict) else str(v) for v in value) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _line(member: type[Spec]) -> str:
    return (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ")
