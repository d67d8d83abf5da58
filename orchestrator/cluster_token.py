"""The token that opens a Ray cluster: where it is found, and what is told when it is missing or another's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trainers import InputError

ANSWER_SECONDS = 10
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
