"""Workers that die: a lost machine is no reason to stop, workers that cannot start are. What a worker says twice is done
once, and what it did not hear is said again."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest

from orchestrator.estimates.capacity import Claim
from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault
from orchestrator.execution.progress import Progress
from orchestrator.execution.ray import dispatch
from orchestrator.execution.ray.connect import Cluster
from orchestrator.execution.ray.dispatch import DEATHS, Dispatcher, WorkerProcess
from orchestrator.execution.ray.messages import Answer, Ended
from orchestrator.execution.trial_states import State
from orchestrator.monitoring.observer import Observer
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.execution.test_progress import begun
from tests.orchestrator.rehearsal import Rehearsal
from tests.orchestrator.sweeps import plan_of, tiny


@pytest.fixture
def dispatcher(store: Store) -> Dispatcher:
    """With workers in name only: what is tried here asks nothing of Ray."""
    leases = Leases(Ledger(store.where).storage, "one")
    context = SweepContext(plan_of(tiny(), store), store, Observer(), leases)
    return Dispatcher(context, Progress(context), None, SimpleNamespace(open={}, failures=0), None, Cluster())  # type: ignore[arg-type]


def test_a_machine_that_takes_many_lanes_with_it_stops_no_sweep(dispatcher: Dispatcher) -> None:
    dispatcher.processes = {f"worker-{i}": WorkerProcess(i, 0.0) for i in range(5 * DEATHS)}
    for i in range(5 * DEATHS):
        dispatcher._worker_died(i, "the node is gone")
    assert dispatcher.processes == {}


def test_workers_that_die_before_they_ask_stop_it_with_the_reason(dispatcher: Dispatcher) -> None:
    for i in range(DEATHS):
        dispatcher._worker_died(i, "No module named nothing")
    with pytest.raises(OSError, match="workers die as they start: No module named nothing"):
        dispatcher._worker_died(DEATHS, "No module named nothing")


def test_a_trial_that_fell_with_its_machine_is_given_to_another_machine(store: Store) -> None:
    progress, _, clock = begun(store, built=True, grid={"seed": [0]})
    none = SimpleNamespace(open={}, failures=0)
    dispatcher = Dispatcher(progress._context, progress, None, none, None, Cluster())  # type: ignore[arg-type]
    bad, good = WorkerProcess(1, 0.0, node="bad"), WorkerProcess(2, 0.0, node="good")
    dispatcher.processes = {"one": bad, "two": good}
    attempt = dispatcher._offered(bad)
    assert attempt is not None
    ended = {"attempt": attempt.number, "fault": Fault("machine", "Stale file handle").to_json()}
    dispatcher._attempt_ended(bad, attempt, ended)
    clock.time += 1.1
    progress.poll()
    assert dispatcher._offered(bad) is None
    again = dispatcher._offered(good)
    assert again is not None
    assert again.task == attempt.task


def test_a_lane_on_a_machine_that_rests_is_not_replaced_by_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Rehearsal(store, [{"CPU": 1.0}], [(10.0, 0.0)]).dispatcher
    process = WorkerProcess(1, 0.0, node="bad", idle=time.monotonic() - 60)
    assert dispatcher._useless(process)
    monkeypatch.setattr(dispatcher.nodes, "rests", lambda node: node == "bad")
    assert not dispatcher._useless(process)


def asking(dispatcher: Dispatcher, worker: str, number: int, ended: Ended | None = None) -> Answer | None:
    """The answer to a worker."""
    dispatcher._take(
        [{"worker": worker, "number": number, "share": 0.0, "node": "", "card": "", "ended": ended}]
    )
    return dispatcher._answers.pop(worker, None)


def test_a_question_that_comes_again_gets_the_same_trial(store: Store) -> None:
    sweep = Rehearsal(store, [{"CPU": 2.0}], [(9.0, 0.0)] * 3)
    sweep.dispatcher.adjust()
    first = asking(sweep.dispatcher, "a", 1)
    assert first is not None
    assert asking(sweep.dispatcher, "a", 1) == first, "the answer was lost"
    ended = {"attempt": first["attempt"], "record": sweep.record(first["attempt"])}
    second = asking(sweep.dispatcher, "a", 1, ended)
    assert second is not None
    assert second["attempt"] != first["attempt"]
    assert asking(sweep.dispatcher, "a", 1, ended) == second
    assert len(sweep.progress.trials(State.DONE)) == 1


def test_a_lane_that_was_let_go_and_did_not_hear_it_is_told_again(store: Store) -> None:
    sweep = Rehearsal(store, [{"CPU": 2.0}], [(9.0, 0.0)] * 3)
    sweep.dispatcher.adjust()
    sweep.claims.append(Claim(2))
    assert asking(sweep.dispatcher, "a", 1) == {"end": True}
    assert asking(sweep.dispatcher, "a", 1) == {"end": True}
    assert sweep.workers.open == {2: 0.0}
    assert not sweep.progress.running


def test_a_process_that_is_started_again_has_lost_its_trial_and_gets_one(store: Store) -> None:
    sweep = Rehearsal(store, [{"CPU": 2.0}], [(9.0, 0.0)] * 3)
    sweep.dispatcher.adjust()
    first = asking(sweep.dispatcher, "before", 1)
    second = asking(sweep.dispatcher, "after", 1)
    assert first is not None
    assert second is not None
    assert [attempt.number for attempt in sweep.progress.running] == [second["attempt"]]
    assert sweep.progress.to_json()["faults"] == {"machine": 1}


def test_a_lane_without_work_stays_unless_another_could_work_in_its_place(store: Store) -> None:
    sweep = Rehearsal(store, [{"CPU": 4.0, "GPU": 1.0}], [(900.0, 0.5), (600.0, 1.0)])
    sweep.play(until=905)
    assert list(sweep.workers.open.values()) == [0.5], "the other one finds no room yet"
    sweep.play(until=911)
    assert list(sweep.workers.open.values()) == [1.0]
    sweep.play(until=1500)
    assert list(sweep.workers.open.values()) == [1.0]


MEMORY = "OutOfMemoryError: Task was killed due to the node running low on memory."


def test_what_is_killed_for_memory_again_runs_with_less_beside_it(store: Store) -> None:
    """Workers that are too many are let go as their trials end, and none is opened in their place."""
    sweep = Rehearsal(store, [{"CPU": 4.0}], [(9.0, 0.0)] * 8)
    dispatcher = sweep.dispatcher
    dispatcher.adjust()
    orders = {number: asking(dispatcher, f"worker {number}", number) for number in (1, 2, 3, 4)}
    for again in (False, True):
        order = orders[1]
        assert order is not None
        dispatcher._worker_died(1, MEMORY)
        assert dispatcher.pressure.most == (2 if again else math.inf)
        sweep.now += 60
        sweep.progress.poll()
        orders[1] = asking(dispatcher, f"worker 1 {again}", 1)
    assert orders[1] == {"end": True}
    for number in (2, 3, 4):
        order = orders[number]
        assert order is not None
        ended = {"attempt": order["attempt"], "record": sweep.record(order["attempt"])}
        orders[number] = asking(dispatcher, f"worker {number}", number, ended)
    assert [number for number in (2, 3, 4) if "trial" in (orders[number] or {})] == [3, 4]
    dispatcher.adjust()
    assert len(sweep.workers.open) == 2
    assert sweep.progress.to_json()["faults"] == {"machine": 2}
    assert sweep.progress.trials(State.FAILED) == []


def test_lanes_that_are_killed_for_memory_as_they_start_are_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine may have other work; one that never has memory for a worker ends the sweep."""
    sweep = Rehearsal(store, [{"CPU": 4.0}], [(9.0, 0.0)] * 8)
    dispatcher = sweep.dispatcher
    dispatcher.adjust()
    for _ in range(5 * DEATHS):
        dispatcher._worker_died(1, MEMORY)
    assert dispatcher.pressure.most == 1, "meanwhile there are fewer"
    assert asking(dispatcher, "a", 1) == {"end": True}
    monkeypatch.setattr(dispatch, "STARVED_SECONDS", 0.0)
    with pytest.raises(OSError, match="memory does not suffice to start a worker: OutOfMemoryError"):
        dispatcher._worker_died(2, MEMORY)
