"""The golden file of keys and defaults: a change of meaning must raise a version. `make golden` writes it.

It refuses to overwrite a default that changed without a raised version, since results of the old default would be served.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec
from trainers import Budget, EvaluationSpec, Plugin, Spec, TrainSpec
from trainers.spec import identity

FILE = Path(__file__).with_name("golden.json")
SOURCE = {"kind": "digits", "fingerprint": "0" * 32}


def current() -> dict[str, dict[str, Any]]:
    """Every spec that can be created without arguments: its version, key and defaults."""
    found: dict[str, Spec] = {
        "budget": Budget(),
        "evaluation": EvaluationSpec(),
        "train": TrainSpec(),
        "data": DataSpec.parse({"source": SOURCE}, "golden"),
        "trial": TrialSpec.parse({"data": {"source": SOURCE}}, "golden"),
    }
    for family, base in Plugin.families.items():
        for kind, member in base.registry.items():
            required = {
                name: member.smoke.get(name, name)
                for name, field in member.model_fields.items()
                if field.is_required() or name == "digest"
            }
            promise = {"fingerprint": "0" * 32} if family == "source" else {}
            found[f"{family}.{kind}"] = member.parse({**required, **promise}, "golden")
    return {
        name: {
            "version": spec.version,
            "key": spec.key,
            "defaults": {field: identity(v) for field, v in spec},
        }
        for name, spec in sorted(found.items())
    }


def changed_in_silence(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> list[str]:
    """Names whose key or one of whose defaults changed although their version did not."""
    return [
        name
        for name in old.keys() & new.keys()
        if old[name]["version"] == new[name]["version"]
        and any(
            _unversioned(new[name]["defaults"].get(f, "gone")) != _unversioned(v)
            for f, v in old[name]["defaults"].items()
        )
    ]


def _unversioned(default: Any) -> Any:
    """A default without the raised versions inside it, which change the key anyway."""
    if isinstance(default, dict):
        return {name: _unversioned(value) for name, value in default.items() if name != "version"}
    return [_unversioned(value) for value in default] if isinstance(default, list) else default


if __name__ == "__main__":
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    silent = changed_in_silence(before, current())
    if silent:
        sys.exit(f"a default changed without a raised version: {', '.join(sorted(silent))}")
    FILE.write_text(json.dumps(current(), indent=1, ensure_ascii=False) + "\n")
