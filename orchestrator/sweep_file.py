"""Reading a sweep file: YAML that is safe to parse, and mistakes that are told with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.spec import SweepSpec
from trainers import InputError

MAX_BYTES = 1_000_000
MAX_VALUES = 200_000  # after aliases are followed: a file of a few lines can stand for billions


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, which YAML would let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen and key != "<<":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float) else id(key_node))
        return super().construct_mapping(node, deep=deep)


def load(file: str | Path, settings: tuple[str, ...] = ()) -> SweepSpec:
    """The sweep in `file`, changed by `path=value` settings. Raises InputError for whatever is wrong with
    either."""
    data = _mapping(Path(file))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise InputError(f"--set {setting}: write path=value, such as train.epochs=2 or seed=[0,1]")
        change(data, path.strip(), _parse(text, f"--set {setting}"))
    return SweepSpec.parse(data, str(file))


def change(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a path of a trial in the sweep's grid if it is an axis there, else in its base; `run.` and
    `report.` are the sweep's."""
    grid = data.setdefault("grid", {})
    if isinstance(grid, dict) and path in grid:
        grid[path] = value if isinstance(value, list) else [value]
    elif path.split(".")[0] in ("run", "report", "name", "question"):
        set_path(data, path, value, "--set")
    else:
        set_path(data.setdefault("base", {}), path, value, "--set")


def set_path(data: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set a dotted path in nested mappings; a plug-in written as a mere name becomes a mapping with that
    `kind`.

    A mapping is merged into the mapping that is there, unless it names a `kind`: then it replaces it.
    """
    node: Any = data
    *parents, last = path.split(".")
    for part in parents:
        slot = int(part) if isinstance(node, list) and part.isdigit() and int(part) < len(node) else part
        inner = node[slot] if isinstance(node, list) and isinstance(slot, int) else None
        if isinstance(node, dict):
            inner = node.get(part)
        if isinstance(inner, str):
            inner = {"kind": inner}
        elif inner is None:
            inner = {}
        if not isinstance(inner, dict | list) or (isinstance(node, list) and isinstance(slot, str)):
            raise InputError(f"{where}: {path}: there is nothing to set below {part!r}")
        node[slot] = inner
        node = inner
    if not isinstance(node, dict):
        raise InputError(f"{where}: {path}: there is nothing to set below {parents[-1]!r}")
    node[last] = _merged(node.get(last), value)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict) or "kind" in new:
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def _mapping(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file} has {file.stat().st_size} bytes; a sweep file has at most {MAX_BYTES}")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no file {file}; the sweeps that ship are in sweeps/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    data = _parse(text, str(file))
    if not isinstance(data, dict):
        raise InputError(
            f"{file}: a sweep file is a mapping with name, question, base and grid; found {_kind(data)}"
        )
    return data


def _parse(text: str, where: str) -> Any:
    try:
        data = _Loader(text).get_single_data()
        _count(data, [MAX_VALUES], where)
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


def _count(value: Any, left: list[int], where: str) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise InputError(
            f"{where}: more than {MAX_VALUES} values once aliases are followed; write it smaller"
        )
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _count(item, left, where)


def _kind(data: Any) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"
