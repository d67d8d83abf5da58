"""The authentication token of a Ray cluster: where it is found, and the errors for a missing or wrong one."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trainers import InputError

ANSWER_SECONDS = 10
LOCK_SECONDS = 30
OTHERS = 0o077  # the mode bits that give access to other users
MODE = "RAY_AUTH_MODE"


@dataclass(frozen=True)
class Token:
    """The token that Ray itself would use (None if there is none), and where it was searched."""

    value: str | None
    found: str

    @property
    def header(self) -> dict[str, str]:
        """The request headers with the token."""
        return {"authorization": f"Bearer {self.value}"} if self.value else {}

    def refused(self, where: str) -> InputError:
        """The error if the cluster at `where` rejects the token."""
        if self.value is None:
            return InputError(
                f"the cluster at {where} requires a token: put the one that it was started with into "
                f"{self.found} (readable only by you) or into RAY_AUTH_TOKEN"
            )
        return InputError(
            f"the cluster at {where} refuses the token in {self.found}: it was started with another one"
        )


def find_token() -> Token:
    """The token from RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token, in Ray's own order.
    Its value is None if RAY_AUTH_MODE disables tokens."""
    if os.environ.get(MODE, "token") != "token":
        return Token(None, MODE)
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Token(token, "RAY_AUTH_TOKEN")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        return Token(file.read_text().strip() or None, str(file))
    except FileNotFoundError:
        return Token(None, str(file))


def make_private_token() -> str | None:
    """Ensure that there is a token for Ray on this machine that only this user can read; one that Ray itself
    creates can be read by every user. Returns a warning if a token was or should be replaced, else None.

    Raises OSError if no file can be written.
    """
    if os.environ.get(MODE, "token") != "token" or os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return None
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):  # the user's own file: never written
        return (
            f"other users can read {named}: run chmod 600 {named}"
            if _is_readable_by_others(Path(named))
            else None
        )
    file = Path("~/.ray/auth_token").expanduser()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
        with suppress(PermissionError):  # it belongs to another user
            file.parent.chmod(0o700)
        exposed = _is_readable_by_others(file)
        if exposed or find_token().value is None:
            _write(file, secrets.token_hex(32))
    if exposed:
        return (
            f"other users could read {file}: it now holds a new token, which clusters started with the old "
            "one reject"
        )
    return None


def _is_readable_by_others(file: Path) -> bool:
    """Whether the file's mode gives other users access."""
    try:
        return bool(file.stat().st_mode & OTHERS)
    except FileNotFoundError:
        return False


def _write(file: Path, token: str) -> None:
    """Write a file atomically, readable by this user only at all times."""
    new = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(token)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def use_token() -> None:
    """Make Ray send the token if there is one; a cluster without tokens ignores it. Call this before
    `import ray`, which reads the setting once."""
    if find_token().value is not None:
        os.environ.setdefault(MODE, "token")
