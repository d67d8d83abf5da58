"""Specs: frozen settings that have a content key, and plug-ins: specs chosen by their `kind`."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import pkgutil
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, PydanticKnownError, core_schema

from trainers.errors import InputError as InputError
from trainers.spelling import as_yaml, same
from trainers.spelling import nearest as nearest

MOST = 10**8  # the largest plausible count; anything above is a mistake
SEVERAL = "; to try several values, make it an axis of a sweep's grid"
EXPECTED = {  # by pydantic's type of error
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "string_too_short": "text that is not empty",
}
PATTERNS = {  # in words
    "^[0-9a-f]{16}$": "a key of 16 digits from 0-9 and a-f",
    "^[0-9a-f]{16,64}$": "16 to 64 digits from 0-9 and a-f",
    "^[0-9a-f]{64}$": "64 digits from 0-9 and a-f",
    "^[A-Za-z0-9][A-Za-z0-9_.-]{0,49}$": "at most 50 letters, digits and _ . -, first a letter or digit",
    "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$": "at most 100 letters, digits and _ . -, first a letter or digit",
}
BRANCH = re.compile(r"constrained-\w+|literal\[.*\]|int|float|bool|str")  # of a union: ends pydantic's place
DEPTH = 4  # levels of nested fields searched for a misplaced one


def _strict_numbers(schema: Any, model: type) -> Any:
    """The pydantic schema of a model, without conversions of text and booleans to numbers; 1.0 is a whole
    number. Models inside have a schema of their own."""
    if isinstance(schema, list | tuple):
        return type(schema)(_strict_numbers(item, model) for item in schema)
    if not isinstance(schema, dict) or schema.get("cls", model) is not model:
        return schema
    if schema.get("type") == "int":
        return core_schema.no_info_before_validator_function(_number, schema)
    strict = {"strict": True} if schema.get("type") == "float" else {}
    return {name: _strict_numbers(item, model) for name, item in schema.items()} | strict


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticKnownError("int_type")
    return value


class Spec(BaseModel):
    """Frozen settings; unknown fields are refused. Every field changes the numbers, so every field is in the
    key.

    Raise `version` by hand when the same fields get a new meaning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    version: ClassVar[int] = 1
    one_or_many: ClassVar[tuple[str, ...]] = ()  # list fields that also accept a single item
    internal: ClassVar[frozenset[str]] = frozenset()  # fields that follow from others; nobody writes them

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """`true` and `"2"` are no numbers; pydantic would convert them."""
        return _strict_numbers(handler(source), cls)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        """Refuse anything but a mapping of known fields. Settings of a default plug-in may omit its
        `kind`."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise ValueError(
                f"expected a mapping with some of the fields {', '.join(cls.written())}; found {value!r}"
            )
        if unknown := [name for name in value if name not in cls.model_fields]:
            what = f"field of {cls.kind!r}" if issubclass(cls, Plugin) else "field"
            hint = nearest(unknown[0], cls.written(), cls.inner_fields())
            raise ValueError(f"unknown {what}: {unknown[0]!r}{hint}")
        if not any(type(item) is dict for item in value.values()):
            return value
        defaults = _defaults(cls)
        return {name: changed(item, defaults[name], name) for name, item in value.items()}

    @model_validator(mode="after")
    def _refuse_absurd(self) -> Self:
        """Refuse counts such as 10¹² epochs or a width of 10⁹."""
        for name, most in _counts(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > most:
                raise ValueError(f"{name}: {value:,} is more than can ever work; write at most {most:,}")
        return self

    @classmethod
    def written(cls) -> dict[str, FieldInfo]:
        """The fields that people write: all but the `internal` ones."""
        return {name: field for name, field in cls.model_fields.items() if name not in cls.internal}

    @classmethod
    def inner_fields(cls) -> Iterator[tuple[str, ...]]:
        """The paths of nested fields, such as `("optimizer", "lr")`, the shallower ones first."""
        return inner_fields(cls)

    @property
    def key(self) -> str:
        """16 hexadecimal digits that identify this content, however it was written."""
        text = json.dumps(identity(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def identity(self) -> Any:
        """The value that is hashed into the key. Fields equal to their default are left out, so a new field
        changes no key."""
        head = {"version": self.version} if self.version > 1 else {}
        return head | {name: identity(value) for name, value in self if self._in_key(name, value)}

    def _in_key(self, name: str, value: Any) -> bool:
        default = _defaults(type(self))[name]
        return type(value) is not type(default) or value != default or raised(value)

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """Validate plain data. Mistakes become one InputError that names the place and the nearest
        spelling."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(explained(error.errors(), where)) from None


@cache
def _defaults(spec: type[Spec]) -> dict[str, Any]:
    """The default of each field; cached, since a sweep has thousands of specs."""
    return {name: field.get_default(call_default_factory=True) for name, field in spec.model_fields.items()}


@cache
def _counts(spec: type[Spec]) -> dict[str, int]:
    """The largest allowed value of each integer field; a seed has 64 bits."""
    fields = {name: field.annotation for name, field in spec.model_fields.items() if _whole(field.annotation)}
    return {name: 2**63 - 1 if name == "seed" else MOST for name in fields}


def _whole(annotation: Any) -> bool:
    return annotation is int or any(map(_whole, get_args(annotation)))


class _Registry:
    """The members of a plug-in family by kind. Their package is imported on first use, so that importing the
    family itself stays fast."""

    def __get__(self, plugin: Plugin | None, owner: type[Plugin]) -> dict[str, type[Plugin]]:
        if owner.package:
            import_members(owner.package)
        return owner.joined


class Plugin(Spec):
    """A spec chosen by its `kind`: a family has a registry, and a member joins it with its class line.

    `class Poison(Plugin, family="poison", package="poisons.methods")` creates a family whose members are in
    the modules of that package; `class Clean(Poison, kind="clean")` joins it. Where a family is expected,
    `"clean"` and `{"kind": "clean"}` both give `Clean()`.
    """

    family: ClassVar[str] = ""
    package: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    registry: ClassVar[_Registry] = _Registry()
    joined: ClassVar[dict[str, type[Plugin]]] = {}  # the members imported so far
    families: ClassVar[dict[str, type[Plugin]]] = {}
    smoke: ClassVar[dict[str, Any]] = {}  # settings that make a member fast enough for a CPU test

    def __init_subclass__(
        cls,
        *,
        family: str | None = None,
        package: str = "",
        kind: str | None = None,
        version: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.version = version
        if family is not None:
            cls.family, cls.package, cls.joined = family, package, {}
            Plugin.families[family] = cls
        if kind is not None:
            if kind in cls.joined:
                raise TypeError(f"two members of family {cls.family!r} are named {kind!r}")
            cls.kind = kind
            cls.joined[kind] = cls

    def identity(self) -> Any:
        return {"kind": self.kind} | super().identity()

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: Any) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, _Changes):
            value = value.applied()
        if not isinstance(value, dict):
            raise ValueError(
                f"expected a kind of {cls.family}, by name or as a mapping with `kind`, found {shown(value)}"
                f"{SEVERAL if isinstance(value, list) else ''}"
            )
        if cls.kind:
            if value.get("kind", cls.kind) != cls.kind:
                raise ValueError(f"expected kind {cls.kind!r}, found {value['kind']!r}")
            return handler({k: v for k, v in value.items() if k != "kind"})
        if "kind" not in value:
            kinds = cls.kinds_with(value) or sorted(cls.registry)
            raise ValueError(f"this {cls.family} needs `kind`, one of: {', '.join(kinds)}")
        return cls.member(value["kind"]).model_validate(value)

    @classmethod
    def kinds_with(cls, names: Iterable[str]) -> list[str]:
        """The kinds of this family that have all these fields."""
        wanted = set(names)
        return sorted(kind for kind, one in cls.registry.items() if wanted <= one.model_fields.keys())

    @classmethod
    def member(cls, kind: Any) -> type[Plugin]:
        """The class registered under `kind`; an unknown one is a ValueError that names the nearest."""
        if isinstance(kind, str) and kind in cls.registry:
            return cls.registry[kind]
        raise ValueError(f"unknown {cls.family} {kind!r}{nearest(kind, cls.registry)}")


@dataclass(frozen=True)
class _Changes:
    """Fields that were given without a `kind`: they change the default plug-in."""

    default: Plugin
    fields: dict[str, Any]

    def applied(self) -> Any:
        """The complete plug-in as plain data. ValueError for a field that the default plug-in lacks."""
        default = self.default
        for name in self.fields:
            if name not in type(default).model_fields:
                raise ValueError(
                    f"unknown field of {default.kind!r}, the default {default.family}: {name!r}"
                    f"{self._advice(name)}"
                )
        return merged(plain(default), self.fields)

    def _advice(self, name: str) -> str:
        """The nearest field of the default plug-in, or the kinds that have this one."""
        found = {}
        for kind, member in sorted(Plugin.families[self.default.family].registry.items()):
            paths = [*((field,) for field in member.model_fields), *member.inner_fields()]
            if (path := next((path for path in paths if same(name, path[-1])), None)) is not None:
                found[kind] = path
        if not found or self.default.kind in found:
            return nearest(name, type(self.default).model_fields, self.default.inner_fields())
        shown = (f"{{kind: {kind}, {as_yaml(path)}}}" for kind, path in found.items())
        return f"; did you mean another kind? {' or '.join(shown)}"


def changed(value: Any, default: Any, name: str) -> Any:
    """The value of the field `name`, given its default. A mapping without `kind` changes the default plug-in,
    `{0: {padding: 2}}` the first of a list of them; anything else replaces it."""
    if not isinstance(value, dict) or "kind" in value:
        return value
    if isinstance(default, Plugin):
        return _Changes(default, value)
    if isinstance(default, tuple) and value and all(str(i).isdecimal() for i in value):
        changes = {int(i): change for i, change in value.items()}
        if missing := [i for i in changes if i >= len(default)]:
            raise ValueError(f"{name} has no item {missing[0]}: by default it has {len(default)}")
        if len(changes) < len(value):
            raise ValueError(f"{name} has an item twice: {', '.join(map(str, value))}")
        return [changed(changes.get(i, item), item, name) for i, item in enumerate(default)]
    return value


def merged(old: Any, new: Any) -> Any:
    """`new` merged into `old`, as plain data: a mapping changes the old value unless it names a `kind`; a
    plug-in given by name counts as `{kind: name}`."""
    old = {"kind": old} if isinstance(old, str) and isinstance(new, dict) else old
    if not isinstance(old, dict) or not isinstance(new, dict) or "kind" in new:
        return new
    return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}


def inner_fields(spec: type[Spec], *, depth: int = DEPTH) -> Iterator[tuple[str, ...]]:
    """The paths of the nested fields of a spec, each once, the shallower ones first; "0" stands for the items
    of a list. A plug-in contributes the fields of all its kinds."""
    level: dict[tuple[str, ...], list[type[Spec]]] = {(): [spec]}
    for _ in range(depth):
        deeper: dict[tuple[str, ...], list[type[Spec]]] = {}
        for path, specs in level.items():
            for name, annotation, alone in _typed(specs):
                item = ("0",) if "tuple[" in str(annotation) and not alone else ()
                known = deeper.setdefault((*path, name, *item), [])
                known += [one for one in specs_in(annotation) if one not in known]
        yield from (path for path in deeper if len(path) > 1 and path[-1] != "0")
        level = {path: specs for path, specs in deeper.items() if specs}


def _typed(specs: Iterable[type[Spec]]) -> Iterator[tuple[str, Any, bool]]:
    """The fields of some specs: name, type, and whether a list field accepts a single item."""
    for spec in specs:
        for name, field in spec.written().items():
            yield name, field.annotation, name in spec.one_or_many


def specs_in(annotation: Any) -> list[type[Spec]]:
    """The specs that a field of this type may hold; for a plug-in family, all of its kinds."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        family = issubclass(annotation, Plugin) and not annotation.kind
        return list(annotation.registry.values()) if family else [annotation]  # type: ignore[attr-defined]
    return [one for part in get_args(annotation) for one in specs_in(part)]


def _fraction(value: Any) -> Fraction:
    if isinstance(value, Fraction):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"a budget is a fraction: write `8/255` or `1/2`, not {value!r}")
    if not re.fullmatch(r"\s*\d+\s*(/\s*0*[1-9]\d*\s*)?", str(value)):
        raise ValueError(f"a budget is a fraction of whole numbers, such as 8/255; found {value!r}")
    return Fraction(str(value).replace(" ", ""))


Eps = Annotated[Fraction, BeforeValidator(_fraction)]
"""A budget or step in units of the pixel range [0, 1], kept exact and written `8/255`; floats are refused."""


def _a_level_at_least(eps: Fraction) -> Fraction:
    if not Fraction(1, 255) <= eps <= 1:
        raise ValueError(f"eps must be between 1/255 (one level) and 1; found {eps}; write 8/255")
    return eps


LevelEps = Annotated[Eps, AfterValidator(_a_level_at_least)]
"""A budget of changes in whole levels."""


def _moves(step: Fraction) -> Fraction:
    if step <= 0:
        raise ValueError(f"a step of {step} changes nothing; leave it out for the usual share of eps")
    return step


Step = Annotated[Eps, AfterValidator(_moves)]
"""The length of a step within a budget, in units of the pixel range."""


def parse_eps(text: str, where: str) -> Fraction:
    """A `LevelEps` as written in a spec; a mistake is an InputError that begins with `where`."""
    try:
        return _a_level_at_least(_fraction(text))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def raised(value: Any) -> bool:
    """Whether a version above 1 occurs anywhere inside."""
    if isinstance(value, Spec):
        return value.version > 1 or any(raised(v) for _, v in value)
    if isinstance(value, tuple | list):
        return any(raised(v) for v in value)
    return isinstance(value, dict) and any(raised(v) for v in value.values())


def identity(value: Any) -> Any:
    """The canonical plain form that a key hashes. TypeError for a value without a stable form."""
    return value.identity() if isinstance(value, Spec) else _plain(value, identity)


def plain(value: Any) -> Any:
    """The complete value as JSON types, defaults included; parsing it gives an equal spec."""
    if isinstance(value, Spec):
        head = {"kind": value.kind} if isinstance(value, Plugin) else {}
        return head | {name: plain(item) for name, item in value}
    return _plain(value, plain)


def _plain(value: Any, inner: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # -0.0 becomes 0.0
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, tuple | list):
        return [inner(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: inner(v) for k, v in value.items()}
    raise TypeError(f"{value!r} has no stable plain form, so it cannot be part of a spec")


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of `plain(value)` by dotted path; a list of plug-ins is numbered: `data.poison.0.kind`."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        return {path: value}
    return {p: v for k, item in items for p, v in flatten(item, f"{path}.{k}" if path else str(k)).items()}


def explained(errors: Iterable[ErrorDetails], where: str) -> str:
    """One line for each place of which pydantic complains: place, what is wrong, what was found. A value that
    may have several types has an error for each."""
    places: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        *outer, last = map(str, error["loc"] or ("",))
        place = ".".join([*outer, *([] if BRANCH.fullmatch(last) else [last])])
        places.setdefault(place, []).append(error)
    return "\n".join(
        f"{where}: {place}: {_explained(same_place)}" if place else f"{where}: {_explained(same_place)}"
        for place, same_place in places.items()
    )


def _explained(errors: Sequence[ErrorDetails]) -> str:
    last = errors[-1]
    if last["type"] == "missing":
        return "this field is missing"
    message = " or ".join(_expected(error) for error in errors).replace(" or expected ", " or ")
    found = "" if last["type"] == "value_error" else f", found {shown(last['input'])}"
    if last["type"] in ("int_type", "float_type", "bool_type", "string_type", "literal_error"):
        found += SEVERAL if isinstance(last["input"], list | dict) else ""
    if last["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", str(last["ctx"]["expected"]))
        found += "".join(f"; did you mean {name!r}?" for name in known if same(last["input"], name))
    return f"{message}{found}"


def shown(value: Any) -> str:
    """A value as YAML writes it, where that is one word, else as Python does."""
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        return f"expected {error['ctx']['expected']}"
    expected = EXPECTED.get(error["type"]) or PATTERNS.get(error.get("ctx", {}).get("pattern", ""))
    return f"expected {expected}" if expected else error["msg"].removeprefix("Value error, ")


@cache
def import_members(package: str) -> None:
    """Import every module of a package, so that its members register themselves."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name != "__main__":
            importlib.import_module(f"{package}.{module.name}")
