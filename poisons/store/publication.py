"""The public part of a data set's record: what the images are and how they were made, but nothing about the
machine or the person that made them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

ENVIRONMENT = ("time", "python", "commit", "versions")  # without the host's name
AS_THEY_ARE = ("class_names", "skipped")  # names from the source, relative to its folder
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
QUOTED = re.compile(r"(['\"])((?:file://)?[~/][^'\"\n]*/[^'\"\n]*)\1")
PATH = re.compile(r"(?<![\w/.:~*-])(?:~[\w.-]*)?/[^\s'\"`,;()<>]*/?[^\s'\"`,;:()<>]+|\b[A-Za-z]:\\[^\s'\"]+")


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without absolute paths, credentials and host name. The last part of a path stays, and a URL
    without user, password and query."""
    host = str(record.get("environment", {}).get("host", ""))
    found = {
        name: value if name in AS_THEY_ARE else _public(value, host)
        for name, value in record.items()
        if name != "environment"
    }
    known = record.get("environment")
    if known is not None:
        found["environment"] = {name: known[name] for name in ENVIRONMENT if name in known}
    return found


def public_text(text: str, host: str = "") -> str:
    """A text without absolute paths, credentials and the host's name."""
    urls: list[str] = []

    def keep(match: re.Match[str]) -> str:
        urls.append(_public_url(match[0]))
        return f"\0{len(urls) - 1}\0"

    text = URL.sub(keep, text.replace("\0", ""))
    text = QUOTED.sub(lambda match: f"{match[1]}{_last(match[2])}{match[1]}", text)
    text = PATH.sub(lambda match: _last(match[0]), text)
    if len(host) > 2:
        text = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "[host]", text)
    return re.sub("\0([0-9]+)\0", lambda match: urls[int(match[1])], text)


def _public(value: Any, host: str) -> Any:
    if isinstance(value, str):
        whole = value.startswith(("/", "~")) or PureWindowsPath(value).is_absolute()
        return _last(value) if whole and "\n" not in value else public_text(value, host)
    if isinstance(value, Mapping):
        return {name: _public(item, host) for name, item in value.items()}
    return [_public(item, host) for item in value] if isinstance(value, list | tuple) else value


def _public_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(URL)"
    if parts.scheme == "file":
        return _last(parts.path)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _last(path: str) -> str:
    """The last part of a path."""
    name = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
    return name or "(root)"
