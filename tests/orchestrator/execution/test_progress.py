"""Trials start once their data sets are built and fail with their own error; each kind of fault has its retries."""

from __future__ import annotations

import pytest

from orchestrator.estimates.shares import Shares
from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault
from orchestrator.execution.pace import Pace
from orchestrator.execution.progress import POLL_SECONDS, Attempt, Progress
from orchestrator.execution.trial_states import State
from orchestrator.monitoring.observer import Observer, Observers
from orchestrator.planning.plan import Task
from orchestrator.storage.backoff import pause
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.outage import OVER_SECONDS
from orchestrator.storage.records import Result
from orchestrator.storage.storage import FolderStorage
from poisons import DataSpec, Store
from tests.orchestrator.sweeps import plan_of, tiny

RECORD = {"metrics": {"test/clean_acc": 0.5}, "history": [{"epoch": 1.0}]}


class Recorder(Observer):
    """Records the events of a sweep."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def data_retried(self, spec: DataSpec, why: str) -> None:
        self.events.append((spec.name.rpartition("-")[0], f"again {why}"))

    def data_failed(self, spec: DataSpec, error: str) -> None:
        self.events.append((spec.name.rpartition("-")[0], error))

    def trial_retried(self, task: Task, why: str) -> None:
        self.events.append((task.point.name, f"again {why}"))

    def trial_done(self, task: Task, record: Result) -> None:
        self.events.append((task.point.name, "done"))

    def store_silent(self, error: str) -> None:
        self.events.append(("store", error))

    def trial_failed(self, task: Task, error: str) -> None:
        self.events.append((task.point.name, error))


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Growing(Shares):
    """A quarter of a GPU, then a half, then all of it."""

    def grow(self, task: Task, share: float) -> bool:
        self.share = min(1.0, 2 * share)
        return share < 1


def begun(
    store: Store, *, built: bool = False, driver: str = "one", shares: Shares | None = None, **changes: object
) -> tuple[Progress, Recorder, Clock]:
    recorder, clock = Recorder(), Clock()
    leases = Leases(Ledger(store.where).storage, driver)
    plan = plan_of(tiny(**changes), store)
    progress = Progress(SweepContext(plan, store, Observers(recorder), leases, now=clock))
    progress.begin(shares or Shares.fixed(0.0))
    while built and progress.unbuilt:
        for spec in progress.buildable():
            progress.data_built(spec)
    return progress, recorder, clock


def build(progress: Progress, word: str) -> None:
    (spec,) = [spec for spec in progress.buildable() if word in spec.name]
    progress.data_built(spec)


def offered(progress: Progress, share: float = 0.0) -> Attempt:
    attempt = progress.offer(share)
    assert attempt is not None
    return attempt


def done(progress: Progress, attempt: Attempt) -> None:
    progress.ended(attempt.number, {"key": attempt.task.key, **RECORD})


def test_a_trial_can_start_once_its_own_data_sets_are_built(store: Store) -> None:
    progress, *_ = begun(store, grid={"data.poison": ["ops", "clean"], "seed": [0, 1]})
    assert [spec.name.rpartition("-")[0] for spec in progress.buildable()] == [
        "digits-clean-test",
        "digits-clean-train",
    ]
    build(progress, "clean-train")
    assert progress.offer(0.0) is None
    build(progress, "clean-test")
    first = offered(progress).task.point.name
    assert first == "data.poison=clean, seed=0", "not the first in the file, but the first that can start"
    build(progress, "ops")
    assert offered(progress).task.point.name == "data.poison=ops, seed=0"


def test_long_trials_start_first_and_their_data_sets_are_built_first(store: Store) -> None:
    plan = plan_of(tiny(), store)
    seconds = {task.key: float(s) for task, s in zip(plan.tasks, (1, 3, 9, 2), strict=True)}
    leases = Leases(Ledger(store.where).storage, "one")
    progress = Progress(SweepContext(plan, store, Observer(), leases), Pace(seconds, {}))
    progress.begin(Shares.fixed(0.0))
    assert [spec.name.rpartition("-")[0] for spec in progress.unbuilt] == [
        "digits-clean-test",
        "digits-clean-train",
        "digits-ops-train",
    ]
    while progress.unbuilt:
        progress.data_built(progress.buildable()[0])
    assert [seconds[offered(progress).task.key] for _ in plan.tasks] == [9, 3, 2, 1]


def test_a_failed_data_set_fails_those_derived_from_it(store: Store) -> None:
    progress, recorder, _ = begun(store, grid={"data.poison": ["clean", ["em", "ops"]], "seed": [0]})
    build(progress, "clean-train")
    (em,) = [spec for spec in progress.buildable() if "em" in spec.name]
    progress.data_failed(em, Fault("machine", "Boom: no"))
    assert recorder.events == [
        ("digits-em-train", "Boom: no"),
        ("digits-em-ops-train", "Boom: no"),
        ("data.poison=em+ops, seed=0", "Boom: no"),
    ]
    build(progress, "test")
    done(progress, offered(progress))
    assert progress.buildable() == [], "no trial needs ops any more"
    assert progress.finished


def test_a_machine_fault_is_retried_with_growing_pauses_and_then_given_up(store: Store) -> None:
    progress, recorder, clock = begun(store, built=True, grid={"seed": [0]}, run={"machine_retries": 3})
    for wait in (1.0, 2.0, 4.0):
        progress.attempt_failed(offered(progress).number, Fault("machine", "gone"))
        clock.time += wait - 0.1
        progress.poll()
        assert progress.offer(0.0) is None
        clock.time += 0.2
        progress.poll()
    attempt = offered(progress)
    progress.attempt_failed(attempt.number, Fault("machine", "gone"))
    assert recorder.events[-1] == ("seed=0", "gone")
    failure = Ledger(store.where).failure(attempt.task.key)
    assert failure is not None
    assert (failure["kind"], failure["attempts"]) == ("machine", 4)
    assert progress.finished
    assert [pause(n) for n in (1, 5, 7, 100)] == [1.0, 16.0, 60.0, 60.0]


def test_a_trial_that_makes_progress_is_not_given_up(store: Store) -> None:
    """Machines may be taken away every hour for ten hours. Epochs that are reported again are no progress."""
    progress, recorder, clock = begun(store, built=True, grid={"seed": [0]}, run={"machine_retries": 1})
    for epoch in (1.0, 2.0, 3.0, 3.0):
        assert progress.trials(State.FAILED) == []
        attempt = offered(progress)
        progress.reported(attempt.number, [{"epoch": epoch - 1}, {"epoch": epoch}])
        progress.attempt_failed(attempt.number, Fault("machine", "gone"))
        clock.time += 1.1
        progress.poll()
    assert recorder.events == [*[("seed=0", "again in 1 s: gone")] * 3, ("seed=0", "gone")]


def test_a_worker_of_another_version_is_a_config_fault(store: Store) -> None:
    """It would store its result under another key, where nothing reads it."""
    progress, *_ = begun(store, built=True)
    progress.ended(offered(progress).number, {"key": "f" * 16, **RECORD})
    assert progress.trials(State.DONE) == []
    assert "two versions of opsctl; install the same one" in str(progress.mistake)


def test_the_checkpoint_is_removed_if_the_worker_was_killed_after_publishing(store: Store) -> None:
    progress, recorder, clock = begun(store, built=True, grid={"seed": [0]})
    attempt, ledger = offered(progress), Ledger(store.where)
    ledger.publish(attempt.task.key, RECORD)
    checkpoint = store.root / "trials" / attempt.task.key / "checkpoint.pt"
    checkpoint.write_bytes(b"x")
    progress.attempt_failed(attempt.number, Fault("machine", "killed"))
    clock.time += 1.1
    progress.poll()
    assert progress.offer(0.0) is None
    assert recorder.events[-1] == ("seed=0", "done")
    assert not checkpoint.exists()


def test_a_config_fault_in_a_data_set_stops_the_sweep_if_all_trials_read_it(store: Store) -> None:
    """Otherwise every trial would fail with it, one by one."""
    for word, stops in (("ops", False), ("clean-test", True)):
        progress, recorder, _ = begun(store, grid={"data.poison": ["clean", "ops"], "seed": [0]})
        build(progress, "clean-train")
        (spec,) = [spec for spec in progress.buildable() if word in spec.name]
        progress.data_failed(spec, Fault("config", "InputError: torn"))
        assert (progress.mistake is not None) == stops
        assert len(progress.trials(State.FAILED)) == (not stops), recorder.events


def test_a_result_is_read_once_for_pruner_and_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that becomes unreachable just as a trial has ended must neither end it twice nor stop the sweep."""
    run = {"scheduler": "asha", "search": "optuna", "num_samples": 4}
    progress, *_ = begun(store, run=run)
    while wanted := progress.buildable():
        progress.data_built(wanted[0])
    attempt, ledger = offered(progress), Ledger(store.where)
    ledger.publish(attempt.task.key, {**RECORD, "history": [{"epoch": 1.0, "test/clean_acc": 0.5}]})
    read = Ledger.result

    def once(ledger: Ledger, key: str) -> Result | None:
        if (found := read(ledger, key)) is not None:
            monkeypatch.setattr(FolderStorage, "read", away)
        return found

    def away(folder: FolderStorage, name: str) -> bytes | None:
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "result", once)
        progress._poll_elsewhere(attempt.task)
    assert len(progress.trials(State.DONE)) == 1
    assert progress.trials(State.ELSEWHERE) == []
    other = progress._context.plan.tasks[-1]
    progress._stop(other, {"metric": "test/clean_acc", "epoch": 1, "value": 0.1})
    assert progress.trials(State.PRUNED) == [other.key]


def test_a_trial_fault_is_retried_once_and_then_recorded(store: Store) -> None:
    progress, recorder, _ = begun(store, built=True, grid={"seed": [0]})
    progress.attempt_failed(
        offered(progress).number, Fault("trial", "diverged", "Traceback", ({"epoch": 1.0},))
    )
    progress.poll()
    attempt = offered(progress)
    assert Ledger(store.where).failure(attempt.task.key) is None, (
        "a failure is recorded only once it is final"
    )
    progress.attempt_failed(attempt.number, Fault("trial", "diverged", "Traceback", ({"epoch": 1.0},)))
    assert recorder.events == [("seed=0", "again once more: diverged"), ("seed=0", "diverged")]
    failure = Ledger(store.where).failure(attempt.task.key)
    assert failure is not None
    assert (failure["kind"], failure["attempts"], failure["history"]) == ("trial", 2, [{"epoch": 1.0}])


def test_a_config_fault_ends_the_sweep_with_one_error(store: Store) -> None:
    progress, *_ = begun(store, built=True)
    progress.attempt_failed(offered(progress).number, Fault("config", "InputError: 8x8 is too small"))
    assert progress.mistake == "data.poison=clean, seed=0: InputError: 8x8 is too small"


def test_a_memory_fault_is_retried_with_a_larger_share_up_to_a_whole_gpu(store: Store) -> None:
    progress, recorder, _ = begun(
        store, built=True, shares=Growing(0.25), grid={"seed": [0]}, run={"retries": 0}
    )
    for share in (0.25, 0.5, 1.0):
        assert progress.offer(share / 2) is None
        progress.attempt_failed(offered(progress, share).number, Fault("memory", "out of memory"))
        progress.poll()
    assert [what for _, what in recorder.events] == [
        "again with 0.5 of a GPU: out of memory",
        "again with 1 of a GPU: out of memory",
        "out of memory",
    ]
    failure = Ledger(store.where).failure(progress.trials(State.FAILED)[0])
    assert failure is not None
    assert failure["kind"] == "trial", "at the largest share it is a trial fault"


def test_trials_of_another_driver_are_waited_for_and_counted(store: Store) -> None:
    storage = Ledger(store.where).storage
    with Driver(storage, "other", __import__("threading").Event()) as other:
        theirs, _, _ = begun(store, built=True, driver=other.id, grid={"seed": [0]})
        ours, recorder, clock = begun(store, built=True, grid={"seed": [0, 1]})
        attempt = offered(theirs)
        assert offered(ours).task.point.name == "seed=1"
        assert ours.to_json()["elsewhere"] == 1
        clock.time += POLL_SECONDS + 0.1
        ours.poll()
        assert ours.ready_shares == [], "no work for a worker"
        assert ours.to_json()["elsewhere"] == 1
        Ledger(store.where).publish(attempt.task.key, RECORD)
        done(theirs, attempt)
        clock.time += POLL_SECONDS + 0.1
        ours.poll()
    assert recorder.events == [("seed=0", "done")]
    assert len(ours.trials(State.DONE)) == 1


def test_a_trial_that_failed_under_another_driver_is_not_run_again(store: Store) -> None:
    ours, recorder, _ = begun(store, built=True, grid={"seed": [0]})
    key = ours._context.plan.tasks[0].key
    Ledger(store.where).fail(key, {"error": "diverged", "kind": "trial"})
    assert ours.offer(0.0) is None
    assert recorder.events == [("seed=0", "diverged")]
    assert ours.finished


def test_leases_are_released_when_a_sweep_ends(store: Store) -> None:
    one, *_ = begun(store, built=True, grid={"seed": [0]})
    attempt = offered(one)
    one.abandon()
    other, *_ = begun(store, built=True, driver="other", grid={"seed": [0]})
    assert offered(other).task.key == attempt.task.key


def test_a_store_that_cannot_be_written_only_delays_the_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, recorder, clock = begun(store, built=True, grid={"seed": [0]})

    def full(name: str) -> bool:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(progress._context.leases, "take", full)
        for _ in range(3):
            assert progress.offer(0.0) is None
            clock.time += POLL_SECONDS + 0.1
            progress.poll()
        assert not progress.finished
    assert recorder.events == [("store", "[Errno 28] No space left on device")], (
        "reported once, however often it is polled"
    )
    assert progress.to_json()["silent"] == "[Errno 28] No space left on device"
    assert progress.offer(0.0) is not None
    clock.time += OVER_SECONDS
    assert progress.to_json()["silent"] == ""


def test_late_messages_about_a_finished_attempt_change_nothing(store: Store) -> None:
    progress, recorder, _ = begun(store, built=True, grid={"seed": [0]})
    attempt = offered(progress)
    done(progress, attempt)
    done(progress, attempt)
    progress.attempt_failed(attempt.number, Fault("machine", "late"))
    assert not progress.reported(attempt.number, [{"epoch": 2.0}])
    assert recorder.events == [("seed=0", "done")]
    assert progress.finished


def test_unreadable_clean_images_fail_each_dependent_once(store: Store) -> None:
    progress, recorder, _ = begun(store, grid={"data.poison": ["em", ["em", "ops"]], "seed": [0]})
    (clean,) = [spec for spec in progress.buildable() if "clean-train" in spec.name]
    progress.data_failed(clean, Fault("machine", "Boom: torn"))
    broken = ["digits-clean-train", "digits-em-train", "digits-em-ops-train", "digits-ops-train"]
    assert sorted(name for name, _ in recorder.events if name.startswith("digits")) == sorted(broken)
    assert len(progress.trials(State.FAILED)) == 2
    assert not progress.trials(State.BLOCKED)


def test_a_suggested_trial_waits_until_a_worker_starts_it(store: Store) -> None:
    progress, _, _ = begun(store, built=True, grid={"seed": [0, 1]})
    first = progress.offer(0.0)
    other = progress.offer(0.0)
    assert first is not None
    assert other is not None
    assert progress.trials(State.SUGGESTED) == [first.task.key, other.task.key]
    assert (progress.to_json()["waiting"], progress.running, progress.idle) == (2, [], False)
    progress.started(first.number)
    progress.returned(other.number)
    assert [attempt.task.key for attempt in progress.running] == [first.task.key]
    assert progress.trials(State.READY) == [other.task.key]
    again = progress.offer(0.0)
    assert again is not None
    assert (again.task, again.number) == (other.task, 3)


def test_of_equally_long_trials_those_with_larger_shares_come_first(store: Store) -> None:
    progress, _, _ = begun(store, built=True, grid={"seed": [0, 1]}, shares=Growing(0.25))
    first = progress.offer(0.25)
    assert first is not None
    progress.attempt_failed(first.number, Fault("memory", "too small"))
    progress._ready.add(first.task.key, 0, 0.5)
    assert progress.ready_shares == [0.5, 0.25]
