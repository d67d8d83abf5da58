"""Sweep files are read literally: YAML 1.2, keys as text, numbers that keep their spelling."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainers import InputError
from trainers.yaml_text import (
    MAX_BYTES,
    MAX_VALUES,
    _Document,
    parse_yaml,
    plain_numbers,
    read_yaml,
    spelling,
)

TAGS = (
    ("!!timestamp", "x"), ("!!bool", "x"), ("!!bool", "true"), ("!!int", "1"), ("!!float", "1"), ("!!null", "x"),
    ("!!map", "[1]"), ("!!set", "{a, b}"), ("!!omap", "[a: 1]"), ("!!binary", "aGk="), ("!!str", "1"), ("!", "x"),
    ("!local", "x"), ("!!python/object/apply:os.system", "[ls]"),
)  # fmt: skip


@pytest.mark.parametrize(
    "text", ["on", "off", "yes", "no", "y", "N", "2026-11-28", "12:30", "1.2.3", "8/255", "12e4567"]
)
def test_text_is_read_as_text(text: str) -> None:
    assert parse_yaml(f"[{text}]", "test") == [text]
    assert parse_yaml(f"{{{text}: 1}}", "test") == {text: 1}


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("-1.5e+3", -1500.0), (".5", 0.5), ("1.", 1.0), ("0.10", 0.1), ("010", 10), ("0x1F", 31), ("0o17", 15), ("1_000", 1000)],
)  # fmt: skip
def test_numbers_are_read_as_numbers_and_keep_their_spelling(text: str, number: float) -> None:
    (found,) = parse_yaml(f"[{text}]", "test")
    assert found == number
    assert spelling(copy.deepcopy(found)) == text
    assert [type(value) for value in plain_numbers([found, {"a": found}])] == [type(number), dict]
    assert spelling(plain_numbers(found)) is None


def test_other_scalars_are_as_in_json() -> None:
    assert parse_yaml("[true, False, null, ~, '1', \"on\", '']", "test") == [
        True,
        False,
        None,
        None,
        "1",
        "on",
        "",
    ]


def test_keys_are_text_as_they_are_written() -> None:
    found = parse_yaml("{1e-3: a, 16: b, null: c, true: d, off: e}", "test")
    assert list(found) == ["1e-3", "16", "null", "true", "off"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"{tag} {value}", f"the tag '{tag}' is not supported: leave it out") for tag, value in TAGS),
        ("{!!str a: 1}", "the tag '!!str' is not supported"),
        ("{[1]: 2}", "a sequence cannot be a key"),
        ("{<<: {[1]: 2}}", "a sequence cannot be a key"),
        ("{a: 1, a: 2}", "'a' is given twice"),
        ("9223372036854775808", "a whole number is at most 9223372036854775807"),
        ("0x" + "F" * 5000, "a whole number is at most 9223372036854775807"),
        ("0o7777777777777777777777", "a whole number is at most 9223372036854775807"),
        ("-9223372036854775809", "a whole number is at most 9223372036854775807"),
        ("[1, [2, " + "9" * 5000 + "]]", "a whole number is at most 9223372036854775807"),
        ("1_" * 300 + "0", "a whole number is at most 9223372036854775807"),
        ("1." + "0" * 500, "a number has at most 400 characters"),
        ("[" * 5000, "more than 100 levels"),
        ("{a: " * 5000, "more than 100 levels"),
        ("&a [*a]", "there is no anchor &a before this alias, or the alias is inside it"),
        ("*a", "there is no anchor &a before this"),
        ("{<<: 1}", "<< merges mappings"),
        ("{<<: [1]}", "<< merges mappings"),
        ("{<<: {a: 1}, <<: {b: 1}}", "'<<' is given twice"),
        (r'"\x1b[2J"', r"\\x1b is a character that cannot be shown"),
        (r'{"a\0": 1}', r"\\x00 is a character that cannot be shown"),
        (r'"\u202e"', r"\\u202e is a character that cannot be shown"),
    ],
)
def test_errors_name_their_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"test, line 1, column \d+: .*{message}"):
        parse_yaml(text, "test")


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x07", "\r", "\x7f", "\x9b", "\u2028", "\ud800"])
def test_an_unprintable_character_is_refused(character: str) -> None:
    with pytest.raises(
        InputError, match=r"test, line 2: \\[xu][0-9a-f]+ is a character that cannot be shown"
    ):
        parse_yaml(f"a: 1\nb: x{character}y\n", "test")


def test_text_of_several_lines_and_tabs_within_it_is_text() -> None:
    assert parse_yaml("a: |\r\n  one\r\n  two\r\nb: 'x\ty'\r\n", "test") == {"a": "one\ntwo\n", "b": "x\ty"}


def test_there_is_one_document() -> None:
    assert parse_yaml("---\na: 1\n...\n", "test") == {"a": 1}
    assert parse_yaml("", "test") is None
    assert parse_yaml("# nothing\n", "test") is None
    with pytest.raises(InputError, match="line 2, column 1: a second document begins here"):
        parse_yaml("a: 1\n--- {b: 2}\n", "test")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {
    "aliases of aliases": LAUGHS,
    "merges of merges": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 200)),
    "one large mapping, merged often": f"a: &a {{{', '.join(f'k{i}: 0' for i in range(20_000))}}}\nb: {{<<: [{'*a, ' * 100_000}]}}\n",
    "merges below each other": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: *a{i - 1}}}\n" for i in range(1, 2_000)),
    "lists around each other": "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300)),
    "a list": f"[{'1,' * 400_000}]",
    "lists in a list": f"[{'[],' * 300_000}]",
    "a mapping": "".join(f"k{i}: 0\n" for i in range(90_000)),
    "anchors": "".join(f"- &a{i} 0\n" for i in range(80_000)),
    "brackets": "[" * 900_000,
    "braces": "{a: " * 200_000,
    "dashes": "- " * 400_000,
    "question marks": "? " * 400_000,
    "one number": "9" * 900_000,
    "one hexadecimal number": "0x" + "F" * 900_000,
    "one float": "." + "1" * 900_000,
    "a comment": "#" * 900_000,
    "an open quotation": '"' + "x" * 900_000,
}  # fmt: skip


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_work_is_bounded_whatever_a_file_holds(text: str) -> None:
    """No more is read than MAX_VALUES, and no more is made of it."""
    assert len(text) < MAX_BYTES
    document, read = _Document(text), 0

    def counted(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
        nonlocal read
        for event in events:
            read += 1
            yield event

    document._events = counted(document._events)
    with suppress(yaml.YAMLError):
        assert values(document.read()) <= MAX_VALUES
    assert read <= 3 * MAX_VALUES, "a key, a value and an end for each value"
    with suppress(InputError):
        parse_yaml(text, "test")


def values(data: Any) -> int:
    inside = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return 1 + sum(map(values, inside))


@pytest.mark.parametrize("text", ["a: &a {x: [1]}\nb: *a\nc: {<<: *a, y: *a}\n"])
def test_every_alias_is_a_copy(text: str) -> None:
    data: Any = parse_yaml(text, "test")
    data["b"]["x"].append(2)
    assert data["a"] == {"x": [1]}
    assert data["c"] == {"x": [1], "y": {"x": [1]}}


def test_pipes_and_devices_are_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="it is a folder, a pipe or a device, not a file"):
            read_yaml(place, "")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "a\0b", "")


def test_merges_of_merges_stay_small() -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40))]
    assert parse_yaml("\n".join(lines), "test")["a39"] == {"x": 1}
    merged: Any = parse_yaml("{a: &a {x: 1, y: 2}, b: &b {y: 3, z: 4}, c: {<<: [*a, *b], z: 5}}", "test")
    assert merged["c"] == {"x": 1, "y": 2, "z": 5}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("name: é".encode("utf-16"), "it is UTF-16"),
        ("name: a".encode("utf-16-le"), "it is UTF-16"),
        (
            "name: a\nquestion: café?".encode("latin-1"),
            r"line 2: .*byte 0xe9 is not UTF-8 \(in Latin-1 it is 'é'\)",
        ),
    ],
)
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.yaml.* cannot be read: .*save .* as UTF-8") as error:
        read_yaml(tmp_path / "a.yaml", "")
    assert error.match(message)
    (tmp_path / "a.yaml").write_bytes("\ufeffname: é".encode())
    assert read_yaml(tmp_path / "a.yaml", "") == {"name": "é"}
