"""Lanes that die: a lost machine is no reason to stop, workers that cannot start are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from orchestrator.depots.leases import Leases
from orchestrator.depots.results import Ledger
from orchestrator.engine.connect import Cluster
from orchestrator.engine.dispatch import DEATHS, Dispatcher, Seat
from orchestrator.faults import Fault
from orchestrator.observer import Observer
from orchestrator.progress import Progress
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny
from tests.orchestrator.test_progress import begun


@pytest.fixture
def dispatcher(store: Store) -> Dispatcher:
    """With lanes in name only: what is tried here asks nothing of Ray."""
    progress = Progress(plan_of(tiny(), store), store, Observer(), Leases(Ledger(store.where).depot, "one"))
    return Dispatcher(progress, None, SimpleNamespace(open={}), None, Cluster())  # type: ignore[arg-type]


def test_a_machine_that_takes_many_lanes_with_it_stops_no_sweep(dispatcher: Dispatcher) -> None:
    dispatcher.seats = {f"lane-{i}": Seat(i, 0.0) for i in range(5 * DEATHS)}
    for i in range(5 * DEATHS):
        dispatcher._lost(i, "the node is gone")
    assert dispatcher.seats == {}


def test_workers_that_die_before_they_ask_stop_it_with_the_reason(dispatcher: Dispatcher) -> None:
    for i in range(DEATHS):
        dispatcher._lost(i, "No module named nothing")
    with pytest.raises(OSError, match="workers die as they start: No module named nothing"):
        dispatcher._lost(DEATHS, "No module named nothing")


def test_a_trial_that_fell_with_its_machine_is_given_to_another_machine(store: Store) -> None:
    progress, _, clock = begun(store, built=True, grid={"seed": [0]})
    dispatcher = Dispatcher(progress, None, SimpleNamespace(open={}), None, Cluster())  # type: ignore[arg-type]
    bad, good = Seat(1, 0.0, "bad"), Seat(2, 0.0, "good")
    dispatcher.seats = {"one": bad, "two": good}
    attempt = dispatcher._offered(bad)
    assert attempt is not None
    ended = {"attempt": attempt.number, "fault": Fault("machine", "Stale file handle").told()}
    dispatcher._settle(bad, attempt, ended)
    clock.time += 1.1
    progress.look()
    assert dispatcher._offered(bad) is None
    again = dispatcher._offered(good)
    assert again is not None
    assert again.task == attempt.task
