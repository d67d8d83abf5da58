"""Where and with which software something was computed: part of records, never of keys."""

from __future__ import annotations

import platform
import subprocess
import tomllib
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DISTRIBUTION = "unlearnable-opsctl"  # the name `opsctl` is another project's on PyPI
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "pillow",
    "ray",
    "mlflow",
)
OPTIONAL = ("pyautoattack",)
ROOT = Path(__file__).parent.parent
OURS = ("trainers", "poisons", "orchestrator")  # folders with our code


def environment() -> dict[str, Any]:
    """Commit, host, time (UTC) and versions, as JSON types."""
    versions = {"opsctl": opsctl_version(), **{name: installed(name) for name in PACKAGES + OPTIONAL}}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "commit": commit(),
        "versions": {name: found for name, found in versions.items() if found},
    }


@cache
def opsctl_version() -> str | None:
    """The version of the installed package, or of the source tree that runs."""
    if (found := installed(DISTRIBUTION)) is not None or not (ROOT / "pyproject.toml").exists():
        return found
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def installed(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """The git commit of this source tree, with `+` if files were changed or added since; None outside a
    checkout."""
    if not (ROOT / "pyproject.toml").exists():
        return None  # an installed package, maybe inside another repository
    described = _git("describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    if (
        described
        and not described.endswith("+")
        and _git("ls-files", "--others", "--exclude-standard", *OURS)
    ):
        return f"{described}+"
    return described or None


def _git(*words: str) -> str:
    """git's output for this source tree; empty if git fails."""
    try:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()
