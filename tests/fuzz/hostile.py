"""Contents of damaged and hostile files: a real file with changed bytes or replaced values."""

from __future__ import annotations

import copy
import json
import os
from contextlib import suppress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from orchestrator.storage.records import digest_of

LONG = ("history", "curves", "fields")  # fields with digests of their own
MORE = float(os.environ.get("OPSCTL_FUZZ", "1"))  # how many times as many inputs as in `make test`
TEXTS = (
    "",
    " ",
    ".",
    "..",
    "../../victim/new",
    "/tmp/opsctl-victim",
    "data/../../victim/canary",
    "a\\..\\b",
    "nul\0",
    "\x1b]0;title\x07\x1b[2J",
    "[bold]x[/b]",
    "<script>alert(1)</script>",
    "\\input{/etc/passwd}",
    '=HYPERLINK("http://x")',
    "{{ 7 * 7 }}",
    "%s%n",
    "é\u202e\u2028",
    "\ud800",
    "9" * 400,
    "1e999",  # becomes a number in JSON
    "x" * 200_000,
    "2026-13-45T99:00",
    "0001-01-01T00:00:00+00:00",
)
NESTED: Any = []
for _ in range(150):
    NESTED = [NESTED]
NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, 7.5, -1e-300, 1e308)
HOSTILE = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.sampled_from([None, True, False]),
    st.sampled_from([[], {}, [[]], {"": {}}, NESTED, ["../x"] * 3, {"../x": 1}]),
    st.integers(-3, 300),
    st.floats(0, 1),
)
RAW = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b"\xff\xfe",
    b"{}",
    b"[" * 5000,
    b'{"a":' * 5000,
    b"\0" * 4096,
    b"1e999",
)


def examples(number: int) -> settings:
    """Settings for a number of inputs, always the same ones unless more are requested."""
    return settings(
        max_examples=max(1, int(number * MORE)), deadline=None, derandomize=MORE == 1, database=None
    )


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """A file that was cut off, overwritten in places, doubled, or replaced."""
    how = draw(st.sampled_from(["cut", "flip", "insert", "splice", "raw", "double"]))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if how == "cut":
        return data[:at]
    if how == "flip":
        changed = bytearray(data)
        for place in draw(st.lists(st.integers(0, max(0, len(data) - 1)), min_size=1, max_size=8)):
            if changed:
                changed[place] = draw(st.integers(0, 255))
        return bytes(changed)
    if how == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=64)) + data[at:]
    if how == "splice":
        return data[:at] + data[draw(st.integers(0, len(data))) :]
    return data * 2 if how == "double" else draw(st.sampled_from(RAW))


@st.composite
def changed_json(draw: st.DrawFn, data: bytes) -> bytes:
    """A JSON file in which a few values were replaced, removed or added. Half of them get new digests, as an
    attacker would compute."""
    value = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    if isinstance(value, dict) and "digest" in value and draw(st.booleans()):
        with suppress(TypeError, ValueError):
            value = _resealed(value)
    indent = draw(st.sampled_from([None, 1]))
    return json.dumps(value, indent=indent).replace('"1e999"', "1e999").encode()


def _resealed(value: dict[str, Any]) -> dict[str, Any]:
    """A record with digests that fit it."""
    long = {name: value[name] for name in LONG if name in value}
    short = {name: v for name, v in value.items() if name not in ("digest", *long)}
    short["digests"] = value.get("digests", {}) | {name: digest_of(v) for name, v in long.items()}
    return {**short, "digest": digest_of(short), **long}


def _changed(draw: st.DrawFn, value: Any) -> Any:
    whole = copy.copy(value) if not isinstance(value, dict | list) else copy.deepcopy(value)
    place: Any = whole
    path = []
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        path.append((place, key))
        place = place[key]
        if draw(st.integers(0, 2)) == 0:
            break
    if not path:
        return draw(HOSTILE)
    inside, key = path[-1]
    how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if how == "replace":
        inside[key] = draw(HOSTILE)
    elif how == "remove":
        del inside[key]
    elif isinstance(inside, dict):
        inside[draw(st.sampled_from(TEXTS))] = draw(HOSTILE)
    else:
        inside.append(draw(HOSTILE))
    return whole


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file, damaged in bytes or in values."""
    return st.one_of(changed_bytes(data), changed_json(data))
