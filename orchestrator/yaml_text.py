"""YAML that is safe to parse, and mistakes that are told with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from trainers import InputError

MAX_BYTES = 1_000_000
MAX_VALUES = 200_000  # after aliases are followed: a file of a few lines can stand for billions


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, which YAML would let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float) or str(key) in seen:
                problem = "is given twice" if isinstance(key, str | int | float) else "cannot be a key"
                raise yaml.MarkedYAMLError(problem=f"{key!r} {problem}", problem_mark=key_node.start_mark)
            seen.add(str(key))
        return super().construct_mapping(node, deep=deep)


def read_yaml(file: Path, hint: str) -> Any:
    """What a file holds, as plain data; `hint` tells whoever named a file that is not there where to look.
    Raises InputError for whatever is wrong with it."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file} has {file.stat().st_size} bytes; such a file has at most {MAX_BYTES}")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no file {file}; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    return parse_yaml(text, str(file))


def parse_yaml(text: str, where: str) -> Any:
    """Text as plain data, every alias a copy of its own. InputError, beginning with `where`."""
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
