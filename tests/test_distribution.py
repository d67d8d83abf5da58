"""The distribution is `unlearnable-opsctl`; no text recommends `opsctl` on PyPI, which is a foreign project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from orchestrator.storage.url_storage import LIBRARIES
from tests.conftest import ROOT
from trainers.provenance import DISTRIBUTION, OPTIONAL, PACKAGES, opsctl_version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("trainers", "poisons", "orchestrator", "benchmarks", "cluster", "docs", "sweeps", "tests")
KINDS = (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".j2", ".js")
THEIRS = re.compile(r"pip3? +install[^\n`]*?[ '\"]opsctl\b|(?<!unlearnable-)\bopsctl\[")
HINT = re.compile(r"pip3? +install +(?:-c +\S+(?: +|$)|-\S+ +)*+['\"]?([A-Za-z0-9][\w.-]*)", re.M)
OTHERS = {"awscli", "gcsfs", "adlfs"}  # optional, for users of these clouds


def texts() -> dict[Path, str]:
    """All files of the project except this one."""
    files = [file for file in ROOT.iterdir() if file.suffix in KINDS or file.name == "Makefile"]
    files += [file for name in FOLDERS for file in (ROOT / name).rglob("*") if file.suffix in KINDS]
    return {file: file.read_text() for file in files if file != Path(__file__)}


def libraries() -> set[str]:
    """The names of all dependencies, including optional ones."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.split(r"[\[><=!~ ]", wanted)[0] for group in groups for wanted in group}
    return {name.lower() for name in names} | OTHERS


def test_no_text_recommends_the_foreign_distribution() -> None:
    found = texts()
    assert len(found) > 300
    hints = {f"{file}: {hint[0]}" for file, text in found.items() for hint in THEIRS.finditer(text)}
    assert not hints


def test_hints_name_libraries_that_the_project_uses() -> None:
    hints = {hint[1].lower() for text in texts().values() for hint in HINT.finditer(text)}
    assert {"s3fs", "psycopg2-binary", "pyautoattack", "pillow"} <= hints
    assert hints <= libraries()
    assert {*LIBRARIES.values(), *PACKAGES, *OPTIONAL} <= libraries()


def test_the_distribution_has_a_name_of_its_own() -> None:
    assert PROJECT["name"] == DISTRIBUTION == "unlearnable-opsctl"
    assert PROJECT["scripts"] == {"opsctl": "orchestrator.cli:main"}
    assert opsctl_version() == PROJECT["version"]


@pytest.mark.slow
def test_it_runs_beside_another_project_called_opsctl(tmp_path: Path) -> None:
    hatchling = pytest.importorskip(
        "hatchling", reason="building a wheel needs hatchling: pip install hatchling"
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel_of = [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    run(wheel_of, PYTHONPATH=str(Path(hatchling.__file__).parent.parent))
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"unlearnable_opsctl-{PROJECT['version']}-py3-none-any.whl"
    assert "orchestrator/report/html/page.html.j2" in zipfile.ZipFile(wheel).namelist()

    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin" / "python"
    site = next((home / "lib").glob("python*")) / "site-packages"
    wheels = [str(wheel), str(decoy(tmp_path))]
    run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", "--no-compile", *wheels])
    (site / "libraries.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")

    assert run([home / "bin" / "opsctl", "--version"]) == f"opsctl {PROJECT['version']}\n"
    assert "Sweeps over unlearnable examples" in run([home / "bin" / "opsctl", "--help"])
    code = "import orchestrator, trainers.provenance as p; print(orchestrator.__file__, p.opsctl_version())"
    assert run([python, "-c", code]) == f"{site}/orchestrator/__init__.py {PROJECT['version']}\n"


def decoy(folder: Path) -> Path:
    """A wheel of another project called opsctl that fails when it is imported."""
    file, about = folder / "opsctl-9.9-py3-none-any.whl", "opsctl-9.9.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("opsctl/__init__.py", "raise SystemExit('this is another project')\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: opsctl\nVersion: 9.9\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    return file


def run(command: Sequence[str | Path], **variables: str) -> str:
    """The output of a command whose environment has nothing of this project except these variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPSCTL"))}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd="/", env=clean | variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
