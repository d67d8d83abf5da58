"""A sweep survives the loss of a machine but stops if workers cannot start. Repeated requests are handled once, and
lost answers are sent again."""

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
    """With stand-ins for workers: these tests do not start Ray."""
    leases = Leases(Ledger(store.where).storage, "one")
    context = SweepContext(plan_of(tiny(), store), store, Observer(), leases)
    return Dispatcher(context, Progress(context), None, SimpleNamespace(open={}, failures=0), None, Cluster())  # type: ignore[arg-type]


def test_losing_many_workers_with_their_machine_does_not_stop_the_sweep(dispatcher: Dispatcher) -> None:
    dispatcher.processes = {f"worker-{i}": WorkerProcess(i, 0.0) for i in range(5 * DEATHS)}
    for i in range(5 * DEATHS):
        dispatcher._worker_died(i, "the node is gone")
    assert dispatcher.processes == {}


def test_workers_that_die_at_startup_stop_the_sweep_with_the_reason(dispatcher: Dispatcher) -> None:
    for i in range(DEATHS):
        dispatcher._worker_died(i, "No module named nothing")
    with pytest.raises(OSError, match="workers die as they start: No module named nothing"):
        dispatcher._worker_died(DEATHS, "No module named nothing")


def test_a_trial_lost_with_its_machine_runs_on_another_machine(store: Store) -> None:
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


def test_a_worker_on_a_paused_machine_is_not_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_repeated_request_gets_the_same_trial(store: Store) -> None:
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


def test_a_worker_that_missed_its_order_to_end_gets_it_again(store: Store) -> None:
    sweep = Rehearsal(store, [{"CPU": 2.0}], [(9.0, 0.0)] * 3)
    sweep.dispatcher.adjust()
    sweep.claims.append(Claim(2))
    assert asking(sweep.dispatcher, "a", 1) == {"end": True}
    assert asking(sweep.dispatcher, "a", 1) == {"end": True}
    assert sweep.workers.open == {2: 0.0}
    assert not sweep.progress.running


def test_a_restarted_process_loses_its_trial_and_gets_a_new_attempt(store: Store) -> None:
    sweep = Rehearsal(store, [{"CPU": 2.0}], [(9.0, 0.0)] * 3)
    sweep.dispatcher.adjust()
    first = asking(sweep.dispatcher, "before", 1)
    second = asking(sweep.dispatcher, "after", 1)
    assert first is not None
    assert second is not None
    assert [attempt.number for attempt in sweep.progress.running] == [second["attempt"]]
    assert sweep.progress.to_json()["faults"] == {"machine": 1}


def test_an_idle_worker_stays_unless_another_could_work_in_its_place(store: Store) -> None:
    sweep = Rehearsal(store, [{"CPU": 4.0, "GPU": 1.0}], [(900.0, 0.5), (600.0, 1.0)])
    sweep.play(until=905)
    assert list(sweep.workers.open.values()) == [0.5], "the other one does not fit yet"
    sweep.play(until=911)
    assert list(sweep.workers.open.values()) == [1.0]
    sweep.play(until=1500)
    assert list(sweep.workers.open.values()) == [1.0]


MEMORY = "OutOfMemoryError: Task was killed due to the node running low on memory."


def test_after_repeated_out_of_memory_kills_fewer_workers_run(store: Store) -> None:
    """Surplus workers end with their trials and are not replaced."""
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


def test_workers_killed_for_memory_at_startup_are_retried(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes may use the memory for a while; if it never suffices for a worker, the sweep ends."""
    sweep = Rehearsal(store, [{"CPU": 4.0}], [(9.0, 0.0)] * 8)
    dispatcher = sweep.dispatcher
    dispatcher.adjust()
    for _ in range(5 * DEATHS):
        dispatcher._worker_died(1, MEMORY)
    assert dispatcher.pressure.most == 1, "fewer workers run meanwhile"
    assert asking(dispatcher, "a", 1) == {"end": True}
    monkeypatch.setattr(dispatch, "STARVED_SECONDS", 0.0)
    with pytest.raises(OSError, match="memory does not suffice to start a worker: OutOfMemoryError"):
        dispatcher._worker_died(2, MEMORY)
