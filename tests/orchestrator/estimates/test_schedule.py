"""No slot idles while a trial could run, long trials do not come last, and data sets are ordered by the work that
waits for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.estimates.order import order_data, order_trials, waiting_seconds
from orchestrator.estimates.schedule import Job, Span, makespan, play
from orchestrator.planning.expansion import Point
from orchestrator.planning.plan import Task
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec
from poisons.sources.digits import Digits

POINT = Point({}, TrialSpec())
TIMES = st.lists(st.integers(1, 100).map(float), min_size=1, max_size=60)
SLOTS = st.integers(1, 16)


def tasks_of(*needs: tuple[str, ...]) -> list[Task]:
    return [Task(str(i), POINT, False, need) for i, need in enumerate(needs)]


def longest_first(times: Sequence[float]) -> list[Job]:
    seconds = {str(i): time for i, time in enumerate(times)}
    return [Job(task.key, seconds[task.key]) for task in order_trials(tasks_of(*[()] * len(times)), seconds)]


def best(times: Sequence[float], slots: int) -> float:
    """The smallest makespan, by exhaustive search."""
    ways = itertools.product(range(slots), repeat=len(times))
    return min(
        max(sum(t for t, s in zip(times, way, strict=True) if s == i) for i in range(slots)) for way in ways
    )


@given(st.lists(st.integers(1, 20).map(float), min_size=1, max_size=6), st.integers(1, 3))
def test_longest_first_satisfies_grahams_bound(times: list[float], slots: int) -> None:
    found = makespan(longest_first(times), slots)
    assert found <= (4 / 3 - 1 / (3 * slots)) * best(times, slots) + 1e-9


@given(TIMES, SLOTS)
def test_longest_first_is_near_the_lower_bound(times: list[float], slots: int) -> None:
    """max(total / slots, longest) is a bound for every order; what runs last is the shortest of all."""
    found, mean = makespan(longest_first(times), slots), sum(times) / slots
    bound = max(mean, max(times))
    assert bound - 1e-9 <= found <= (2 - 1 / slots) * bound + 1e-9
    if found > bound + 1e-9:  # no slot was idle before the last trial began
        last = max(play(longest_first(times), slots).values(), key=lambda span: span.end)
        assert last.start <= mean


@given(TIMES, SLOTS)
def test_within_a_third_where_no_trial_is_longer_than_a_third_of_a_slots_work(
    times: list[float], slots: int
) -> None:
    mean = sum(times) / slots
    if 3 * max(times) <= mean:
        found = makespan(longest_first(times), slots)
        assert found <= (4 / 3 - 1 / (3 * slots)) * max(mean, max(times)) + 1e-9


def test_the_order_of_a_file_may_take_nearly_twice_as_long() -> None:
    times = [1.0] * 90 + [10.0]
    in_order = [Job(str(i), time) for i, time in enumerate(times)]
    assert makespan(in_order, 10) == 19
    assert makespan(longest_first(times), 10) == 10


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    """Jobs in some order, each needing some of those drawn before it."""
    count = draw(st.integers(1, 30))
    jobs = []
    for i in range(count):
        needs = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        jobs.append(Job(str(i), float(draw(st.integers(1, 50))), tuple(map(str, sorted(needs)))))
    return draw(st.permutations(jobs))


def chain(jobs: Sequence[Job]) -> float:
    """Seconds of the longest chain of jobs that need each other."""
    by_name, known = {job.name: job for job in jobs}, dict[str, float]()

    def length(name: str) -> float:
        if name not in known:
            job = by_name[name]
            known[name] = job.seconds + max((length(need) for need in job.needs), default=0.0)
        return known[name]

    return max(length(job.name) for job in jobs)


@given(graphs(), st.integers(1, 5))
def test_no_slot_idles_while_something_waits_that_could_run(jobs: list[Job], slots: int) -> None:
    spans = play(jobs, slots)
    assert spans.keys() == {job.name for job in jobs}
    for job in jobs:
        could = max((spans[need].end for need in job.needs), default=0.0)
        assert spans[job.name].start >= could
        for moment in {span.end for span in spans.values()} | {0.0}:
            if could <= moment < spans[job.name].start:
                assert busy(spans.values(), moment) == slots
    assert max(busy(spans.values(), span.start) for span in spans.values()) <= slots
    bound = sum(job.seconds for job in jobs) / slots + (1 - 1 / slots) * chain(jobs)
    assert makespan(jobs, slots) <= bound + 1e-9


def busy(spans: object, moment: float) -> int:
    return sum(span.start <= moment < span.end for span in spans)  # type: ignore[attr-defined]


def test_no_jobs_take_no_time_and_needs_outside_the_jobs_are_met() -> None:
    assert makespan([], 4) == 0
    assert play([Job("a", 2.0, ("in the store",)), Job("b", 1.0, ("a",))], 4) == {
        "a": Span(0.0, 2.0),
        "b": Span(2.0, 3.0),
    }
    assert play([Job("a", 1.0, ("b",)), Job("b", 1.0, ("a",))], 1) == {}


def data_sets(*poison: object) -> list[DataSpec]:
    """Data sets of these poisons, each after its parents."""
    found: dict[str, DataSpec] = {}
    for i, kind in enumerate(poison):
        spec = DataSpec.model_validate({"source": Digits(fingerprint="f"), "poison": kind, "seed": i})
        for one in (*(p for parent in spec.parents for p in (*parent.parents, parent)), spec):
            found.setdefault(one.name, one)
    return list(found.values())


def test_equally_long_trials_keep_the_order_of_the_plan() -> None:
    tasks = tasks_of((), (), (), ())
    ordered = order_trials(tasks, {"0": 1.0, "1": 5.0, "2": 1.0, "3": 5.0})
    assert [task.key for task in ordered] == ["1", "3", "0", "2"]


def test_work_that_waits_for_a_child_waits_for_its_parents_too() -> None:
    clean, em, ops, both = data_sets(["em", "ops"])
    assert [spec.poison[0].kind for spec in (clean, em, ops)] == ["clean", "em", "ops"]
    tasks = tasks_of((clean.name,), (ops.name,), (both.name,), (both.name, clean.name))
    waiting = waiting_seconds([clean, em, ops, both], tasks, {"0": 1.0, "1": 10.0, "2": 100.0, "3": 1000.0})
    assert waiting == {clean.name: 1111.0, em.name: 1100.0, ops.name: 1110.0, both.name: 1100.0}
    assert order_data([clean, em, ops, both], waiting) == [clean, ops, em, both]


@pytest.mark.parametrize("turn", range(6))
def test_parents_stay_before_their_children(turn: int) -> None:
    specs = data_sets("ops", ["em", "ops"], "randpix")
    names = [spec.name for spec in reversed(specs)]
    times = {str(i): float((i + turn) % len(specs)) for i in range(len(specs))}
    ordered = order_data(specs, waiting_seconds(specs, tasks_of(*[(name,) for name in names]), times))
    place = {spec.name: i for i, spec in enumerate(ordered)}
    assert len(place) == len(specs) > 4
    for spec in ordered:
        assert all(place[parent.name] < place[spec.name] for parent in spec.parents)


def test_data_sets_that_block_the_most_work_come_first() -> None:
    """Four data sets with a short trial each, and a fifth with a long one: in the order of the file, the long one
    starts when the others have ended."""
    specs = [spec for spec in data_sets("ops", "ops", "ops", "ops", "ops") if spec.parents]
    times = {"0": 1.0, "1": 1.0, "2": 1.0, "3": 1.0, "4": 40.0}
    tasks = tasks_of(*[(spec.name,) for spec in specs])

    def takes(data: Sequence[DataSpec], trials: Sequence[Task]) -> float:
        ready_trials_first = [Job(task.key, times[task.key], task.needs) for task in trials]
        return makespan([*ready_trials_first, *(Job(spec.name, 10.0) for spec in data)], 2)

    waiting = waiting_seconds(specs, tasks, times)
    assert order_data(specs, waiting)[0] is specs[4]
    plan_order, ours = takes(specs, tasks), takes(order_data(specs, waiting), order_trials(tasks, times))
    assert plan_order == 72
    assert ours == 50 == times["4"] + 10, "no order is faster: this trial waits for its data set"


@pytest.mark.parametrize("slots", [1, 8, 64])
def test_thousands_of_trials_are_scheduled_quickly(slots: int) -> None:
    jobs = [Job(str(i), 1.0 + i % 7) for i in range(5000)]
    total = sum(job.seconds for job in jobs)
    assert math.isclose(makespan(jobs, slots), total / slots, rel_tol=0.02)
