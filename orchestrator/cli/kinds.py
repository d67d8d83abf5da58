"""What a sweep file can name: tables of all plug-ins and parts with their defaults, and a page of each with
the values and the meaning of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.field_words import PARTS, accepted, as_yaml, default
from poisons import Poison
from trainers import InputError, Plugin, Spec, TrainSpec
from trainers.descriptions import descriptions
from trainers.families import Architecture, Defense, Passes
from trainers.flops import network_flops, over
from trainers.restoration import Restoration
from trainers.spec import nearest, plain

IN_TABLE = ("data", "train", "evaluation", "run", "report")  # the parts in the overview table
IMAGES, SHAPE, CLASSES = 50_000, (3, 32, 32), 10  # CIFAR-10, for which costs are stated
RECIPE = "From the recipe of its paper, in place of the default in `opsctl kinds train`."


def listing(name: str | None = None, kind: str | None = None) -> Iterator[RenderableType]:
    """Tables of everything, or of the family `name`; the page of one of its kinds, or of the part `name` of a
    sweep file. Raises InputError for one that does not exist."""
    if name is None:
        yield from (_sweep_file(), *map(_family, sorted(Plugin.families)))
    elif name in Plugin.families and kind is None:
        yield _family(name)
    elif name in Plugin.families:
        yield from _page(f"{name} {kind}", _member(name, kind))
    elif name in PARTS and kind is None:
        yield from _page(name, PARTS[name])
    elif name in PARTS:
        raise InputError(f"{name} is a part of the sweep file and has no kinds: write `opsctl kinds {name}`")
    else:
        kinds = [(family, one) for family, base in Plugin.families.items() for one in base.registry]
        hint = nearest(name, [*Plugin.families, *PARTS], kinds, " ".join)
        raise InputError(f"unknown family or part of a sweep file: {name!r}{hint}")


def _member(family: str, kind: str | None) -> type[Plugin]:
    try:
        return Plugin.families[family].member(kind)
    except ValueError as error:
        raise InputError(str(error)) from None


def _family(name: str) -> Table:
    table = Table("kind", "fields and defaults", "what it is", title=name, title_justify="left", expand=True)
    for kind, member in sorted(Plugin.families[name].registry.items()):
        what = " ".join(filter(None, (_line(member), _terms(member))))
        table.add_row(Text(kind, "cyan"), "\n".join(_fields(member)) or "-", what)
    return table


def _terms(member: type[Spec]) -> str:
    """What a poison or a defense needs; then the bound of the poison and where it was published; and what
    either costs by default."""
    if issubclass(member, Poison):
        published = f" ({member.published})" if member.published else ""
        return f"Needs {member.needs}; bound: {member.bound}{published}.{_computing('Crafting', member)}"
    if not issubclass(member, Defense):
        return ""
    needs = f"Needs {member.needs}"
    if not _has_defaults(member):
        return f"{needs}."
    cost = member().passes.relative
    step = f"a step costs {cost:.2g} plain ones" if cost > 1 else "adds no passes"
    restoring = _computing("Restoring", member) if issubclass(member, Restoration) else ""
    return f"{needs}; {step}.{restoring}"


def _computing(doing: str, member: type[Poison] | type[Restoration]) -> str:
    """What a method computes by default, as a sentence; empty if that is next to nothing, or unknown."""
    if not _has_defaults(member):
        return ""
    network = network_flops(Architecture.parse("resnet18", "a default"), shape=SHAPE, num_classes=CLASSES)
    epoch = over(IMAGES, TrainSpec().batch_size, Passes(forward=1, backward=1), network)
    method = member()
    epochs, training = (
        of(IMAGES, shape=SHAPE, num_classes=CLASSES).flops / epoch.flops
        for of in (method.work, method.shared_work)
    )
    if epochs < 1:
        return ""
    once = f", {training:.0f} of them once for all data sets" if training else ""
    return f" {doing} all of CIFAR-10 computes as much as {epochs:,.0f} epochs of a ResNet-18{once}."


def _has_defaults(member: type[Spec]) -> bool:
    return not any(field.is_required() for field in member.model_fields.values())


def _sweep_file() -> Table:
    """The parts of a sweep file that are not plug-ins."""
    table = Table(
        "part", "fields and defaults", "what it is", title="sweep file", title_justify="left", expand=True
    )
    for part in IN_TABLE:
        table.add_row(Text(part, "cyan"), "\n".join(_fields(PARTS[part])), _line(PARTS[part]))
    return table


def _page(title: str, spec: type[Spec]) -> Iterator[RenderableType]:
    """What a spec is, and its fields: values, default and meaning."""
    yield Text(title, "bold cyan")
    for paragraph in (inspect.getdoc(spec) or "").split("\n\n"):
        yield Text(" ".join(paragraph.split()))
    if terms := _terms(spec):
        yield Text(terms)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    texts = descriptions(spec)
    for name in spec.written():
        written = default(spec, name)
        last = written if written == "required" else f"default {written}"
        table.add_row(name, _described(f"{accepted(spec, name)}; {last}", texts.get(name, "")))
    for name, value in _recipe(spec).items():
        table.add_row(f"train.{name}", _described(f"default {as_yaml(value)}", RECIPE))
    yield table if table.row_count else Text("It has no fields.")


def _described(values: str, meaning: str) -> Text:
    return Text.assemble((values, "dim"), "\n", meaning)


def _recipe(spec: type[Spec]) -> dict[str, object]:
    """The fields of `train` for which an architecture has defaults of its own."""
    return spec().recipe() if issubclass(spec, Architecture) and _has_defaults(spec) else {}


def _fields(member: type[Spec]) -> Iterator[str]:
    for name, field in member.written().items():
        default = (
            "required" if field.is_required() else _written(field.get_default(call_default_factory=True))
        )
        yield f"{name}: {default}"
    yield from (f"train.{name}: {as_yaml(value)}" for name, value in _recipe(member).items())


def _written(default: object) -> str:
    value = plain(default)
    if isinstance(value, dict):
        return str(value["kind"]) if "kind" in value else as_yaml(value)
    if isinstance(value, list):
        return "[" + ", ".join(str(v["kind"]) if isinstance(v, dict) else str(v) for v in value) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _line(member: type[Spec]) -> str:
    return (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ")
