"""A record names the commit of the code, marked if files differ from it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers import provenance


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str | None]:
    """A checkout with one file of ours; call it for the commit that a new process would record."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "poisons").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "poisons" / "ours.py").touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return provenance.commit.__wrapped__


def test_a_commit_is_marked_once_a_file_is_changed_or_added(
    tree: Callable[[], str | None], tmp_path: Path
) -> None:
    clean = tree()
    assert clean is not None
    assert len(clean) == 12
    (tmp_path / "notes.txt").touch()
    assert tree() == clean, "no code"
    mine = tmp_path / "poisons" / "mine.py"
    mine.touch()
    assert tree() == f"{clean}+"
    mine.unlink()
    (tmp_path / "poisons" / "ours.py").write_text("x = 1")
    assert tree() == f"{clean}+"


def test_there_is_no_commit_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit.__wrapped__() is None
    (tmp_path / "pyproject.toml").touch()
    assert provenance.commit.__wrapped__() is None
