"""Where storage is: a path or an fsspec URL, as users write it.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from orchestrator.storage.storage import FolderStorage, Storage
from trainers.errors import InputError
from trainers.redaction import redacted

CACHE = "OPSCTL_CACHE"  # where this node keeps its copies of stores that lie elsewhere


def open_storage(where: str | Path) -> Storage:
    """The storage at a path, or at any fsspec URL: `s3://bucket/prefix`, `gs://...`, `file:///...`.
    InputError if it cannot be used."""
    if (url := as_url(where)) is None:
        return FolderStorage(local_folder(where))
    from orchestrator.storage.url_storage import UrlStorage  # imports fsspec, which a folder does not need

    return UrlStorage(url)


def local_folder(where: str | Path) -> Path:
    """Where this machine keeps what is local of the store at `where`: the store itself, or, of a URL, a
    folder under $OPSCTL_CACHE (default: ~/.cache/opsctl) that is named after it, but for its credentials."""
    if not str(where).strip():
        raise InputError("the store has no name: write a folder, such as ./opsctl-store, or a URL")
    if (url := as_url(where)) is None:
        return Path(str(where).removeprefix("file://")).expanduser().absolute()
    home = Path(os.environ.get(CACHE) or "~/.cache/opsctl").expanduser().absolute()
    name = redacted(url)
    words = re.sub("[^A-Za-z0-9.]+", "-", name).strip("-")
    return home / f"{words[:80]}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"


def as_url(where: str | Path) -> str | None:
    """The URL, without a slash at its end, or None for what is a path. InputError for half a URL."""
    scheme, mark, rest = str(where).partition(":/")
    if not mark or not re.fullmatch("[a-z][a-z0-9+.-]+", scheme) or scheme == "file":
        return None
    if not rest.startswith("/"):
        url = redacted(f"{scheme}://{rest}")
        raise InputError(f"{url.replace('//', '/', 1)} is neither a path nor a URL; write {url}")
    return f"{scheme}://{rest.strip('/')}"
