"""Layers stay apart, imports stay light, public surfaces stay small."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.planning.snapshot import version_of
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.conftest import ROOT
from tests.orchestrator.sweeps import plan_of, tiny, write
from trainers.probe import Probe

PACKAGES = ("trainers", "poisons", "orchestrator")
HEAVY = {"ray", "mlflow", "torch", "numpy"}


def loaded(code: str) -> set[str]:
    """Top-level modules after running `code` in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('|'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in run.stdout.strip().splitlines()[-1].split("|")}


@pytest.mark.parametrize("package", ["trainers", "poisons"])
def test_a_package_loads_its_names_lazily(package: str) -> None:
    assert (
        not loaded(f"import {package}, {package}.{'stored' if package == 'trainers' else 'records'}") & HEAVY
    )
    assert "torch" in loaded(f"import {package}; [getattr({package}, name) for name in {package}.__all__]")


@pytest.mark.parametrize("package", ["trainers.trial", "poisons.store.store"])
def test_lower_layers_need_no_optional_dependency(package: str) -> None:
    found = loaded(
        f"import {package}; from trainers.spec import Plugin\n[f.registry for f in Plugin.families.values()]"
    )
    assert "torch" in found
    assert not found & {"ray", "mlflow", "typer", "rich", "sklearn", "torchvision", "PIL", "pandas"}


def test_trainers_do_not_import_poisons() -> None:
    assert not loaded("from trainers import *") & {"poisons", "orchestrator"}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["sweep"],
        ["plan"],
        ["status"],
        ["report"],
        ["retry"],
        ["stop"],
        ["track"],
        ["ui"],
        ["kinds"],
        ["doctor"],
    ],
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    found = loaded(
        "import sys\nfrom orchestrator import cli\n"
        f"sys.argv = ['opsctl', *{command!r}, '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass"
    )
    assert "typer" in found
    assert not found & HEAVY


def test_the_status_of_a_sweep_imports_nothing_heavy(tmp_path: Path) -> None:
    """It does not open the store either: importing torch takes longer than reading thousands of results."""
    store, file = Store(tmp_path / "store"), write(tmp_path, tiny())
    plan_of(tiny(), store).snapshot.keep(Ledger(store.where).storage, version_of(file) or "")
    for command in (["status", str(file)], ["report", str(file)], ["stop", str(file)], ["stop", "--all"]):
        found = loaded(
            "import sys\nfrom orchestrator import cli\n"
            f"sys.argv = ['opsctl', *{command!r}, '--store', {store.where!r}]\n"
            "try:\n    cli.main()\nexcept SystemExit:\n    pass"
        )
        assert "rich" in found
        assert not found & (HEAVY | {"yaml", "fsspec"})


def test_planning_needs_no_ray_and_no_mlflow() -> None:
    assert not loaded(
        "import orchestrator.planning.plan, orchestrator.report, orchestrator.execution.trial"
    ) & {
        "ray",
        "mlflow",
    }


@pytest.mark.parametrize("package", ["trainers", "poisons"])
def test_the_public_interface_is_small_and_exists(package: str) -> None:
    module = importlib.import_module(package)
    assert 0 < len(module.__all__) <= 10
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_orchestrator_names_no_probe() -> None:
    """The file of a probe describes how its findings are shown."""
    kinds = set(Probe.registry)
    assert len(kinds) > 5
    for file in (ROOT / "orchestrator").rglob("*.py"):
        constants = {
            node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)
        }
        assert not constants & kinds, file


@pytest.mark.parametrize(
    ("pattern", "alone"),
    [
        (r"rich\.markup|from_markup|\bConsole\(|import .*\bConsole\b", "orchestrator/cli/terminal.py"),
        (
            r"yaml\.(safe_|full_|unsafe_)?load|yaml\.(parse|compose|scan)|yaml\.\w*Loader",
            "trainers/yaml_text.py",
        ),
        (r"endswith\(\W*_?acc\b", "orchestrator/planning/snapshot.py"),
    ],
    ids=["one console", "one reader of YAML", "one rule for accuracies"],
)
def test_only_one_file_matches(pattern: str, alone: str) -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 200
    found = {file.relative_to(ROOT).as_posix() for file in files if re.search(pattern, file.read_text())}
    assert found == {alone}
