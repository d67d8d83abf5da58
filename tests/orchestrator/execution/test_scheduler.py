"""Short trainings travel together, long ones start first, nothing that waits for a GPU starves, and each kind of
death has its consequence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from orchestrator.execution import scheduler as module
from orchestrator.execution.bundles import Bundle
from orchestrator.execution.faults import Fault
from orchestrator.execution.messages import Message
from orchestrator.execution.requests import Capacity, Claims, Request
from orchestrator.execution.scheduler import DEATHS, Event, Over, Reported, Scheduler
from orchestrator.execution.trial_states import State
from poisons import Store
from tests.orchestrator.execution.test_progress import RECORD, begun
from tests.orchestrator.simulated_tune import START_SECONDS, Fixed, SimulatedSweep

MEMORY = "OutOfMemoryError: Task was killed due to the node running low on memory."


class Told:
    """Tune, as a test tells it: it keeps what is suggested, and reports what it is given."""

    def __init__(self) -> None:
        self.failures, self.stopping, self.withdrawn = 0, set[int](), set[int]()
        self.held, self.more = frozenset[str](), False
        self.bundles: list[Bundle] = []
        self.next: list[Event] = []

    def suggest(self, bundle: Bundle) -> None:
        self.bundles.append(bundle)

    def events(self) -> Iterator[Event]:
        events, self.next = self.next, []
        return iter(events)


def scheduled(
    store: Store,
    *,
    cpus: float = 2.0,
    seconds: float = 60.0,
    nodes: tuple[str, ...] = ("a", "b"),
    **changes: object,
) -> tuple[Scheduler, Told]:
    """A scheduler for a sweep on processors, whose data sets are built and whose trainings take so long."""
    progress, _, clock = begun(store, built=True, **changes)
    for task in progress._context.plan.tasks:
        progress.pace.took(task.key, seconds)
    tune = Told()
    found = Scheduler(progress._context, progress, tune, Fixed(Capacity(cpus), list(nodes)), Claims)
    found.clock = clock  # type: ignore[attr-defined]
    found.step()
    return found, tune


def said(
    scheduler: Scheduler, tune: Told, bundle: Bundle, *messages: Message, why: str | None = None
) -> None:
    """A worker reports messages; with `why` its bundle is over."""
    tune.next += [Reported(bundle.number, list(messages))] if messages else []
    tune.next += [Over(bundle.number, why)] if why is not None else []
    scheduler.step()


def begin(scheduler: Scheduler, tune: Told, bundle: Bundle, node: str = "a") -> None:
    said(scheduler, tune, bundle, {"node": node, "rests": False}, {"started": bundle.orders[0]["attempt"]})


def done(bundle: Bundle, index: int = 0) -> Message:
    order = bundle.orders[index]
    return {"ended": order["attempt"], "seconds": 1.0, "record": {"key": order["key"], **RECORD}}  # type: ignore[typeddict-item]


def failed(bundle: Bundle, index: int = 0, kind: str = "machine") -> Message:
    fault = Fault(kind, "Stale file handle").to_json()  # type: ignore[arg-type]
    return {"ended": bundle.orders[index]["attempt"], "seconds": 1.0, "fault": fault}


def retried(scheduler: Scheduler, tune: Told, bundle: Bundle, node: str) -> Bundle:
    """The next bundle, after the training of this one failed on a machine and its pause is over."""
    begin(scheduler, tune, bundle, node=node)
    said(scheduler, tune, bundle, failed(bundle), why="")
    scheduler.clock.time += 60  # type: ignore[attr-defined]
    scheduler.progress.poll()
    scheduler.step()
    return tune.bundles[-1]


# -- what runs next


def test_a_long_training_is_a_bundle_of_its_own_under_its_name(store: Store) -> None:
    scheduler, tune = scheduled(store, grid={"seed": [0, 1, 2, 3]})
    names = [task.point.name for task in scheduler.context.plan.tasks]
    assert [bundle.name for bundle in tune.bundles] == names[:2], "as many as fit"
    for bundle in tune.bundles[:2]:
        begin(scheduler, tune, bundle)
    assert [bundle.name for bundle in tune.bundles] == names[:3], "and one ahead, once these have begun"
    assert {len(bundle.orders) for bundle in tune.bundles} == {1}
    assert len({bundle.folder for bundle in tune.bundles}) == 3


def test_short_trainings_travel_together_and_are_recorded_one_by_one(store: Store) -> None:
    scheduler, tune = scheduled(store, seconds=3.0, grid={"seed": list(range(60))})
    first, other = tune.bundles
    assert len(first.orders) == 10
    assert first.name.endswith("and 9 more")
    states = scheduler.progress
    assert len(states.trials(State.SUGGESTED)) == 20
    begin(scheduler, tune, first)
    assert states.trials(State.RUNNING) == [first.orders[0]["key"]]
    said(scheduler, tune, first, done(first, 0), {"started": first.orders[1]["attempt"]})
    assert states.trials(State.DONE) == [first.orders[0]["key"]]
    said(scheduler, tune, first, failed(first, 1, "trial"), {"started": first.orders[2]["attempt"]})
    assert states.trials(State.RUNNING) == [first.orders[2]["key"]], "the others go on"
    said(scheduler, tune, first, why="killed")
    assert states.to_json()["faults"] == {"trial": 1, "machine": 1}, (
        "those that had not started are not blamed"
    )
    assert len(states.trials(State.SUGGESTED)) >= len(other.orders)
    assert states.to_json()["failed"] == 0


def test_bundles_become_smaller_towards_the_end(store: Store) -> None:
    sweep = SimulatedSweep(store, [(2.0, 0)], [(1.0, 0.0)] * 100)
    ends = sweep.play()
    assert ends <= START_SECONDS + 50 + 5
    assert sweep.tune.opened == 2


def test_a_training_of_unknown_duration_runs_alone(store: Store) -> None:
    sweep = SimulatedSweep(store, [(2.0, 0)], [(1.0, 0.0)] * 100, known=False)
    sweep.play(until=START_SECONDS)
    assert {len(live.bundle.orders) for live in sweep.scheduler.live.values()} == {1}
    sweep.play()
    assert sweep.tune.opened == 2
    assert sweep.scheduler._number <= 30, "then they travel together"


def test_with_a_scheduler_that_prunes_every_training_is_a_trial_of_its_own(store: Store) -> None:
    scheduler, tune = scheduled(store, seconds=1.0, run={"scheduler": "asha"}, grid={"seed": list(range(9))})
    assert {len(bundle.orders) for bundle in tune.bundles} == {1}
    first = tune.bundles[0]
    begin(scheduler, tune, first)
    number = first.orders[0]["attempt"]
    scheduler.tune.stopping.add(number)
    scheduler.progress._pruner.verdict = lambda task, row: {"epoch": 1, "metric": "m", "value": 0.1}  # type: ignore[method-assign, assignment, typeddict-item]
    said(scheduler, tune, first, why="")
    assert scheduler.progress.trials(State.PRUNED) == [first.orders[0]["key"]]
    assert number not in tune.stopping


def test_no_more_bundles_are_suggested_than_trials_may_run(store: Store) -> None:
    sweep = SimulatedSweep(store, [(16.0, 4)], [(300.0, 0.5), (200.0, 0.25)] * 4, max_concurrent=2)
    sweep.play(until=5)
    assert len(sweep.scheduler.live) == 2
    sweep.play()
    assert len(sweep.started) == 8


def test_a_long_training_with_a_small_share_does_not_run_last(store: Store) -> None:
    sweep = SimulatedSweep(store, [(16.0, 2)], [(300.0, 1.0)] * 20 + [(3000.0, 0.25)])
    assert 4500 <= sweep.play() <= 4500 + 5 * START_SECONDS
    assert sweep.tune.opened <= 4


@pytest.mark.parametrize("cpus", [16.0, 2.0])
def test_a_training_that_ran_out_of_memory_does_not_run_last(store: Store, cpus: float) -> None:
    """A worker or two must end to free the other half of the GPU, or a processor."""
    trials = [(6000.0, 0.25)] + [(300.0, 0.25)] * 30
    sweep = SimulatedSweep(store, [(cpus, 1)], trials, needs={0: 0.5})
    sweep.play()
    first, again = [one for one in sweep.started if one.seconds in (60, 6000)]
    assert (first.share, again.share) == (0.25, 0.5)
    assert again.when <= 60 + 2 * 300 + 2 * START_SECONDS


def test_a_late_request_for_a_whole_gpu_is_not_starved(store: Store) -> None:
    """It comes back among equals, and takes the next GPU whose workers have ended."""
    sweep = SimulatedSweep(store, [(16.0, 2)], [(300.0, 0.25)] * 80, needs={20: 1.0})
    sweep.play()
    whole = [one for one in sweep.started if one.share == 1.0]
    halves = [one for one in sweep.started if one.share == 0.5]
    assert len(whole) == len(halves) == 1
    assert whole[0].when <= halves[0].when + 60 + 2 * 300 + 2 * START_SECONDS
    assert len([one for one in sweep.started if one.when > whole[0].when]) > 20, "many others run after it"


@pytest.mark.parametrize(("share", "gpus"), [(1.0, 1), (0.25, 1), (1.0, 2), (0.25, 2), (0.5, 3)])
def test_a_builder_that_needs_a_gpu_gets_one_within_the_length_of_a_training(
    store: Store, share: float, gpus: int
) -> None:
    """However the workers are spread over the GPUs, and although hours of trainings are left."""
    sweep = SimulatedSweep(store, [(16.0, gpus)], [(300.0 + i, share) for i in range(50)])
    sweep.play(until=1000)
    sweep.tune.build(Request(1, 1), 500.0)
    sweep.play(until=4000)
    (built,) = [one for one in sweep.started if one.seconds == 500]
    assert built.when <= 1000 + 350
    beside = [one for one in sweep.started if built.when < one.when < built.when + 500]
    assert bool(beside) == (gpus > 1), "the other GPUs stay busy"
    after = [one for one in sweep.started if one.when > built.when + 500]
    assert len({one.when for one in after}) > 1, "and this one is used again afterwards"


def test_a_builder_gets_its_processors_even_if_it_needs_all(store: Store) -> None:
    sweep = SimulatedSweep(store, [(2.0, 0)], [(300.0 + i, 0.0) for i in range(20)])
    sweep.play(until=400)
    sweep.tune.build(Request(2), 500.0)
    sweep.play(until=2000)
    (built,) = [one for one in sweep.started if one.seconds == 500]
    assert built.when <= 400 + 320
    assert not [one for one in sweep.started if built.when < one.when < built.when + 500]


def test_trainings_on_processors_do_not_wait_for_a_gpu(store: Store) -> None:
    sweep = SimulatedSweep(store, [(8.0, 1)], [(900.0, 1.0)] * 3 + [(100.0, 0.0)] * 30)
    sweep.play()
    last = max(one.when for one in sweep.started if one.share == 0.0)
    assert last < 900


# -- what was reported


def test_losing_many_workers_with_their_machine_does_not_stop_the_sweep(store: Store) -> None:
    scheduler, tune = scheduled(store, cpus=40, grid={"seed": list(range(40))})
    assert len(tune.bundles) == 40
    for bundle in tune.bundles[:40]:
        begin(scheduler, tune, bundle)
    for bundle in tune.bundles[:40]:
        said(scheduler, tune, bundle, why="the node is gone")
    assert scheduler.progress.to_json()["faults"] == {"machine": 40}


def test_workers_that_die_at_startup_stop_the_sweep_with_the_reason(store: Store) -> None:
    scheduler, tune = scheduled(store)
    for _ in range(DEATHS):
        said(scheduler, tune, tune.bundles[-1], why="No module named nothing")
        later(scheduler)
    assert scheduler.progress.to_json()["faults"] == {}, "no training is blamed"
    with pytest.raises(OSError, match="workers die as they start: No module named nothing"):
        said(scheduler, tune, tune.bundles[-1], why="No module named nothing")


def later(scheduler: Scheduler) -> None:
    """The pause after the death of a worker is over."""
    scheduler.clock.time += module.LONGEST_PAUSE  # type: ignore[attr-defined]
    scheduler.step()


def test_workers_that_die_while_ray_recovers_do_not_stop_the_sweep(store: Store) -> None:
    """Ray cancels actors at once while its head is restarted."""
    scheduler, tune = scheduled(store)
    for _ in range(5 * DEATHS):
        count = len(tune.bundles)
        said(scheduler, tune, tune.bundles[-1], why="it was cancelled before it started running")
        assert len(tune.bundles) == count, "nothing is suggested for a moment"
        scheduler.resumes = scheduler.context.now()
        scheduler.step()
        assert len(tune.bundles) == count + 1
    begin(scheduler, tune, tune.bundles[-1])
    assert (scheduler.deaths, scheduler.dying) == (0, None)


def test_a_training_lost_with_its_machine_avoids_that_machine(store: Store) -> None:
    scheduler, tune = scheduled(store, grid={"seed": [0]})
    first = tune.bundles[0]
    again = retried(scheduler, tune, first, node="a")
    assert again.orders[0]["key"] == first.orders[0]["key"]
    assert again.request.avoid == {"a"}
    third = retried(scheduler, tune, again, node="b")
    assert third.request.avoid == frozenset(), "it has failed on all of them"


def test_a_machine_where_several_trainings_failed_gets_none_for_a_while(store: Store) -> None:
    scheduler, tune = scheduled(store, grid={"seed": list(range(9))})
    for _ in range(3):
        bundle = next(b for b in tune.bundles if b.number in scheduler.live)
        begin(scheduler, tune, bundle, node="a")
        said(scheduler, tune, bundle, failed(bundle), why="")
    assert scheduler.to_json()["resting"] == 1
    bundle = tune.bundles[-1]
    assert list(bundle.resting) == ["a"]
    said(scheduler, tune, bundle, {"node": "a", "rests": True})
    assert bundle.orders[0]["key"] not in scheduler.progress.trials(State.RUNNING)
    assert bundle.number in scheduler.live, "its worker keeps the resources"
    assert any(order["key"] == bundle.orders[0]["key"] for order in tune.bundles[-1].orders), (
        "it goes elsewhere"
    )


def test_after_repeated_out_of_memory_kills_fewer_run(store: Store) -> None:
    scheduler, tune = scheduled(store, cpus=4, grid={"seed": list(range(8))})
    key = tune.bundles[0].orders[0]["key"]
    for bundle in tune.bundles[:4]:
        begin(scheduler, tune, bundle)
    for again in (False, True):
        bundle = next(b for b in reversed(tune.bundles) if b.orders[0]["key"] == key)
        if again:
            said(scheduler, tune, tune.bundles[1], done(tune.bundles[1]), why="")
            bundle = next(b for b in reversed(tune.bundles) if b.orders[0]["key"] == key)
            begin(scheduler, tune, bundle)
        said(scheduler, tune, bundle, why=MEMORY)
        assert scheduler.pressure.most == (1 if again else math.inf), "half of the three that ran"
        scheduler.clock.time += 60  # type: ignore[attr-defined]
        scheduler.progress.poll()
        scheduler.step()
    live = [tune.bundles[number - 1] for number in list(scheduler.live)]
    for bundle in live:
        said(scheduler, tune, bundle, done(bundle), why="")
    assert len(scheduler.live) == 1
    assert scheduler.progress.to_json()["faults"] == {"machine": 2}


def test_workers_killed_for_memory_at_startup_are_retried(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes may use the memory for a while; if it never suffices for a worker, the sweep ends."""
    scheduler, tune = scheduled(store, cpus=4, grid={"seed": list(range(8))})
    for _ in range(5 * DEATHS):
        said(scheduler, tune, scheduler.live[next(iter(scheduler.live))].bundle, why=MEMORY)
    assert scheduler.pressure.most == len(scheduler.live) == 1, "fewer run meanwhile"
    monkeypatch.setattr(module, "STARVED_SECONDS", 0.0)
    bundle = scheduler.live[next(iter(scheduler.live))].bundle
    with pytest.raises(OSError, match="memory does not suffice to start a worker: OutOfMemoryError"):
        said(scheduler, tune, bundle, why=MEMORY)


def test_a_worker_without_work_is_kept_for_a_moment_but_not_if_a_builder_waits(store: Store) -> None:
    scheduler, tune = scheduled(store, grid={"seed": [0]})
    assert tune.more
    begin(scheduler, tune, tune.bundles[0])
    scheduler.clock.time += module.IDLE_SECONDS + 1  # type: ignore[attr-defined]
    scheduler.step()
    assert not tune.more


def test_helpers_of_a_builder_get_what_the_next_workers_free(store: Store) -> None:
    """They are tasks of the builder; nobody knows whether they wait."""
    scheduler, tune = scheduled(store, cpus=4, grid={"seed": list(range(12))})
    first = tune.bundles[:4]
    for bundle in first:
        begin(scheduler, tune, bundle)
    scheduler.claims = lambda: Claims((Request(1),) * 4)
    count = len(tune.bundles)
    said(scheduler, tune, first[0], done(first[0]), why="")
    assert len(tune.bundles) == count, "a bundle ahead would take what this one frees"
    for bundle in (*first[1:], *tune.bundles[4:]):
        said(scheduler, tune, bundle, done(bundle), why="")
    assert len(scheduler.live) == 1, "one training goes on beside them"


def test_a_builder_that_no_machine_can_hold_stops_nothing(store: Store) -> None:
    scheduler, tune = scheduled(store)
    scheduler.claims = lambda: Claims((), (Request(1),))
    scheduler.step()
    assert tune.held == {"cpus"}
    scheduler.cluster = Fixed(Capacity(2), [])
    scheduler.step()
    assert tune.held == frozenset()


def test_a_bundle_is_withdrawn_if_only_machines_are_left_that_it_avoids(store: Store) -> None:
    scheduler, tune = scheduled(store, grid={"seed": [0]})
    first = tune.bundles[0]
    again = retried(scheduler, tune, first, node="a")
    assert (again.request.avoid, tune.withdrawn) == ({"a"}, set())
    scheduler.cluster = Fixed(Capacity(1), ["a"])
    scheduler.step()
    assert tune.withdrawn == {again.number}
    said(scheduler, tune, again, why="")
    assert tune.bundles[-1].request.avoid == frozenset()


def test_a_worker_that_fails_before_its_first_training_counts_as_one_that_cannot_start(store: Store) -> None:
    """Such as one with another version of opsctl, which cannot read its settings."""
    scheduler, tune = scheduled(store)
    begins: Message = {"node": "a", "rests": False}
    for _ in range(DEATHS):
        said(scheduler, tune, tune.bundles[-1], begins, why="InputError: unknown field")
        later(scheduler)
    with pytest.raises(OSError, match="workers die as they start: InputError"):
        said(scheduler, tune, tune.bundles[-1], begins, why="InputError: unknown field")


def test_many_workers_that_start_may_die_together_with_their_machine(store: Store) -> None:
    scheduler, tune = scheduled(store, cpus=16, grid={"seed": list(range(40))})
    tune.next = [Over(bundle.number, "the node is gone") for bundle in tune.bundles]
    scheduler.step()
    assert scheduler.progress.to_json()["failed"] == 0


def test_a_machine_rests_no_longer_than_when_the_bundle_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle(1, "a", "a", Request(1), (), {"a": 100.0}, made=1000.0)
    for now, left in ((1000.0, 100.0), (1070.0, 30.0), (1200.0, 0.0), (500.0, 100.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert bundle.rest("a") == left
        assert bundle.rest("b") == 0.0
