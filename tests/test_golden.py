"""Keys do not change: old results are found again and never returned for another spec."""

from __future__ import annotations

import copy
import json

from tests.golden import FILE, changed_in_silence, current


def test_keys_and_defaults_are_as_recorded() -> None:
    recorded = json.loads(FILE.read_text())
    assert len(recorded) > 15
    assert current() == recorded, (
        "if the change is meant: raise the version of what changed, then `make golden`"
    )


def test_a_default_changed_without_a_new_version_is_detected() -> None:
    new = copy.deepcopy(current())
    new["defense.pgd_at"]["defaults"]["steps"] = 7
    assert changed_in_silence(current(), new) == ["defense.pgd_at"]
    new["defense.pgd_at"]["version"] = 2
    assert changed_in_silence(current(), new) == []


def test_a_nested_default_changed_without_a_new_version_is_detected() -> None:
    new = copy.deepcopy(current())
    new["train"]["defaults"]["schedule"]["gamma"] = 0.5
    assert changed_in_silence(current(), new) == ["train"]
    raised = copy.deepcopy(current())
    raised["train"]["defaults"]["augmentations"][0]["version"] = 2
    assert changed_in_silence(current(), raised) == []
