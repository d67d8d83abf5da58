"""The machines that a cluster's autoscaler may add: what Ray's launcher left on the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # as `ray start --autoscaling-config` names it


def promised(file: Path = BOOTSTRAP) -> list[dict[str, float]]:
    """The resources of every machine that may come, one entry a machine; of several kinds each as if it came
    alone. [] where nothing grows, and on any machine but the head."""
    try:
        config = yaml.safe_load(file.expanduser().read_text())
    except (OSError, yaml.YAMLError):
        return []
    kinds: dict[str, dict[str, Any]] = config.get("available_node_types", {})
    most = int(config.get("max_workers", 0))
    machines = []
    for name, kind in kinds.items():
        resources = {key: float(value) for key, value in kind.get("resources", {}).items()}
        if name != config.get("head_node_type") and resources:
            machines += [resources] * min(most, int(kind.get("max_workers", most)))
    return machines
