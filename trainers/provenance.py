"""Where and with what something was computed: kept in records, never in keys."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "opsctl",
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


def environment() -> dict[str, Any]:
    """Commit, host, time (UTC) and versions, as JSON types."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "commit": commit(),
        "versions": {name: found for name in PACKAGES + OPTIONAL if (found := installed(name))},
    }


def installed(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """The git commit of this source tree, with `+` if files were changed since; None outside a checkout."""
    here = Path(__file__).parent.parent
    if not (here / "pyproject.toml").exists():
        return None  # installed, maybe inside somebody else's repository
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
