"""The token that opens a Ray cluster: where it is found, and what is told when it is missing or another's."""

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
OTHERS = 0o077  # the bits of a file's mode that let others in
MODE = "RAY_AUTH_MODE"


@dataclass(frozen=True)
class Token:
    """The token that Ray itself would use, and where it was looked for; None where there is none."""

    value: str | None
    found: str

    @property
    def header(self) -> dict[str, str]:
        """What a request carries to show the token."""
        return {"authorization": f"Bearer {self.value}"} if self.value else {}

    def refused(self, where: str) -> InputError:
        """What to tell when the cluster at `where` does not take it."""
        if self.value is None:
            return InputError(
                f"the cluster at {where} wants a token: put the one that it was started with into "
                f"{self.found} (readable by you alone) or into RAY_AUTH_TOKEN"
            )
        return InputError(
            f"the cluster at {where} refuses the token in {self.found}: it was started with another one"
        )


def find_token() -> Token:
    """RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token: Ray's own order. None if
    RAY_AUTH_MODE says that tokens are not used."""
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
    """Have a token for a Ray on this machine that only this user can read: Ray itself would make one that
    everyone on the machine can. What to tell the user, if one was replaced or ought to be; None otherwise.

    Raises OSError if no file can be written.
    """
    if os.environ.get(MODE, "token") != "token" or os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return None
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):  # its owner decides what it says
        return f"others can read {named}: chmod 600 {named}" if _is_readable_by_others(Path(named)) else None
    file = Path("~/.ray/auth_token").expanduser()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
        with suppress(PermissionError):  # it is another user's
            file.parent.chmod(0o700)
        exposed = _is_readable_by_others(file)
        if exposed or find_token().value is None:
            _write(file, secrets.token_hex(32))
    if exposed:
        return (
            f"others could read {file}: it is another one now, and clusters that know the old one refuse it"
        )
    return None


def _is_readable_by_others(file: Path) -> bool:
    """Whether its mode lets others read a token, or write one."""
    try:
        return bool(file.stat().st_mode & OTHERS)
    except FileNotFoundError:
        return False


def _write(file: Path, token: str) -> None:
    """Write a file that is never anybody else's to read, whole or not at all."""
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
    """Have Ray show the token wherever there is one; a cluster without tokens does not mind. To be called
    before `import ray`, which looks once."""
    if find_token().value is not None:
        os.environ.setdefault(MODE, "token")


def check_token(address: str) -> None:
    """InputError if the Ray cluster at `host:port` does not take our token. Whatever else is wrong there is
    left to Ray, which would try for twenty seconds and then not say why."""
    import grpc  # as ray needs it

    token = find_token()
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=ANSWER_SECONDS, metadata=tuple(token.header.items()))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise token.refused(address) from None
