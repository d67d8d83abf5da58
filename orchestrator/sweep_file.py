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
    """Set a path of a trial: in the grid where an axis is that path or holds it, else in the base.

    Paths that begin with `run` or `report` are the sweep's own.
    """
    grid = data.get("grid")
    axes = grid if isinstance(grid, dict) else {}
    around = [axis for axis in axes if path.startswith(f"{axis}.")]
    if path in axes:
        axes[path] = value if isinstance(value, list | dict) else [value]
    elif around:
        _change_values(axes, around[0], path.removeprefix(f"{around[0]}."), value)
    elif path.split(".")[0] in ("run", "report"):
        set_path(data, path, value, "--set")
    else:
        data["base"] = {} if data.get("base") is None else data["base"]
        set_path(data, f"base.{path}", value, "--set")


def _change_values(axes: dict[str, Any], axis: str, rest: str, value: Any) -> None:
    """Set a path below an axis in each of the axis's values."""
    values = axes[axis]
    places = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for place in places:
        holder = {"value": values[place]}
        set_path(holder, f"value.{rest}", value, f"--set {axis}.{rest}")
        values[place] = holder["value"]


def set_path(data: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set a dotted path in nested mappings; a plug-in written as a name becomes a mapping with that `kind`.

    A mapping is merged into the mapping that is there, unless it names a `kind`: then it replaces it.
    """
    node: Any = data
    *parents, last = path.split(".")
    for part in parents:
        place = _place(node, part)
        if place is None:
            raise InputError(f"{where}: {path}: there is nothing to set at {part!r}")
        inner = node[place] if isinstance(place, int) else node.get(place)
        node[place] = {} if inner is None else {"kind": inner} if isinstance(inner, str) else inner
        node = node[place]
    place = _place(node, last)
    if place is None:
        raise InputError(f"{where}: {path}: there is nothing to set at {last!r}")
    node[place] = _merged(node[place] if isinstance(place, int) else node.get(place), value)


def _place(node: Any, part: str) -> str | int | None:
    """The key or index that a part of a path names in a mapping or list; None where it can name nothing."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part.isascii() and part.isdecimal() and int(part) < len(node):
        return int(part)
    return None


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


def _kind(data: Any) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"
