"""The fields of a spec in plain words: which values each accepts, and its default as a sweep file has it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from orchestrator.planning.spec import Claim, Label, ProbeSpec, ReportSpec, RunSpec, SweepSpec
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec
from trainers import Budget, EvaluationSpec, Plugin, Spec, TrainSpec

PARTS: dict[str, type[Spec]] = {  # parts of a sweep file that are not plug-ins
    "sweep": SweepSpec,
    "base": TrialSpec,
    "data": DataSpec,
    "train": TrainSpec,
    "evaluation": EvaluationSpec,
    "budget": Budget,
    "probes": ProbeSpec,
    "run": RunSpec,
    "report": ReportSpec,
    "claims": Claim,
}
PLAIN: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Fraction: "fraction such as 8/255",
    NoneType: "null",
    Any: "anything",
}
SHORT = 3  # a default spec with at most this many fields is written in full


def accepted(spec: type[Spec], name: str) -> str:
    """The values of a field: `one of sample_wise, class_wise`, `any optimizer (opsctl kinds optimizer)`."""
    field = spec.model_fields[name]
    words = _words(field.annotation, field.metadata)
    if name not in spec.one_or_many:
        return words
    return f"one, or a {words}" if get_origin(field.annotation) is tuple else f"{words}, or a list of them"


def _words(annotation: Any, constraints: Iterable[Any] = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation == Label:
        return "label"
    if origin is Annotated:
        return _words(parts[0], _flat(parts[1:]))
    if origin is not None:
        return _compound(origin, parts)
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return _spec(annotation)
    return PLAIN[annotation] + _limits(constraints)


def _compound(origin: Any, parts: tuple[Any, ...]) -> str:
    if origin in (Union, UnionType):
        *first, last = map(_words, parts)
        return f"{', '.join(first)}, or {last}"
    if origin is Literal:
        return str(parts[0]) if len(parts) == 1 else f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        return f"{'list' if parts[-1] is Ellipsis else 'pair'} of {_plural(_words(parts[0]))}"
    return "mapping" if parts[1] is Any else f"mapping from names to {_plural(_words(parts[1]))}"


def _spec(spec: type[Spec]) -> str:
    if issubclass(spec, Plugin):
        return f"any {spec.family} (opsctl kinds {spec.family})"
    (part,) = (name for name, one in PARTS.items() if one is spec)
    return f"mapping (opsctl kinds {part})"


def _plural(words: str) -> str:
    words = re.sub(r"^any (\w+)", r"\1s", words)
    return re.sub(r"^(whole number|number|label|list|mapping|pair)\b", r"\1s", words)


def _flat(constraints: Iterable[Any]) -> list[Any]:
    """Constraints, those inside of `Field(...)` too."""
    return [one for c in constraints for one in (c.metadata if isinstance(c, FieldInfo) else (c,))]


def _limits(constraints: Iterable[Any]) -> str:
    """` > 0`, ` in [0, 1)`, `, not empty`."""
    low = high = text = ""
    for one in constraints:
        if isinstance(one, Gt | Ge):
            low = f"({one.gt}" if isinstance(one, Gt) else f"[{one.ge}"
        elif isinstance(one, Lt | Le):
            high = f"{one.lt})" if isinstance(one, Lt) else f"{one.le}]"
        elif isinstance(one, MinLen):
            text = ", not empty"
        elif pattern := getattr(one, "pattern", None):
            text = f" matching {pattern}"
    if low and high:
        return f" in {low}, {high}"
    if low:
        return f" {'>' if low[0] == '(' else '>='} {low[1:]}"
    return text


def default(spec: type[Spec], name: str) -> str:
    """The default as YAML on one line, or `required`."""
    field = spec.model_fields[name]
    return "required" if field.is_required() else as_yaml(field.get_default(call_default_factory=True))


def as_yaml(value: Any) -> str:
    """A value as YAML on one line; fields of a plug-in, or of a long spec, that equal their default are left
    out."""
    if isinstance(value, Spec):
        return _spec_as_yaml(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {as_yaml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _spec_as_yaml(spec: Spec) -> str:
    fields = type(spec).model_fields
    own = {name: item for name, item in spec if item != fields[name].get_default(call_default_factory=True)}
    if isinstance(spec, Plugin):
        return as_yaml({"kind": spec.kind, **own}) if own else spec.kind
    return as_yaml(dict(spec) if len(fields) <= SHORT else own)
