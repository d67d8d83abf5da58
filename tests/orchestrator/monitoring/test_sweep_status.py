"""Sweep status: trials that failed through their own fault stay failed, those that a machine broke are run again, and a
status of thousands of results does not read their histories."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.monitoring.sweep_status import read_status
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.storage.earlier import merge
from tests.orchestrator.sweeps import plan_of, tiny

HISTORY = [{"epoch": float(epoch), "test/clean_acc": epoch / 300} for epoch in range(1, 301)]


def published(store: Store, **record: Any) -> tuple[Ledger, str]:
    ledger = Ledger(store.where)
    ledger.publish("ab", {"history": HISTORY, "metrics": {"test/clean_acc": 0.5}, **record})
    return ledger, "ab"


@pytest.mark.parametrize("layout", ["of today", "of earlier versions"])
def test_a_summary_is_the_record_without_its_history(store: Store, layout: str) -> None:
    ledger, key = published(store, needs=["a-" + 16 * "0", "b-" + 16 * "1"], per_class_acc=[0.1] * 5000)
    if layout == "of earlier versions":
        merge(ledger.storage, f"trials/{key}/result.json")
    whole = ledger.result(key)
    assert whole is not None
    assert whole.pop("history") == HISTORY
    assert ledger.summaries([key, "cd"]) == {key: whole}


@pytest.mark.parametrize("layout", ["of today", "of earlier versions"])
@pytest.mark.parametrize("end", [0, 1, 100, 9000, -1, -2])
@pytest.mark.parametrize("filler", [b"", b"\0" * 9000])
def test_a_truncated_result_counts_as_missing(store: Store, layout: str, end: int, filler: bytes) -> None:
    ledger, key = published(store, per_class_acc=[0.1] * 5000)
    name = f"trials/{key}/result.json"
    if layout == "of earlier versions":
        merge(ledger.storage, name)
    data = ledger.storage.read(name) or b""
    assert len(data) > 9000
    ledger.storage.write(name, data[:end] + filler)
    assert ledger.summaries([key]) == {}
    assert name in ledger.damaged


@pytest.mark.parametrize(
    ("kind", "left"),
    [("trial", True), ("machine", False), ("config", False), ("author", False), (None, False)],
)
def test_only_trials_that_failed_through_their_own_fault_stay_failed(
    store: Store, kind: str | None, left: bool
) -> None:
    task = plan_of(tiny(), store).tasks[1]
    Ledger(store.where).fail(task.key, {"error": "Boom: no", "traceback": None, "kind": kind})
    plan = plan_of(tiny(), store)
    assert [one.key for one in plan.failed] == ([task.key] if left else [])
    assert len(plan.missing) == (3 if left else 4)
    Ledger(store.where).forget(task.key)
    assert len(plan_of(tiny(), store).missing) == 4


def test_a_stopped_trial_counts_as_ended_only_for_a_sweep_with_a_scheduler(store: Store) -> None:
    sweep, ledger = tiny(run={"scheduler": "asha"}), Ledger(store.where)
    plan = plan_of(sweep, store)
    ledger.stop(plan.tasks[0].key, {"epoch": 1})
    assert [task.key for task in plan_of(sweep, store).stopped] == [plan.tasks[0].key]
    assert len(plan_of(sweep, store).missing) == 3
    assert len(plan_of(tiny(), store).missing) == 4, "other sweeps need its result"
    assert (
        read_status(plan.snapshot, ledger).counts
        == "0 of 4 trials done, 0 failed, 1 stopped early, 3 missing"
    )


def test_known_results_are_not_read_again(store: Store) -> None:
    plan, ledger = plan_of(tiny(), store), Ledger(store.where)
    ledger.publish(plan.tasks[0].key, {"metrics": {"test/clean_acc": 0.5}})
    previous = read_status(plan.snapshot, ledger)
    ledger.storage.remove(f"trials/{plan.tasks[0].key}/result.json")
    ledger.publish(plan.tasks[1].key, {"metrics": {"test/clean_acc": 0.5}})
    assert read_status(plan.snapshot, ledger, previous).results.keys() == {
        task.key for task in plan.tasks[:2]
    }
    assert read_status(plan.snapshot, ledger).results.keys() == {plan.tasks[1].key}
