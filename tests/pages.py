"""The code blocks of the documentation, and how their commands are run."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer.main
from typer.core import TyperGroup

from orchestrator.cli.app import app
from tests.conftest import ROOT

FENCE = re.compile(
    r"^(?P<before>[^\n]*)\n\n?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
NOT_RUN = re.compile(r"<!-- not run: (.+) -->$")
LANGUAGES = ("sh", "yaml", "json", "python", "text")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the line before it."""

    page: Path
    before: str
    language: str
    text: str

    @property
    def not_run(self) -> str | None:
        """Why its commands are not run, from a comment `<!-- not run: needs a cluster -->` before it."""
        found = NOT_RUN.search(self.before)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """The lines of a block of commands, without comments."""
        lines = (re.sub(r"(^|\s+)#.*", "", line) for line in self.text.splitlines())
        return [line for line in lines if line]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page. AssertionError if one is not found or its language has no test."""
    text = page.read_text()
    found = list(FENCE.finditer("\n\n" + text))
    assert 2 * len(found) == text.count("\n```"), f"{page}: every block is found"
    for one in found:
        assert one["language"] in LANGUAGES, f"{page}: this block has no test:\n{one['text']}"
        yield Block(page, one["before"], one["language"], one["text"])


def prose(page: Path) -> str:
    """The text of a page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def installs(line: str) -> bool:
    """Whether a command installs something. AssertionError if the repository does not offer it."""
    first, *words = shlex.split(line)
    if first == "make":
        assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif first == "pip":
        assert words[:3] == ["install", "-c", "constraints.txt"], line
        assert (ROOT / "constraints.txt").exists()
        extra = re.fullmatch(r"\.\[(\w+)\]", words[-1])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert extra, line
        assert extra[1] in project["optional-dependencies"], line
    else:
        return line in ("python3 -m venv .venv", ". .venv/bin/activate")
    return True


def command_of(words: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    """The command of `opsctl` that these words name, and its arguments. AssertionError if there is none."""
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"opsctl has no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_command(line: str) -> None:
    """Raise click's UsageError, or AssertionError, if `opsctl ...` would refuse the command line."""
    command, arguments = command_of(shlex.split(line)[1:])
    command.make_context("opsctl", arguments)


def check_options(line: str) -> None:
    """Raise AssertionError if a command of `opsctl`, whose arguments may be missing, has no such option."""
    command, arguments = command_of(line.split()[1:])
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    assert {word for word in arguments if word.startswith("--")} <= known, line
