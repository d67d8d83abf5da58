"""Removes credentials from URLs and text before they are shown, stored or logged.

Credentials are the password before a host, a token in its place in an http(s) URL, and the values of query
parameters with secret names, including those of signed URLs. Imports nothing heavy.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from trainers.printable import printable

HIDDEN = "***"
USER = re.compile(r"://(?P<name>[^\s/@:?#]*)(?P<password>:(?:(?!://)\S)*)?@")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
LONGEST_SCHEME = 40
DATABASES = ("postgres", "mysql", "mariadb", "mssql", "oracle")  # SQLAlchemy reads `5432/x` as a password
PORT = re.compile(r"\d{1,5}[/?#]")
PARAMETER = re.compile(r"([?&;])([^\s=&;?#'\"]{1,80})=([^\s&;#'\"<>]*)")
SECRET = re.compile(  # in the name of a parameter
    r"passw|passphrase|pwd|secret|token(?!s)|signature|credential|auth(?!or)|session"
    r"|(^|[_.-])key($|[_.-])|(api|access|account|private)[_.-]?key"
)
EXACT = ("pass", "sig", "sas", "code", "pat", "policy", "googleaccessid")
SETTING = re.compile(  # of a connection string, or of an environment
    r"\b(\w*(?:password|passwd|pwd|secret_?key|access_?key|account_?key))=('[^']*'|[^\s&;,'\")]+)",
    re.IGNORECASE,
)
HEADER = re.compile(r"\b(Bearer|Basic) +[A-Za-z0-9+/=._~-]{8,}")


def redacted(text: str) -> str:
    """Text with `***` in place of the credentials of its URLs; other text is unchanged."""
    if "://" in text:
        text = USER.sub(_user, text)
    if "=" in text:
        text = SETTING.sub(rf"\1={HIDDEN}", PARAMETER.sub(_parameter, text))
    return HEADER.sub(rf"\1 {HIDDEN}", text)


def has_credentials(url: str) -> bool:
    """Whether a URL, or text with URLs, contains credentials."""
    return redacted(url) != url


def redacted_data(value: Any) -> Any:
    """A copy of plain data with all text `redacted`."""
    if isinstance(value, dict):
        return {name: redacted_data(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_data(item) for item in value]
    return redacted(value) if isinstance(value, str) else value


def _user(found: re.Match[str]) -> str:
    """The part between `://` and the host, without password or token."""
    before = found.string[max(0, found.start() - LONGEST_SCHEME) : found.start()]
    scheme = SCHEME.search(before)
    name, password = found["name"], found["password"]
    if scheme is None:
        return found[0]
    if scheme[0].lower() in ("http", "https"):
        is_path = password is not None and PORT.match(password[1:])  # http://host:80/a@b
        return found[0] if is_path else f"://{HIDDEN}@"
    if password is None:  # a name, as in s3fs, adlfs and ssh
        return found[0]
    if PORT.match(password[1:]) and not scheme[0].lower().startswith(DATABASES):
        return found[0]
    return f"://{name}:{HIDDEN}@"


def _parameter(found: re.Match[str]) -> str:
    name = unquote(found[2]).lower()
    if name in EXACT or SECRET.search(name):
        return f"{found[1]}{found[2]}={HIDDEN}"
    return found[0]


def shown(text: object) -> str:
    """Anything, such as an error, as text that is safe to show."""
    return printable(redacted(str(text)))
