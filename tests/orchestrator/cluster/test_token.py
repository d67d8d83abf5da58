"""The Ray token on this machine is readable only by its user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.token import find_token, make_private_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_token_is_created_private(home: Path) -> None:
    assert make_private_token() is None
    assert (mode(home / ".ray"), mode(home / ".ray" / "auth_token")) == (0o700, 0o600)
    token = find_token().value
    assert token is not None
    assert len(token) == 64
    assert make_private_token() is None
    assert find_token().value == token, "the next sweep uses the same"


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o620, 0o604])
def test_a_token_that_others_could_read_is_replaced_with_a_warning(home: Path, bits: int) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir(mode=0o755)
    file.write_text("known to others")
    file.chmod(bits)
    warning = make_private_token()
    assert warning is not None
    assert f"other users could read {file}" in warning
    assert (mode(home / ".ray"), mode(file)) == (0o700, 0o600)
    assert find_token().value != "known to others"
    assert make_private_token() is None
    assert sorted(path.name for path in file.parent.iterdir()) == ["auth_token", "auth_token.lock"]


def test_a_private_token_is_kept(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("private")
    file.chmod(0o600)
    assert make_private_token() is None
    assert find_token().value == "private"


def test_a_token_file_that_the_user_named_is_never_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "named"
    file.write_text("mine")
    file.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert make_private_token() == f"other users can read {file}: run chmod 600 {file}"
    assert file.read_text() == "mine"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert make_private_token() is None
    assert not (home / ".ray").exists()


def test_no_token_is_created_if_tokens_are_disabled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert make_private_token() is None
    assert not (home / ".ray").exists()
