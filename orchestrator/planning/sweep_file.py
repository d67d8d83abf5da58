"""From text to specs: a sweep file, or a data set on the command line; `--set` changes either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.planning.spec import SweepSpec
from poisons import DataSpec
from trainers import InputError
from trainers.spec import merged
from trainers.yaml_text import parse_yaml, plain_numbers, read_yaml

AS_WRITTEN = ("grid", "skip", "report")  # sections with labels: numbers in them keep their spelling
POISONING = ("poison", "ratio", "crafted_on", "seed")  # what of a data set clean images do not have


def load(file: str | Path, settings: tuple[str, ...] = ()) -> SweepSpec:
    """The sweep in `file`, changed by `path=value` settings. Raises InputError for anything wrong with
    either."""
    data = read_yaml(Path(file), "the sweeps that ship are in sweeps/")
    if not isinstance(data, dict):
        raise InputError(
            f"{file}: a sweep file is a mapping with name, question, base and grid; found {_kind(data)}"
        )
    for path, value in _settings(settings, "train.epochs=2 or seed=[0,1]"):
        change(data, path, value)
    data = {name: part if name in AS_WRITTEN else plain_numbers(part) for name, part in data.items()}
    return SweepSpec.parse(data, str(file))


def load_data(text: str, settings: tuple[str, ...] = ()) -> DataSpec:
    """A data set from a file, from the name of a poison, or from YAML: `{source: cifar10, poison: ops}`, or
    the poison alone, `{kind: ops, pixels: 2}` or `[em, ops]`."""
    is_file = text.endswith((".yaml", ".yml", ".json")) or (
        text.isprintable() and not set(text) & set("[{:") and Path(text).is_file()
    )
    hint = "name a poison (opsctl kinds poison), or write {source: cifar10, poison: ops}"
    data = read_yaml(Path(text), hint) if is_file else parse_yaml(text, text)
    if not isinstance(data, dict) or "kind" in data:
        data = {"poison": data}
    for path, value in _settings(settings, "source=cifar10 or poison.pixels=2"):
        set_path(data, path, value, "--set")
    return DataSpec.parse(plain_numbers(data), text)


def load_source(text: str) -> DataSpec:
    """Clean training images from a source's name, or from YAML: a source, or a data set. InputError if they
    are poisoned."""
    data = parse_yaml(text, text)
    if not isinstance(data, dict) or "kind" in data:
        data = {"source": data}
    spec = DataSpec.parse(plain_numbers(data), text)
    if poisoned := [name for name in POISONING if getattr(spec, name) != getattr(spec.clean, name)]:
        raise InputError(f"{text}: these are to be clean images: leave out {' and '.join(poisoned)}")
    return spec


def _settings(settings: tuple[str, ...], example: str) -> Iterator[tuple[str, Any]]:
    before = set()
    for setting in settings:
        path, equals, text = setting.partition("=")
        path = path.strip()
        if not equals or not path:
            raise InputError(f"--set {setting}: write path=value, such as {example}")
        if path in before:
            raise InputError(f"--set {setting}: {path} is set twice: leave one out")
        before.add(path)
        yield path, parse_yaml(text, f"--set {setting}")


def change(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a path of a trial: in the grid where an axis is that path or holds it, else in the base.

    Paths that begin with `run`, `report` or `probes` are the sweep's own.
    """
    section, _, inside = path.partition(".")
    if section in ("base", "grid"):
        raise InputError(
            f"--set {path}: paths are those of a trial, wherever the file has them: write "
            f"{inside or 'train.epochs'}=..."
        )
    grid = data.get("grid")
    axes = grid if isinstance(grid, dict) else {}
    around = [axis for axis in axes if path.startswith(f"{axis}.")]
    if path in axes:
        axes[path] = value if isinstance(value, list | dict) else [value]
    elif around:
        _change_values(axes, around[0], path.removeprefix(f"{around[0]}."), value)
    elif section in ("run", "report", "probes"):
        set_path(data, path, value, "--set")
    else:
        data["base"] = {} if data.get("base") is None else data["base"]
        set_path(data, f"base.{path}", value, "--set")


def _change_values(axes: dict[str, Any], axis: str, rest: str, value: Any) -> None:
    """Set a path below an axis in each value of the axis."""
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
    node[place] = merged(node[place] if isinstance(place, int) else node.get(place), value)


def _place(node: Any, part: str) -> str | int | None:
    """The key or index that a part of a path names in a mapping or list; None if it names nothing."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part.isascii() and part.isdecimal() and int(part) < len(node):
        return int(part)
    return None


def _kind(data: Any) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"
