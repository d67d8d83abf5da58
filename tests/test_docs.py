"""The examples in README.md and docs/ work: sweeps are planned, and commands run or, if they need a cluster, parse.
docs/first_sweep.md is tested in test_first_sweep.py."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.expansion import expand
from orchestrator.planning.probes import metrics_found
from orchestrator.planning.spec import SweepSpec
from orchestrator.planning.sweep_file import load
from tests.conftest import ROOT, Opsctl, finish, start
from tests.pages import Block, blocks, check_command, check_options, installs, prose
from trainers import TrainSpec
from trainers.spec import plain
from trainers.yaml_text import parse_yaml, plain_numbers

OTHERS = ("api.md", "cli.md", "index.md")  # made from the code, or for Sphinx alone
FIRST = ROOT / "docs" / "first_sweep.md"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = [page for page in PAGES if page.name not in OTHERS]
BLOCKS = [block for page in PAGES if page != FIRST for block in blocks(page)]
COMMANDS = [line for block in BLOCKS if block.language == "sh" for line in block.commands]
SWEEPS = [block for block in BLOCKS if block.language == "yaml"]
EM = '{"kind":"em","granularity":"class_wise","generator":{"kind":"resnet18","width":2},"steps":1,"max_rounds":1}'
SMALL = (  # no blanks within a setting
    "seed=[0] train.epochs=1 data.limit=40 evaluation.limit=20 "
    f'data.poison={{"clean":"clean","ops":"ops","em+ops":[{EM},"ops"]}}'
)
RUN_APART = ("sweep", "retry", "track")  # Ray and MLflow: each in a process of its own


def as_sweep(block: Block) -> dict[str, Any]:
    """The sweep in a block, completed if the block is only a part of one."""
    data = parse_yaml(block.text, block.page.name)
    assert isinstance(data, dict)
    base = {name: data.pop(name) for name in ("data", "train", "evaluation") if name in data}
    whole = {"name": "part", "question": "Is it understood?", "grid": {"seed": [0, 1]}, **data}
    return whole | ({"base": base} if base else {})


def test_the_documentation_has_its_pages() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "sweep_file.md", "metrics.md", "store.md", "faults.md", "platforms.md"} <= names
    assert len(SWEEPS) > 8
    assert len(COMMANDS) > 40


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []
    first = "\n".join(lines[:20])
    assert "docs/first_sweep.md" in first


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_fenced_so_that_it_is_tested(page: Path) -> None:
    assert re.findall(r"^(?:    |\t)\S.*", prose(page), re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_are_valid(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    assert [link for link in links if link and "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("block", SWEEPS, ids=lambda block: f"{block.page.stem}-{block.text[:20]!r}")
def test_every_shown_sweep_is_valid(block: Block) -> None:
    """Every network is built on the meta device; images are not opened."""
    pytest.importorskip("timm")
    data = as_sweep(block)
    data = {
        name: part if name in ("grid", "skip", "report") else plain_numbers(part)
        for name, part in data.items()
    }
    sweep = SweepSpec.parse(data, block.page.name)
    assert expand(sweep, block.page.name)
    known = {name for probe in sweep.probes for name in metrics_found(probe)}
    assert {
        name for name in sweep.report.metrics.values() if not name.startswith(("test/", "train/"))
    } <= known


def test_the_sweep_of_the_readme_has_the_stated_number_of_trials() -> None:
    first = next(block for block in SWEEPS if block.page.name == "README.md")
    assert len(first.text.splitlines()) == 12
    assert len(expand(SweepSpec.parse(as_sweep(first), "README"), "README")) == 66


def test_adversarial_inputs_are_crafted_at_the_documented_point() -> None:
    """Before the first augmentation that mixes."""
    (block,) = (block for block in SWEEPS if "label_smoothing" in block.text)
    train = TrainSpec.parse(as_sweep(block)["base"]["train"], block.page.name)
    assert [one.kind for one in train.augmentations[train.before_attack :]] == ["mixup"]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("opsctl ")])
def test_every_shown_command_is_valid(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSCTL_STORE", "s3://YOUR-BUCKET/opsctl")  # as the page of clusters has set it
    check_command(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_commands_in_the_text_exist(page: Path) -> None:
    for span in re.findall(r"`(opsctl [a-z][^`]*)`", prose(page)):
        check_options(span)
    for name in re.findall(r"`(make [a-z-]+)", prose(page)):
        installs(name)


def test_commands_are_skipped_only_for_known_reasons() -> None:
    reasons = {block.not_run for block in BLOCKS if block.not_run}
    assert reasons == {"needs a cluster", "needs cifar10", "a server that stays"}


def test_the_sweeps_of_the_paper_have_the_stated_numbers_of_trials() -> None:
    text = " ".join((ROOT / "docs" / "sweep_file.md").read_text().split())
    assert "The 13 files of `sweeps/paper/` list 352 trials." in text
    assert "and 274 remain when each is counted once" in text
    trials = [
        json.dumps(plain(point.trial))
        for file in sorted((ROOT / "sweeps" / "paper").glob("*.yaml"))
        for point in expand(load(file), file.name)
    ]
    assert (len(trials), len(set(trials))) == (352, 274)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ["README.md", "sweep_file.md", "metrics.md", "faults.md"],
        ["store.md"],
        ["platforms.md"],
        ["security.md"],
    ],
    ids=lambda names: names[0],
)
def test_commands_run(
    names: list[str], opsctl: Opsctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the pages, in a folder with the shipped sweeps and a reduced quickstart."""
    for name in ("sweeps", "results"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "DIR").mkdir()
    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in (block for name in names for block in BLOCKS if block.page.name == name):
        if block.language == "json":
            write_bare(block)
        for line in block.commands if block.language == "sh" and block.not_run is None else []:
            if not installs(line):
                run(line, opsctl, tmp_path, monkeypatch)
                ran += 1
    assert ran >= 1


def run(line: str, opsctl: Opsctl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command as a shell would in `folder`."""
    words = [word for one in shlex.split(line) for word in (sorted(map(str, Path().glob(one))) or [one])]
    program, first, *rest = words
    small = {"OPSCTL_SET": SMALL} if "quickstart" in line and "--set" not in line else {}
    if program == "python":
        result = subprocess.run([sys.executable, first, *rest], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
        return
    assert program == "opsctl", line
    if first in RUN_APART:
        file = (ROOT / rest[0], *rest[1:])
        code, out = finish(start(first, *file, store=folder / "store", **small))
        assert code == 0, f"{line}\n{out}"
        return
    with monkeypatch.context() as patch:
        for name, value in small.items():
            patch.setenv(name, value)
        code, out, err = opsctl(first, *rest)
    assert code == 0, f"{line}\n{out}\n{err}"


def write_bare(block: Block) -> None:
    """The files named on the page about machines without Ray."""
    Path("poison.json").write_text(block.text)
    for name in ("clean", "train"):
        (text,) = re.findall(rf"`(\{{[^`]+\}})` in\s+`{name}.json`", block.page.read_text())
        Path(f"{name}.json").write_text(text)
