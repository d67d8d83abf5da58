"""The token that opens a Ray on this machine is readable by its user alone."""

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


def test_a_new_one_is_readable_by_its_user_alone_from_the_beginning(home: Path) -> None:
    assert make_private_token() is None
    assert (mode(home / ".ray"), mode(home / ".ray" / "auth_token")) == (0o700, 0o600)
    token = find_token().value
    assert token is not None
    assert len(token) == 64
    assert make_private_token() is None
    assert find_token().value == token, "the next sweep uses the same"


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o620, 0o604])
def test_one_that_others_could_read_is_another_one_and_said(home: Path, bits: int) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir(mode=0o755)
    file.write_text("known to others")
    file.chmod(bits)
    warning = make_private_token()
    assert warning is not None
    assert f"others could read {file}" in warning
    assert (mode(home / ".ray"), mode(file)) == (0o700, 0o600)
    assert find_token().value != "known to others"
    assert make_private_token() is None
    assert sorted(path.name for path in file.parent.iterdir()) == ["auth_token", "auth_token.lock"]


def test_a_private_one_is_kept(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("private")
    file.chmod(0o600)
    assert make_private_token() is None
    assert find_token().value == "private"


def test_one_that_its_user_named_is_never_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "named"
    file.write_text("mine")
    file.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert make_private_token() == f"others can read {file}: chmod 600 {file}"
    assert file.read_text() == "mine"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert make_private_token() is None
    assert not (home / ".ray").exists()


def test_without_tokens_none_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert make_private_token() is None
    assert not (home / ".ray").exists()
