"""Small sweeps that tests run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.spec import SweepSpec
from poisons import Store

TRAIN = {
    "architecture": "lenet5",
    "epochs": 2,
    "batch_size": 32,
    "augmentations": [],
    "schedule": "one_cycle",
}


def tiny(**changes: Any) -> dict[str, Any]:
    """{clean, ops} x 2 seeds of LeNet-5 on 60 digits: a second of work."""
    return {
        "name": "tiny",
        "question": "Does it run?",
        "base": {"data": {"limit": 60}, "train": TRAIN, "evaluation": {"limit": 50}},
        "grid": {"data.poison": ["clean", "ops"], "seed": [0, 1]},
        **changes,
    }


def write(folder: Path, sweep: dict[str, Any]) -> Path:
    file = folder / f"{sweep['name']}.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file


def plan_of(sweep: dict[str, Any], store: Store) -> Plan:
    return make_plan(SweepSpec.parse(sweep, "test"), store, "test")
