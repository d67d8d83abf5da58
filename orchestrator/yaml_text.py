"""YAML that is safe to parse, whose names and numbers mean what they look like, and whose mistakes are
reported with their line.

It is YAML 1.2, JSON's superset: `on`, `off`, `yes`, `no`, dates and `12:30` are text, `1e-3` is a number and
`010` is ten. Keys are text as it is written.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from trainers import InputError

MAX_BYTES = 1_000_000
MAX_VALUES = 200_000  # after aliases are followed: a file of a few lines can stand for billions
INT = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9][0-9_]*)$")
FLOAT = re.compile(
    r"[-+]?(([0-9][0-9_]*)?\.[0-9]+|[0-9][0-9_]*\.?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
NULL = re.compile(r"(~|null|Null|NULL|)$")
LARGEST = 2**63 - 1  # whole numbers beyond it fit no seed and no tensor
TAG = "tag:yaml.org,2002:"


class _Written:
    """A number with its spelling."""

    spelling: str


class _Int(_Written, int): ...


class _Float(_Written, float): ...


def spelling(value: Any) -> str | None:
    """How a number was written, `1e-3`; None for any other value."""
    return value.spelling if isinstance(value, _Written) else None


def plain_numbers(value: Any) -> Any:
    """A copy of plain data whose numbers are without their spelling."""
    if isinstance(value, dict):
        return {name: plain_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain_numbers(item) for item in value]
    if isinstance(value, _Int):
        return int(value)
    return float(value) if isinstance(value, _Float) else value


class _Loader(yaml.SafeLoader):
    """A safe loader of YAML 1.2 that knows no other types than JSON does, and refuses a key given twice,
    which YAML would let the last one win."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (the base class declares it so)
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        name: yaml.SafeLoader.yaml_constructors[name]
        for name in (f"{TAG}str", f"{TAG}seq", f"{TAG}map", None)
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys resolved; what is overridden is dropped at once, so that merges of merges stay small."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != f"{TAG}merge" and (key := _key(key_node)) in seen:
                raise _mistake(f"{key!r} is given twice", key_node)
            seen.add(_key(key_node))
        super().flatten_mapping(node)
        node.value = list({_key(key): (key, value) for key, value in node.value}.values())

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _mistake(f"expected a mapping, found a {_kind(node)}", node)
        self.flatten_mapping(node)
        return {_key(key): self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self._text(node, INT, "a whole number").replace("_", "")
        number = _Int(text, 0 if re.match(r"[-+]?0[xo]", text) else 10)
        if abs(number) > LARGEST:
            raise _mistake(f"a whole number is at most {LARGEST} (64 bits)", node)
        number.spelling = node.value
        return number

    def construct_float(self, node: yaml.ScalarNode) -> float | str:
        text = self._text(node, FLOAT, "a number")
        number = _Float(re.sub(r"_|\.(?=[a-zA-Z])", "", text))
        if math.isinf(number) and text[-1].isdecimal():
            return str(node.value)  # a name, such as 12e4567
        number.spelling = node.value
        return number

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        return self._text(node, BOOL, "true or false").lower() == "true"

    def construct_null(self, node: yaml.ScalarNode) -> None:
        self._text(node, NULL, "null")

    def _text(self, node: yaml.ScalarNode, pattern: re.Pattern[str], what: str) -> str:
        text = str(self.construct_scalar(node))
        if not pattern.match(text):
            raise _mistake(f"{text!r} is not {what}", node)
        return text


for _name, _pattern, _first in (
    ("bool", BOOL, "tTfF"),
    ("int", INT, "-+0123456789"),
    ("float", FLOAT, "-+.0123456789"),
    ("merge", re.compile(r"<<$"), "<"),
    ("null", NULL, ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"{TAG}{_name}", _pattern, list(_first))
for _name in ("bool", "int", "float", "null"):
    _Loader.add_constructor(f"{TAG}{_name}", getattr(_Loader, f"construct_{_name}"))


def _key(node: yaml.Node) -> str:
    """A key as it is written."""
    if not isinstance(node, yaml.ScalarNode):
        raise _mistake(f"a {_kind(node)} cannot be a key", node)
    return str(node.value)


def _kind(node: yaml.Node) -> str:
    return type(node).__name__.removesuffix("Node").lower()


def _mistake(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def read_yaml(file: Path, hint: str) -> Any:
    """What a file holds, as `parse_yaml` has it; `hint` tells whoever named a file that is not there where to
    look. Raises InputError for whatever is wrong with it."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file} has {file.stat().st_size} bytes; such a file has at most {MAX_BYTES}")
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no file {file}; {hint}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    return parse_yaml(_decoded(data, file), str(file))


def _decoded(data: bytes, file: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise InputError(f"{file} cannot be read: it is UTF-16 (or no text); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start : error.start + 1]
        raise InputError(
            f"{file}, line {line}: cannot be read: byte 0x{byte.hex()} is not UTF-8 (in Latin-1 it is "
            f"{byte.decode('latin-1')!r}); save the file as UTF-8"
        ) from None


def parse_yaml(text: str, where: str) -> Any:
    """Text as plain data, every alias a copy of its own; numbers in it know how they are written (see
    `spelling` and `plain_numbers`). InputError, beginning with `where`."""
    try:
        data = _own(_Loader(text).get_single_data(), [MAX_VALUES], where)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        tab = "; YAML takes no tabs, indent with spaces" if "\\t" in str(error.problem) else ""
        raise InputError(f"{place}: {error.problem}{tab}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: this is no YAML that can be read ({error})") from None
    return data


def _own(value: Any, left: list[int], where: str) -> Any:
    """The value with every alias a copy of its own, so that changing one place changes no other."""
    left[0] -= 1
    if left[0] < 0:
        raise InputError(
            f"{where}: more than {MAX_VALUES} values once aliases are followed; write it smaller"
        )
    if isinstance(value, dict):
        return {name: _own(item, left, where) for name, item in value.items()}
    return [_own(item, left, where) for item in value] if isinstance(value, list) else value
