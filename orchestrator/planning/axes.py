"""The axes of a grid: the labels of their values, and errors for what is no axis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from trainers import InputError, Plugin, Spec
from trainers.printable import printable
from trainers.redaction import redacted
from trainers.spec import inner_fields, specs_in
from trainers.spelling import nearest
from trainers.yaml_text import spelling

LOW, HIGH = ("min", "low", "lower", "start"), ("max", "high", "upper", "stop", "end")
LISTS = (
    "values",
    "value",
    "choices",
    "choice",
    "options",
    "categories",
    "grid_search",
    "uniform",
    "loguniform",
)
SHAPE = ("distribution", "type", "log", "scale", "base", "step", "num", "q", "mu", "sigma", "prior")
RANGE = frozenset((*LOW, *HIGH, *LISTS, *SHAPE))  # keys with which other tools describe a range
LOWEST = (*LOW, "from", "minimum", "lo", "log_min")  # weaker hints, since labels may be called so too
HIGHEST = (*HIGH, "to", "maximum", "hi", "log_max")  # only if both LOWEST and HIGHEST have a number
COUNTS = ("steps", "count", "n", "num", "points", "samples", "num_samples")
BETWEEN = frozenset((*RANGE, *LOWEST, *HIGHEST, *COUNTS))
DRAWN = re.compile(  # tune.loguniform(1e-4, 1e-1), np.linspace(...), range(5)
    r"\s*(\w+\.)*(q?(log)?(uniform|normal|randn|randint)|choices?|grid_search|sample_from|range|arange"
    r"|(lin|log|geom)space|interval|categorical|suggest_\w+)\s*\(",
    re.IGNORECASE,
)
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")

NO_AXES = {  # the top-level sections of a sweep file
    "base": "; an axis is a path inside `base`: leave `base.` out",
    "run": "; `run` says how a sweep is run, which no axis varies",
    "report": "; `report` says what is shown, which no axis varies",
    "probes": "; `probes` run on every trial, and no axis varies them",
}


def label(value: Any) -> str:
    """The label of an axis value in tables: `em+ops`, `resnet18 width=16`, `8/255`, `1e-3`. A number is
    written as in the file."""
    if isinstance(value, list):
        return "+".join(label(v) for v in value) or "none"
    if isinstance(value, dict):
        rest = [f"{name}={label(v)}" for name, v in value.items() if name != "kind"]
        return " ".join([*([str(value["kind"])] if "kind" in value else []), *rest])
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return spelling(value) or redacted(str(value))


def labelled(axis: str, values: Any, where: str) -> dict[str, Any]:
    """The values of an axis by label, from a list or a mapping. InputError, beginning with `where`, for
    anything else, such as the description of a range."""
    _refuse_range(axis, values, where)
    if isinstance(values, dict):
        named = {str(name): value for name, value in values.items()}
    elif isinstance(values, list):
        named = {}
        for value in values:
            if (text := label(value)) in named:
                raise InputError(
                    f"{where}: grid: {axis}: {text!r} stands twice; give each value its own label"
                )
            named[text] = value
    else:
        raise InputError(
            f"{where}: grid: {axis}: an axis is a list of values, found {values!r}; write [{values}]"
        )
    if not named:
        raise InputError(f"{where}: grid: {axis}: this axis has no values, so the sweep has no trials")
    if hidden := [text for text in (axis, *named) if printable(text) != text]:
        raise InputError(f"{where}: grid: {axis}: a label holds no control characters, found {hidden[0]!r}")
    return named


def check_path(axis: str, values: Mapping[str, Any], spec: type[Spec], where: str) -> None:
    """InputError, beginning with `where`, if no `spec`, with any of its plug-ins, has the field that an
    axis names; or if an axis over a whole section lists values of the section's fields."""
    parts, holders = axis.split("."), [spec]
    for i, part in enumerate(parts):
        if i and part.isdecimal():
            continue  # an item of a list
        if not holders or (part == "kind" and any(issubclass(one, Plugin) for one in holders)):
            return  # inside a plain value, or the choice of a plug-in
        fields = {name: field for one in holders for name, field in one.written().items()}
        if part not in fields:
            place = ": ".join(
                [f"{where} (at {axis}={next(iter(values))})", *filter(None, [".".join(parts[:i])])]
            )
            raise InputError(f"{place}: unknown field: {part!r}{_advice(part, fields, holders, parts[:i])}")
        holders = specs_in(fields[part].annotation)
    section = {name for one in holders for name in one.written()}
    plugins = any(issubclass(one, Plugin) for one in holders)
    for name, value in values.items():
        if name in section and not isinstance(value, dict) and not (plugins and _names_plugins(value)):
            raise InputError(
                f"{where}: grid: {axis}: {name!r} is a field of {axis}, not a value of it; "
                f"for an axis over it write `{axis}.{name}: {shown(value)}`"
            )


def _names_plugins(value: Any) -> bool:
    """Whether a value is the name of a plug-in, or a chain of plug-ins."""
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(v, str | dict) for v in value)
    )


def _advice(part: str, fields: Iterable[str], holders: list[type[Spec]], before: list[str]) -> str:
    """The nearest field, or the path of the field of this name further inside."""
    if not before and part in NO_AXES:
        return NO_AXES[part]
    inner = [path for one in holders for path in inner_fields(one)]
    return nearest(part, fields, inner, lambda path: ".".join([*before, *path]))


def _refuse_range(axis: str, values: Any, where: str) -> None:
    """InputError for a range or a distribution, which other tools would sample from."""
    items = values if isinstance(values, list) else [values]
    if isinstance(values, dict):
        items = list(values.values())
    drawn = [item for item in items if isinstance(item, str) and DRAWN.match(item)]
    if not drawn and not (isinstance(values, dict) and _describes(values)):
        return
    found = repr(drawn[0]) if drawn else f"{{{', '.join(values)}}}"
    instead = _some_of(_parsed(drawn[0]) if drawn else values)
    raise InputError(
        f"{where}: grid: {axis}: {found} says where to draw values from, and an axis lists its values: "
        f"write {axis}: {shown(instead)}. To try only some cells of the grid, add "
        "run: {search: random, num_samples: 20}" + ("" if drawn else "; if these are labels, choose others")
    )


def _parsed(text: str) -> dict[str, Any]:
    """The mapping that `tune.loguniform(1e-4, 1e-1)` stands for."""
    name, _, rest = text.lower().partition("(")
    numbers = [float(found) if "." in found or "e" in found else int(found) for found in NUMBER.findall(rest)]
    if "choice" in name or "categorical" in name or "grid" in name:
        return {"values": numbers or ["a", "b"]}
    if name.endswith("range") and len(numbers) == 1:
        return {"values": list(range(min(int(numbers[0]), 5)))}
    bounds = dict(zip(("min", "max"), numbers, strict=False))
    return {**bounds, "log": "log" in name}


def _describes(values: Mapping[str, Any]) -> bool:
    """Whether a mapping describes a range (`{min: 1e-4, max: 0.1, log: true}`) rather than label values."""
    if values.keys() <= BETWEEN and None not in _bounds(values):
        return True
    if not values or not values.keys() <= RANGE:
        return False
    return any(
        name in LISTS or (name in (*LOW, *HIGH) and isinstance(value, int | float)) or isinstance(value, bool)
        for name, value in values.items()
        if not isinstance(value, dict)
    ) or isinstance(values.get("distribution"), str)


def _bounds(values: Mapping[str, Any]) -> tuple[int | float | None, int | float | None]:
    """The lower and upper end of a range, as far as they are numbers."""
    low, high = (
        next((values[n] for n in names if _is_number(values.get(n))), None) for names in (LOWEST, HIGHEST)
    )
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _some_of(values: Mapping[str, Any]) -> list[Any]:
    """Values to suggest instead of the description of a range."""
    given = dict(values)
    for name in ("uniform", "loguniform"):
        if isinstance(given.get(name), list):
            given |= dict(zip(("min", "max"), given[name], strict=False)) | {"log": name == "loguniform"}
    for name in ("values", "choices", "choice", "options", "categories", "grid_search"):
        if isinstance(given.get(name), list):
            return list(given[name])
    if "value" in given:
        return [given["value"]]
    return _spread(given)


def _spread(given: Mapping[str, Any]) -> list[Any]:
    """Values between the ends of a range."""
    low, high = _bounds(given)
    if low is not None and high is not None and "log_min" in given and -300 < low < 0 and high < 300:
        low, high = 10.0**low, 10.0**high  # exponents
    if low is None or high is None or low >= high:
        return [1, 2, 4]
    words = " ".join((*map(str, (given.get("distribution"), given.get("scale"))), *given.keys() - {"log"}))
    last = next((given[n] for n in COUNTS if given.get(n) in range(2, 11)), 4) - 1
    if low > 0 and (given.get("log") or "log" in words):
        steps = [low * (high / low) ** (i / last) for i in range(last + 1)]
    else:
        steps = [low + (high - low) * i / last for i in range(last + 1)]
    whole = isinstance(low, int) and isinstance(high, int)
    return list(dict.fromkeys(round(step) if whole else float(f"{step:.2g}") for step in steps))


def shown(value: Any) -> str:
    """Plain data as a sweep file has it, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {shown(item)}' for name, item in value.items())}}}"
    return "null" if value is None else label(value)
