"""A planned sweep can be read without planning it again, and its versions are distinguished."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.snapshot import differs, kept_snapshot, version_of
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny, write


def test_a_snapshot_is_read_back_unchanged(store: Store) -> None:
    plan = plan_of(tiny(report={"rows": "data.poison"}), store)
    snapshot, storage = plan.snapshot, Ledger(store.where).storage
    assert kept_snapshot(storage, "v") is None
    snapshot.keep(storage, "v")
    assert kept_snapshot(storage, "v") == snapshot
    assert [entry.key for entry in snapshot.entries] == [task.key for task in plan.tasks]
    assert snapshot.entries[1].name == plan.tasks[1].point.name == "data.poison=clean, seed=1"
    assert (snapshot.row_axes, snapshot.column_axis, snapshot.stops) == (("data.poison",), None, False)


def test_the_units_of_probes_and_trials_are_in_the_snapshot(store: Store) -> None:
    """Also if the name of a probe is a prefix of metrics of trials."""
    probes = ["loss_surface", {"kind": "early_stopping", "name": "test"}]
    snapshot = plan_of(tiny(probes=probes), store).snapshot
    units = {
        "test/clean_acc": "%",
        "test/pgd20_Linf_8_255_acc": "%",
        "train/acc": "%",
        "train/loss": "",
        "test/stopped_acc": "%",
        "test/stopped_epoch": "",
        "loss_surface/sharpness": "nats",
        "loss_surface/another_acc": "",
        "unknown/acc": "",
    }
    assert {metric: snapshot.unit(metric) for metric in units} == units


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "axes": [], "trials": [[]]}']
)
def test_a_malformed_snapshot_is_none(store: Store, text: str) -> None:
    storage = Ledger(store.where).storage
    storage.write("sweeps/v.json", text.encode())
    assert kept_snapshot(storage, "v") is None


def test_text_and_settings_change_the_version_and_run_options_do_not(tmp_path: Path) -> None:
    file = write(tmp_path, tiny())
    plain, one, other = version_of(file), version_of(file, ["seed=[0]"]), version_of(file, ["seed=[1]"])
    assert len({plain, one, other}) == 3
    assert version_of(file, ["run.max_concurrent=2"]) == plain
    assert version_of(file, ["run.scheduler=asha"]) != plain
    assert version_of(tmp_path / "none.yaml") is None
    assert plain is not None
    assert one is not None
    assert other is not None
    assert differs(plain, plain) is None
    assert differs(plain, one) == differs(other, one) == "with other --set options"
    file.write_text(file.read_text() + "# more\n")
    assert differs(plain, version_of(file) or "") == "with another text of the sweep file"
