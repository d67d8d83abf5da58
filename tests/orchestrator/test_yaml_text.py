"""What a sweep file says is what stands in it: YAML 1.2, keys as text, numbers that keep their spelling."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from orchestrator.yaml_text import parse_yaml, plain_numbers, read_yaml, spelling
from trainers import InputError


@pytest.mark.parametrize(
    "text", ["on", "off", "yes", "no", "y", "N", "2026-11-28", "12:30", "1.2.3", "8/255", "12e4567"]
)
def test_what_looks_like_text_is_text(text: str) -> None:
    assert parse_yaml(f"[{text}]", "test") == [text]
    assert parse_yaml(f"{{{text}: 1}}", "test") == {text: 1}


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("-1.5e+3", -1500.0), (".5", 0.5), ("1.", 1.0), ("0.10", 0.1), ("010", 10), ("0x1F", 31), ("0o17", 15), ("1_000", 1000)],
)  # fmt: skip
def test_what_looks_like_a_number_is_one_and_keeps_its_spelling(text: str, number: float) -> None:
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
        ("!!timestamp x", "could not determine a constructor"),
        ("!!bool x", "'x' is not true or false"),
        ("!!int x", "'x' is not a whole number"),
        ("!!float x", "'x' is not a number"),
        ("!!null x", "'x' is not null"),
        ("!!map [1]", "expected a mapping, found a sequence"),
        ("!!bool [1]", "expected a scalar"),
        ("{[1]: 2}", "a sequence cannot be a key"),
        ("{<<: {[1]: 2}}", "a sequence cannot be a key"),
        ("{a: 1, a: 2}", "'a' is given twice"),
        ("9223372036854775808", "a whole number is at most 9223372036854775807"),
        ("0x" + "F" * 5000, "a whole number is at most 9223372036854775807"),
    ],
)
def test_what_means_nothing_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"test, line 1, column \d+: .*{message}"):
        parse_yaml(text, "test")


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
def test_a_file_in_another_encoding_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.yaml.* cannot be read: .*save .* as UTF-8") as error:
        read_yaml(tmp_path / "a.yaml", "")
    assert error.match(message)
    (tmp_path / "a.yaml").write_bytes("\ufeffname: é".encode())
    assert read_yaml(tmp_path / "a.yaml", "") == {"name": "é"}
