"""The JSON schema of sweep files, from the specs: what each field may hold, each plug-in by its kind, and the
paths that an axis may be.

It refuses misspelt fields and values of the wrong type. What depends on several fields at once, `opsctl plan`
refuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter

from orchestrator.planning.spec import Label, ReportSpec, SweepSpec
from orchestrator.storage.trial_spec import TrialSpec
from trainers import Plugin, Spec
from trainers.descriptions import descriptions

Schema = dict[str, Any]
SCALAR: Schema = {"type": ["string", "number", "boolean", "null"]}
LABEL: Schema = {"anyOf": [SCALAR, {"type": "array"}]}
EPS: Schema = {
    "anyOf": [
        {"type": "string", "pattern": r"^\s*\d+\s*(/\s*0*[1-9]\d*\s*)?$"},
        {"type": "integer", "minimum": 0},
    ]
}
DEPTH = 6  # of the paths that an axis may be


def sweep_schema() -> Schema:
    """The whole schema, draft 2020-12."""
    defs: dict[str, Schema] = {}
    fields = SweepSpec.model_fields
    trial = _spec(TrialSpec, defs)
    properties = {name: _field(SweepSpec, name, defs) for name in ("name", "question", "run")}
    properties |= {
        "base": {"anyOf": [trial, {"type": "null"}]},
        "grid": _grid(defs),
        "skip": {
            "type": "array",
            "items": {"type": "object", "minProperties": 1, "propertyNames": _ref("axis")},
        },
        "probes": {"type": "array", "items": _probe(defs)},
        "report": _report(defs),
    }
    assert properties.keys() == fields.keys(), "the schema has every part of a sweep"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "opsctl sweep file",
        "type": "object",
        "required": [name for name, field in fields.items() if field.is_required()],
        "additionalProperties": False,
        "properties": {
            name: {**properties[name], "description": text} for name, text in descriptions(SweepSpec).items()
        },
        "$defs": dict(sorted(defs.items())),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _spec(spec: type[Spec], defs: dict[str, Schema]) -> Schema:
    """A mapping with some of the fields of a spec: no field is required, since an axis may set it."""
    name = f"{spec.family}.{spec.kind}" if issubclass(spec, Plugin) else spec.__name__
    if name not in defs:
        defs[name] = {}  # a spec may hold itself
        head = {"kind": {"const": spec.kind}} if issubclass(spec, Plugin) else {}
        defs[name] = {
            "type": "object",
            "description": _summary(spec),
            "additionalProperties": False,
            "properties": head | {field: _field(spec, field, defs) for field in spec.written()},
        }
        if head:
            defs[name]["required"] = ["kind"]
    return _ref(name)


def _summary(spec: type[Spec]) -> str:
    """The first sentence of what a spec is."""
    return " ".join((spec.__doc__ or "").split("\n\n")[0].split())


def _field(spec: type[Spec], name: str, defs: dict[str, Schema]) -> Schema:
    """A field with its description, and its default where that is plain."""
    field = spec.model_fields[name]
    annotation: Any = field.annotation
    if field.metadata:
        annotation = Annotated[annotation, *field.metadata]
    schema = _type(annotation, defs)
    if name in spec.one_or_many:
        schema = _one_or_many(schema)
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    if isinstance(default, bool | int | float | str):
        schema = {**schema, "default": default}
    return {**schema, "description": descriptions(spec).get(name, "")}


def _one_or_many(schema: Schema) -> Schema:
    """What accepts one item beside a list of them, or a list beside one item."""
    listed = schema["anyOf"][0] if "anyOf" in schema else schema
    one = listed.get("items")
    return {"anyOf": [one, schema] if one else [schema, {"type": "array", "items": schema, "minItems": 1}]}


def _type(annotation: Any, defs: dict[str, Schema]) -> Schema:
    """The schema of a type that a field has."""
    if annotation == Label:
        return LABEL
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        family = issubclass(annotation, Plugin) and not annotation.kind
        return _family(annotation, defs) if family else _spec(annotation, defs)  # type: ignore[arg-type]
    return _compound(annotation, defs) or _leaf(annotation)


def _compound(annotation: Any, defs: dict[str, Schema]) -> Schema | None:
    """The schema of a type that is made of others; None for any other."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return EPS if _has(parts[0], Fraction) else _constrained(annotation, defs)
    if origin in (Union, UnionType):
        return {"anyOf": [_type(part, defs) for part in parts]}
    if origin is tuple:
        return _tuple(parts, defs)
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(parts[1], defs)}
    return None


def _constrained(annotation: Any, defs: dict[str, Schema]) -> Schema:
    """A type with constraints: pydantic's own schema, unless a spec is inside."""
    inner = get_args(annotation)[0]
    return _type(inner, defs) if _has(inner, Spec) else _leaf(annotation)


def _leaf(annotation: Any) -> Schema:
    """Pydantic's schema of numbers, text and the like."""
    return {"type": "null"} if annotation is NoneType else TypeAdapter(annotation).json_schema()


def _has(annotation: Any, wanted: type) -> bool:
    """Whether a type is, or holds, a class."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return issubclass(annotation, wanted)
    return any(_has(part, wanted) for part in get_args(annotation))


def _tuple(parts: tuple[Any, ...], defs: dict[str, Schema]) -> Schema:
    """A list; one of plug-ins may be given as changes to the default list, `{0: {padding: 2}}`."""
    if parts[-1] is not Ellipsis:
        return {
            "type": "array",
            "prefixItems": [_type(part, defs) for part in parts],
            "minItems": len(parts),
            "maxItems": len(parts),
        }
    items = _type(parts[0], defs)
    array: Schema = {"type": "array", "items": items}
    if not _has(parts[0], Plugin):
        return array
    changes = {
        "type": "object",
        "patternProperties": {r"^\d+$": items},
        "additionalProperties": False,
        "minProperties": 1,
    }
    return {"anyOf": [array, changes]}


def _family(family: type[Plugin], defs: dict[str, Schema]) -> Schema:
    """A plug-in: its kind, a mapping with `kind`, or one without, which changes the default."""
    name = family.family
    if name not in defs:
        defs[name] = {}
        kinds = sorted(family.registry)
        members = [family.registry[kind] for kind in kinds]
        defs[name] = {
            "anyOf": [
                {"enum": kinds},
                *(_spec(member, defs) for member in members),
                {
                    "type": "object",
                    "description": "changes the default",
                    "minProperties": 1,
                    "additionalProperties": False,
                    "properties": _merged(members, defs),
                },
            ]
        }
    return _ref(name)


def _merged(specs: Iterable[type[Spec]], defs: dict[str, Schema]) -> dict[str, Schema]:
    """The fields of some specs; one that several have may hold what any of them allows, and has the
    descriptions of all."""
    found: dict[str, list[Schema]] = {}
    texts: dict[str, dict[str, None]] = {}  # in order, each once
    for spec in sorted(specs, key=lambda one: (one.__module__, one.__qualname__)):  # not as imported
        for name in spec.written():
            schema = {key: value for key, value in _field(spec, name, defs).items() if key != "default"}
            text, known = schema.pop("description"), found.setdefault(name, [])
            known += [schema] if schema not in known else []
            texts.setdefault(name, {})[text] = None
    return {
        name: {**_any(schemas), "description": " Or: ".join(texts[name])}
        for name, schemas in sorted(found.items())
    }


def _any(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _probe(defs: dict[str, Schema]) -> Schema:
    """A probe by its kind, or a mapping of its settings with `name` and `sets`; or the two apart."""
    (run, _) = get_args(SweepSpec.model_fields["probes"].annotation)
    sets = {"type": "object", "additionalProperties": _ref("DataSpec")}
    own = {
        "name": _field(run, "name", defs),
        "sets": {**sets, "description": descriptions(run)["sets"]},
    }
    probe = Plugin.families["probe"]
    kinds = sorted(probe.registry)
    flat = []
    for kind in kinds:
        _spec(probe.registry[kind], defs)
        inner = defs[f"probe.{kind}"]
        flat.append({**inner, "properties": inner["properties"] | own})
    apart = {
        "type": "object",
        "required": ["name", "probe"],
        "additionalProperties": False,
        "properties": own | {"probe": _family(probe, defs)},
    }
    return {"anyOf": [{"enum": kinds}, *flat, apart]}


def _report(defs: dict[str, Schema]) -> Schema:
    """As the spec has it, but that `rows` may be one axis."""
    _spec(ReportSpec, defs)
    rows = defs["ReportSpec"]["properties"]["rows"]
    text = rows.pop("description")
    defs["ReportSpec"]["properties"]["rows"] = {"anyOf": [{"type": "string"}, rows], "description": text}
    return _ref("ReportSpec")


def _grid(defs: dict[str, Schema]) -> Schema:
    """The axes: every path of a trial, with a list of values or a mapping from labels to values."""
    named: dict[str, Schema] = {}
    patterns: dict[str, Schema] = {}
    for path, schema in _paths([TrialSpec], defs):
        described = {"description": schema.pop("description")} if "description" in schema else {}
        axis = described | {
            "anyOf": [
                {"type": "array", "minItems": 1, "items": schema},
                {"type": "object", "minProperties": 1, "additionalProperties": schema},
            ]
        }
        if "#" in path or path[-1] == "*":
            pattern = "^" + r"\.".join({"#": r"\d+", "*": ".+"}.get(part, part) for part in path) + "$"
            patterns[pattern] = axis
        else:
            named[".".join(path)] = axis
    defs["axis"] = {
        "anyOf": [{"enum": sorted(named)}, *({"pattern": pattern} for pattern in sorted(patterns))]
    }
    return {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": dict(sorted(named.items())),
        "patternProperties": dict(sorted(patterns.items())),
    }


def _paths(
    specs: list[type[Spec]], defs: dict[str, Schema], before: tuple[str, ...] = ()
) -> Iterable[tuple[tuple[str, ...], Schema]]:
    """The paths inside some specs and their schemas; `#` is an item of a list, `*` any name."""
    if len(before) >= DEPTH:
        return
    plugins = [spec for spec in specs if issubclass(spec, Plugin)]
    if plugins:
        yield (*before, "kind"), {"enum": sorted({spec.kind for spec in plugins})}
    for name, schema in _merged(specs, defs).items():
        path = (*before, name)
        yield path, schema
        annotations = [spec.model_fields[name].annotation for spec in specs if name in spec.model_fields]
        if any(get_origin(one) is dict for one in annotations):
            yield (*path, "*"), {}
        inner, listed = _inner(annotations)
        if inner and listed:
            yield (*path, "#"), _any([_type(one, defs) for one in _items(annotations)])
            yield from _paths(inner, defs, (*path, "#"))
        if inner and (not listed or any(name in spec.one_or_many for spec in specs)):
            yield from _paths(inner, defs, path)


def _inner(annotations: Iterable[Any]) -> tuple[list[type[Spec]], bool]:
    """The specs that fields of these types hold, of a family all members; whether they are in lists."""
    found: list[type[Spec]] = []
    listed = False
    for annotation in annotations:
        listed = listed or any(True for _ in _items([annotation]))
        for spec in _specs(annotation):
            members = list(spec.registry.values()) if issubclass(spec, Plugin) and not spec.kind else [spec]
            found += [member for member in members if member not in found]
    return found, listed


def _specs(annotation: Any) -> list[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for part in get_args(annotation) for spec in _specs(part)]


def _items(annotations: Iterable[Any]) -> list[Any]:
    """The types of the items of those that are lists of specs."""
    return [get_args(one)[0] for one in annotations if get_origin(one) is tuple and _specs(one)]
