"""A safe YAML parser without surprising conversions, which reports mistakes with their line.

It reads YAML 1.2, a superset of JSON: `on`, `off`, `yes`, `no`, dates and `12:30` are text, `1e-3` is a
number and `010` is ten. Keys stay text as written. Tags are refused, so a file can only construct mappings,
lists, text, numbers, booleans and null. Time and memory are bounded by the size of the file and MAX_VALUES:
values are counted as they are created, including those of aliases and merge keys.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from trainers.printable import UNPRINTABLE, spelt
from trainers.spec import InputError

MAX_BYTES = 1_000_000
MAX_VALUES = 50_000  # after aliases are expanded: a few lines can expand to billions
MAX_DEPTH = 100
MAX_DIGITS = 400  # characters of a number; the longest float64 has fewer
INT = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9][0-9_]*)")
FLOAT = re.compile(
    r"[-+]?(([0-9][0-9_]*)?\.[0-9]+|[0-9][0-9_]*\.?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
NUMERIC = frozenset("-+.0123456789")  # first characters of numbers
WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}
LARGEST = 2**63 - 1  # larger whole numbers fit no seed and no tensor
MERGE = "<<"
TAG = "tag:yaml.org,2002:"
PARSER: Any = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # the C parser, unless PyYAML was built without libyaml


class _Written:
    """A number with its spelling."""

    spelling: str


class _Int(_Written, int): ...


class _Float(_Written, float): ...


def spelling(value: Any) -> str | None:
    """The spelling of a number in the file, such as `1e-3`; None for any other value."""
    return value.spelling if isinstance(value, _Written) else None


def plain_numbers(value: Any) -> Any:
    """A copy of plain data with plain int and float numbers, without spellings."""
    if isinstance(value, dict):
        return {name: plain_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain_numbers(item) for item in value]
    if isinstance(value, _Int):
        return int(value)
    return float(value) if isinstance(value, _Float) else value


def read_yaml(file: Path, hint: str) -> Any:
    """The content of a file, as `parse_yaml` returns it. `hint` is appended to the message if the file does
    not exist. Raises InputError for anything wrong with the file."""
    try:
        data = _bytes(file)
    except FileNotFoundError:
        raise InputError(f"no file {file}; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in its name
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} cannot be read: {error}") from None
    return parse_yaml(_decoded(data, file), str(file))


def parse_yaml(text: str, where: str) -> Any:
    """Text as plain data, with aliases copied; numbers keep their spelling (see `spelling` and
    `plain_numbers`). InputErrors begin with `where`."""
    if len(text) > MAX_BYTES:
        raise InputError(f"{where[:200]}: {len(text)} characters; at most {MAX_BYTES} are read")
    text = text.replace("\r\n", "\n")
    if (found := UNPRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise InputError(f"{where}, line {line}: {_unprintable(found[0])}")
    try:
        return _Document(text).read()
    except yaml.MarkedYAMLError as error:
        problem = ": ".join(filter(None, (error.context, error.problem)))
        place, tab = _place(text, error.problem_mark)
        raise InputError(f"{where}{place}: {problem}{tab}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{where}: this is not valid YAML ({error})") from None


class _Document:
    """Plain data from the events of the one document in a text."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=PARSER)
        self._anchors: dict[str, tuple[Any, int]] = {}  # a value, and its size
        self._left = MAX_VALUES

    def read(self) -> Any:
        """Raises YAMLError."""
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)  # the document ends
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            _refuse("a second document begins here; a file must contain one", event)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        self._charge(1, event)
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, depth)
        _refuse_tag(event)
        _check_depth(depth, event)
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(depth)
        else:
            value = self._mapping(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, _size(value)
        return value

    def _list(self, depth: int) -> list[Any]:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        merges = False
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, merge = self._key(event), _is_merge(event)
            if key in own or (merge and merges):
                _refuse(f"{key!r} is given twice", event)
            value_event = next(self._events)
            value = self._value(value_event, depth + 1)
            if merge:
                merges, merged = True, _merged(value, value_event)
            else:
                own[key] = value
        return {**merged, **own}

    def _key(self, event: Any) -> str:
        """A key, as written."""
        if not isinstance(event, yaml.ScalarEvent):
            _refuse(f"a {_kind(event)} cannot be a key", event)
        _refuse_tag(event)
        key = _text(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = key, 1
        return key

    def _aliased(self, event: Any, depth: int) -> Any:
        """A copy of the value that an alias refers to."""
        if event.anchor not in self._anchors:
            _refuse(f"there is no anchor &{event.anchor} before this alias, or the alias is inside it", event)
        value, size = self._anchors[event.anchor]
        self._charge(size, event)
        return _copied(value, depth, event)

    def _charge(self, values: int, event: Any) -> None:
        self._left -= values
        if self._left < 0:
            _refuse(f"more than {MAX_VALUES} values after aliases are expanded; make the file smaller", event)


def _scalar(event: Any) -> Any:
    """A scalar as a number, a boolean or null if it is plain and looks like one, else as text."""
    text = _text(event)
    if not event.implicit[0]:  # in quotes
        return text
    if text in WORDS:
        return WORDS[text]
    if text[0] not in NUMERIC:
        return text
    if INT.fullmatch(text):
        return _int(text, event)
    return _float(text, event) if FLOAT.fullmatch(text) else text


def _int(text: str, event: Any) -> _Int:
    digits = text.replace("_", "")
    if len(digits) <= MAX_DIGITS:
        number = _Int(digits, 0 if re.match("[-+]?0[xo]", digits) else 10)
        if abs(number) <= LARGEST:
            number.spelling = text
            return number
    _refuse(f"a whole number is at most {LARGEST} (64 bits)", event)


def _float(text: str, event: Any) -> _Float | str:
    if len(text) > MAX_DIGITS:
        _refuse(f"a number has at most {MAX_DIGITS} characters", event)
    number = _Float(re.sub(r"_|\.(?=[a-zA-Z])", "", text))
    if math.isinf(number) and text[-1].isdecimal():
        return text  # a name, such as 12e4567
    number.spelling = text
    return number


def _text(event: Any) -> str:
    """The text of a scalar; escapes in double quotes may produce unprintable characters, which are
    refused."""
    text = str(event.value)
    if (found := UNPRINTABLE.search(text)) is not None:
        _refuse(_unprintable(found[0]), event)
    return text


def _is_merge(event: Any) -> bool:
    return bool(event.value == MERGE and event.implicit[0])


def _merged(value: Any, event: Any) -> dict[str, Any]:
    """The mapping that a merge key adds; of several mappings, the first one with a key wins."""
    sources = value if isinstance(value, list) else [value]
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        if not isinstance(source, dict):
            _refuse(f"{MERGE} merges mappings: write {MERGE}: *name, or {MERGE}: [*one, *other]", event)
        merged |= source
    return merged


def _size(value: Any) -> int:
    """The number of values, including nested ones."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, inside))


def _copied(value: Any, depth: int, event: Any) -> Any:
    """A deep copy of lists and mappings."""
    _check_depth(depth, event)
    if isinstance(value, dict):
        return {name: _copied(item, depth + 1, event) for name, item in value.items()}
    return [_copied(item, depth + 1, event) for item in value] if isinstance(value, list) else value


def _check_depth(depth: int, event: Any) -> None:
    if depth > MAX_DEPTH:
        _refuse(f"more than {MAX_DEPTH} levels of nesting", event)


def _refuse_tag(event: Any) -> None:
    if event.tag is not None:
        tag = str(event.tag).replace(TAG, "!!")
        _refuse(f"the tag {tag[:80]!r} is not supported: leave it out, and quote text", event)


def _refuse(problem: str, event: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _unprintable(character: str) -> str:
    return f"{spelt(character)} is a character that cannot be shown: leave it out"


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("StartEvent").removesuffix("Event").lower()


def _place(text: str, mark: Any) -> tuple[str, str]:
    """`, line 3, column 1`, and advice if a tab is there."""
    if mark is None:
        return "", ""
    lines = text.rstrip("\n").split("\n")
    line = min(mark.line, len(lines) - 1)  # at the end the parser is past the last line
    column = mark.column if line == mark.line else len(lines[line])
    tab = "; YAML takes no tabs, indent with spaces" if lines[line][column : column + 1] == "\t" else ""
    return f", line {line + 1}, column {column + 1}", tab


def _bytes(file: Path) -> bytes:
    """The bytes of a regular file; pipes and devices, which may block or never end, are refused."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{file} cannot be read: it is a folder, a pipe or a device, not a file")
        if about.st_size > MAX_BYTES:
            raise InputError(f"{file} has {about.st_size} bytes; at most {MAX_BYTES} are read")
        return os.read(descriptor, MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _decoded(data: bytes, file: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise InputError(f"{file} cannot be read: it is UTF-16 (or not text); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start : error.start + 1]
        raise InputError(
            f"{file}, line {line}: cannot be read: byte 0x{byte.hex()} is not UTF-8 (in Latin-1 it is "
            f"{byte.decode('latin-1')!r}); save the file as UTF-8"
        ) from None
