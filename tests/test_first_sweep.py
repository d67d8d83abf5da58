"""docs/first_sweep.md works: its files are written and its commands run, in order, in a copy of the packages.

What the page may hold, and a test of a page that holds anything else fails:

- `sh`: commands, a line each. What installs is held against the Makefile and pyproject.toml, all else is run.
- `yaml` and `python` after "Put this in `FILE`:", or after "In `FILE`, write this instead of `LINE`:".
- `text`: lines that the last command prints, in this order; `...` stands for those left out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pages import blocks, installs

PAGE = ROOT / "docs" / "first_sweep.md"
PUT = re.compile(r"[Pp]ut this in `([^`]+)`:$")
INSTEAD = re.compile(r"[Ii]n `([^`]+)`, write this instead of `([^`]+)`:$")
EPOCHS = ("epochs: 8", "epochs: 1")  # the page's commands, an eighth of the page's work
VARIES = (  # between machines, and between this and the page's eight epochs
    (re.compile(r"\b[0-9a-f]{12,}\b"), "KEY"),
    (re.compile(r"\d+\.\d+ ± \d+\.\d+"), "MEAN ± STD"),
    (re.compile(r"\S+ points, 95 % from \S+ to \S+, p = [\d.]+"), "DIFFERENCE"),
    (re.compile(r"(under )?\b[\d.]+ s\b"), "TIME"),
    (re.compile(r"[\s━─-]+"), " "),
)


@dataclass
class Walk:
    """A reader who follows the page in `folder`: counts of commands run and only read, and the last output."""

    folder: Path
    env: dict[str, str]
    ran: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    compared: int = 0
    said: str = ""

    def command(self, line: str) -> None:
        if installs(line):
            self.seen.append(line)
            return
        run = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=900
        )
        assert run.returncode == 0, f"{line}\n{run.stdout}\n{run.stderr}"
        self.ran.append(line)
        self.said = run.stdout

    def file(self, before: str, text: str) -> None:
        if put := PUT.search(before):
            (self.folder / put[1]).write_text(text.replace(*EPOCHS))
            self.written.append(put[1])
            return
        instead = INSTEAD.search(before)
        assert instead, f"no file is named before this block, but {before!r}:\n{text}"
        file, found = self.folder / instead[1], instead[2]
        lines = file.read_text().split("\n")
        (at,) = [i for i, line in enumerate(lines) if line.strip() == found]
        file.write_text("\n".join([*lines[:at], *text.rstrip("\n").split("\n"), *lines[at + 1 :]]))
        self.written.append(instead[1])

    def output(self, text: str) -> None:
        rest = iter(list(varied(self.said)))
        for line in varied(text):
            assert line == "..." or line in rest, (
                f"{self.ran[-1]} does not print (here) {line!r}:\n{self.said}"
            )
        self.compared += 1


def varied(text: str) -> Iterator[str]:
    """The lines without the parts that vary; `line in iterator` then finds them in order."""
    for line in text.splitlines():
        for pattern, name in VARIES:
            line = pattern.sub(name, line)
        yield line.strip()


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    """A copy of the files that the commands need, with `opsctl` and `python` that use it."""
    folder, programs = tmp_path / "opsctl", tmp_path / "bin"
    for name in ("trainers", "poisons", "orchestrator", "tests"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    programs.mkdir()
    for name, does in {"opsctl": "-m orchestrator ", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {does}"$@"\n')
        (programs / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPSCTL_")}
    path = {"PATH": f"{programs}{os.pathsep}{env['PATH']}", "PYTHONPATH": str(folder), "COLUMNS": "100"}
    return Walk(folder, {**env, **path})


@pytest.mark.slow
def test_the_tutorial_leads_to_a_report_on_a_new_poison(walk: Walk) -> None:
    for block in blocks(PAGE):
        if block.language == "sh":
            for line in block.commands:
                walk.command(line)
        elif block.language == "text":
            walk.output(block.text)
        else:
            assert block.language in ("yaml", "python"), (
                f"this block is neither run nor checked:\n{block.text}"
            )
            walk.file(block.before, block.text)
    assert walk.written == ["first.yaml", "poisons/methods/stripes.py", "first.yaml"]
    assert (len(walk.ran), len(walk.seen), walk.compared) == (17, 3, 9)
    assert '"poison.stripes"' in (walk.folder / "tests" / "golden.json").read_text()
    assert EPOCHS[1] in (walk.folder / "first.yaml").read_text(), "the sweep was reduced"


def test_names_in_the_text_of_the_tutorial_exist() -> None:
    page = PAGE.read_text()
    targets = re.findall(r"`(make \w+)`", page)
    assert targets
    assert all(map(installs, targets))
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    files = re.findall(r"`((?:sweeps|tests)/[\w./]+)`", page)
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_poison_of_the_tutorial_follows_the_style() -> None:
    """Code that readers copy keeps the line length, and its first line names the method and its authors."""
    (code,) = (block.text for block in blocks(PAGE) if block.language == "python")
    lines = code.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 110
    assert lines[0].startswith('"""')
