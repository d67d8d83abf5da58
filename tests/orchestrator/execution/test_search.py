"""A search tries cells with all of their seeds, none twice, at most as many as it may, and resumes where it stopped."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.estimates.cost import Costs
from orchestrator.estimates.estimate import Resources, estimate
from orchestrator.execution.search import OptunaSearch, Search
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.caveats import remarks
from orchestrator.planning.cells import drawn, place
from orchestrator.planning.expansion import Point, expand
from orchestrator.planning.plan import Plan, Task, make_plan
from orchestrator.planning.snapshot import kept_snapshot
from orchestrator.planning.spec import SweepSpec
from orchestrator.planning.sweep_file import load
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.storage import FolderStorage
from poisons import Store
from tests.conftest import ROOT
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError

CELLS = {
    "train.epochs": [1, 2, 3, 4, 5],
    "train.batch_size": [8, 16, 32, 64],
    "train.label_smoothing": [0.1, 0.2, 0.3],
}
GRID = {**CELLS, "seed": [0, 1]}


def sweep_of(n: int, grid: dict[str, Any], name: str) -> SweepSpec:
    run = {"search": "random", "num_samples": n}
    return SweepSpec.parse({"name": name, "question": "b?", "grid": grid, "run": run}, "a.yaml")


WHOLE = expand(sweep_of(1, GRID, "a"), "a.yaml")


def sampled(n: int, grid: dict[str, Any] = GRID, name: str = "a") -> tuple[Point, ...]:
    sweep = sweep_of(n, grid, name)
    return drawn(sweep, WHOLE if grid is GRID else expand(sweep, "a.yaml"))


@given(st.integers(1, 70), st.integers(0, 70))
def test_a_random_sample_is_exact_reproducible_and_part_of_a_larger_one(n: int, more: int) -> None:
    found = [point.name for point in sampled(n)]
    assert found == [point.name for point in sampled(n)]
    assert len(found) == 2 * min(n, 60), "whole cells, each with both seeds"
    larger = [point.name for point in sampled(n + more)]
    assert [name for name in larger if name in set(found)] == found
    assert [point.name for point in WHOLE if point.name in set(found)] == found, "in the order of the file"


def test_a_sample_is_stable_when_seeds_or_values_are_added_and_differs_by_name() -> None:
    cells = {place(point.labels) for point in sampled(20)}
    assert {place(point.labels) for point in sampled(20, {**CELLS, "seed": [0, 1, 2]})} == cells
    wider = {place(point.labels) for point in sampled(75, {**GRID, "train.epochs": [1, 2, 3, 4, 5, 6]})}
    assert len(wider) == 72
    assert {place(point.labels) for point in sampled(20, name="b")} != cells


def test_a_sample_is_fair() -> None:
    """Over many sweeps each cell is drawn about as often as any."""
    counts: dict[Any, int] = {}
    small = {"train.epochs": [1, 2, 3, 4, 5]}
    for i in range(400):
        for point in sampled(2, small, name=f"s{i}"):
            counts[place(point.labels)] = counts.get(place(point.labels), 0) + 1
    assert all(120 < counts[cell] < 200 for cell in counts), counts  # 160 each, and a deviation of 10


def test_a_plan_contains_the_sample_with_the_keys_of_the_grid(store: Store) -> None:
    grid, run = {"train.epochs": [1, 2, 3, 4], "seed": [0, 1]}, {"search": "random", "num_samples": 2}
    plan, whole = plan_of(tiny(grid=grid, run=run), store), plan_of(tiny(grid=grid), store)
    assert len(plan.tasks) == 4
    assert {task.key for task in plan.tasks} < {task.key for task in whole.tasks}
    assert remarks(plan) == ["search: random tries these 2 cells of the grid, each with all of its seeds"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"num_samples": 3}}, "search: grid runs every cell, so num_samples: 3 says nothing; leave it out"),
        ({"run": {"search": "random"}}, "search: random needs a limit on the number of cells; write num_samples: 30"),
        ({"run": {"search": "optuna"}}, "search: optuna needs a limit on the number of cells; write num_samples: 30"),
        ({"run": {"search": "bayes"}}, "run.search: .*'grid', 'random' or 'optuna'"),
        (
            {"run": {"scheduler": "asha"}, "report": {"metric": "test/peak_clean_acc"}},
            "run.scheduler: asha judges a trial after each epoch, when report.metric 'test/peak_clean_acc' is not known yet; "
            "write one of: test/clean_acc, train/acc, train/loss; or scheduler: none",
        ),
    ],
)  # fmt: skip
def test_an_impossible_search_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SweepSpec.parse(tiny(**changes), "test")


def test_cells_are_not_ranked_by_a_metric_that_no_trial_has(store: Store) -> None:
    report = {"metrics": {"shown": "test/clean_acc"}, "metric": "tets/clean_acc"}
    plan_of(tiny(grid=CELLS, report={**report, "rows": list(CELLS)[:2]}), store)
    for search in ("random", "optuna"):
        run = {"search": search, "num_samples": 2}
        with pytest.raises(
            InputError, match=r"report.metric: no metric 'tets/clean_acc'; did you mean 'test/cle"
        ):
            plan_of(tiny(grid=CELLS, report={**report, "rows": list(CELLS)[:2]}, run=run), store)


def optuna_plan(store: Store, n: int, name: str = "tiny", grid: dict[str, Any] = CELLS, **run: Any) -> Plan:
    run = {"search": "optuna", "num_samples": n, **run}
    return plan_of(tiny(name=name, grid=grid, run=run), store)


def worth(task: Task) -> float:
    """A table of 60 cells whose axes each matter; the best has epochs 4, batches of 32, smoothing 0.2."""
    train = task.trial.train
    off = (train.epochs - 4) / 10, 0.07 * (train.batch_size - 32) / 16, train.label_smoothing - 0.2
    return 1 - sum(map(abs, off))


def run(search: Search, room: int = 1) -> list[Task]:
    """Run a search to its end with so many workers; the trials in the order of their starts."""
    ran: list[Task] = []
    live: list[Task] = []
    while True:
        live += (new := search.ask(room))
        ran += new
        if not live:
            return ran
        task = live.pop(0)
        search.tell(task, worth(task))


def test_the_plan_of_the_shipped_search_has_every_cell(store: Store) -> None:
    file = ROOT / "sweeps" / "strongest_defense.yaml"
    plan = make_plan(load(file, ("data.source=digits",)), store, str(file))
    assert len(plan.tasks) == 96 * 2
    assert len(plan.names) == 3, "clean images to train on and to test with, and the poisoned ones"
    first, second = remarks(plan)
    assert first == "search: optuna tries at most 32 of 96 cells, each with all of its seeds"
    assert second.startswith("scheduler: asha ends trials early")
    search = Search.of(plan, Ledger(store.where))
    given = search.ask(6)
    assert len(given) == 6
    assert len({place(task.point.labels) for task in given}) == 3


def test_without_a_search_every_missing_trial_is_given_once(store: Store) -> None:
    plan = plan_of(tiny(grid=GRID), store)
    ledger = Ledger(store.where)
    ledger.publish(plan.tasks[5].key, {"metrics": {"test/clean_acc": 0.5}})
    plan = plan_of(tiny(grid=GRID), store)
    search = Search.of(plan, ledger)
    assert [task.key for task in search.ask(1)] == [task.key for task in plan.missing]
    assert search.ask(1000) == []


def test_optuna_finds_the_best_more_often_than_chance(store: Store) -> None:
    found = chance = 0
    for i in range(20):
        plan = optuna_plan(store, 30, name=f"s{i}")
        best = max(plan.tasks, key=worth).key
        ran = run(Search.of(plan, Ledger(store.where)))
        assert len({task.key for task in ran}) == len(ran) == 30
        found += best in {task.key for task in ran}
        chance += best in {task.key for task in random.Random(i).sample(plan.tasks, 30)}
    assert found > chance + 4, (found, chance)
    assert found >= 18


@pytest.mark.parametrize("room", [1, 5, 16])
def test_it_tries_complete_cells_once_and_is_reproducible(store: Store, tmp_path: Any, room: int) -> None:
    plan = optuna_plan(store, 9, grid=GRID)
    ran = run(Search.of(plan, Ledger(tmp_path / "one")), room)
    assert len({task.key for task in ran}) == len(ran) == 18
    assert len({place(task.point.labels) for task in ran}) == 9
    again = run(Search.of(plan, Ledger(tmp_path / "two")), room)
    assert [task.key for task in again] == [task.key for task in ran]


def test_no_more_trials_are_asked_for_than_there_are_workers(store: Store) -> None:
    search = Search.of(optuna_plan(store, 30, grid=GRID), Ledger(store.where))
    first = search.ask(4)
    assert len(first) == 4
    assert search.ask(4) == []
    search.tell(first[0], 0.5)
    assert len(search.ask(4)) == 2, "the next cell, with both seeds"
    assert search.ask(4) == []


def test_a_sample_larger_than_the_grid_is_the_grid(store: Store) -> None:
    grid = {"train.epochs": [1, 2, 3], "seed": [0, 1]}
    plan = plan_of(tiny(grid=grid, skip=[{"train.epochs": 2, "seed": 1}], run={"search": "optuna", "num_samples": 50}), store)  # fmt: skip
    assert len(run(Search.of(plan, Ledger(store.where)))) == 5
    assert remarks(plan) == ["search: optuna tries at most 3 of 3 cells, each with all of its seeds"]


def test_finished_cells_are_free_and_started_cells_come_first(store: Store) -> None:
    ledger = Ledger(store.where)
    first = Search.of(optuna_plan(store, 10, grid=GRID), ledger)
    assert isinstance(first, OptunaSearch)
    ran: list[Task] = []
    while len(ran) < 8:
        ran += (new := first.ask(2))
        for task in new:
            ledger.publish(task.key, {"metrics": {"test/clean_acc": worth(task)}})
            first.tell(task, worth(task))
    begun = first.ask(4)  # two cells; of the first, one seed is done when the driver dies
    ledger.publish(begun[0].key, {"metrics": {"test/clean_acc": worth(begun[0])}})
    again = Search.of(optuna_plan(store, 10, grid=GRID), ledger)
    assert isinstance(again, OptunaSearch)
    assert again.tried == 6
    assert [task.key for task in again.ask(3)] == [task.key for task in begun[1:]]
    rest = run_on(again, begun[1:])
    assert len({place(task.point.labels) for task in [*ran, *begun, *rest]}) == 10
    assert len([*ran, *begun, *rest]) == 20
    more = Search.of(optuna_plan(store, 11, grid=GRID), ledger)
    assert {task.key for task in more.ask(40)} >= {task.key for task in rest}, "a larger sample holds it"


def run_on(search: Search, live: list[Task]) -> list[Task]:
    for task in live:
        search.tell(task, worth(task))
    return run(search)


def test_cells_that_another_sweep_finished_count_as_tried(store: Store) -> None:
    ledger = Ledger(store.where)
    for task in optuna_plan(store, 5).tasks[:4]:
        ledger.publish(task.key, {"metrics": {"test/clean_acc": worth(task)}})
    assert len(run(Search.of(optuna_plan(store, 5), ledger))) == 1
    assert run(Search.of(optuna_plan(store, 4, name="other"), ledger)) == []


def test_drivers_that_share_storage_share_the_search(store: Store) -> None:
    plan, ledger = optuna_plan(store, 12), Ledger(store.where)
    one, two = Search.of(plan, ledger), Search.of(plan, ledger)
    mine, theirs = one.ask(5), two.ask(3)
    assert [task.key for task in theirs] == [task.key for task in mine[:3]], "leases decide who runs them"
    for task in mine:
        one.tell(task, worth(task))
        two.tell(task, worth(task))
    everything = {task.key for task in [*mine, *theirs, *run(one), *run(two)]}
    assert len(everything) == 12


def test_a_failed_or_pruned_cell_is_never_the_best(store: Store) -> None:
    plan, ledger = optuna_plan(store, 60, grid=GRID, scheduler="asha"), Ledger(store.where)
    search = Search.of(plan, ledger)
    assert isinstance(search, OptunaSearch)
    tasks = search.ask(8)
    stop = {"epoch": 2, "metric": "test/clean_acc", "value": 0.25}
    stops = {task.key: stop for task in tasks[:3]}
    for task in tasks[:3]:
        ledger.stop(task.key, stop)
    for task, value in zip(tasks, [None, None, None, 0.75, None, None, 0.5, 0.5], strict=True):
        search.tell(task, value, stops.get(task.key))
    states = [(trial.state.name, trial.value) for trial in search.study.trials if trial.state.is_finished()]
    judged = [state for state in states if state != ("FAIL", None)]
    assert judged == [("PRUNED", 0.25), ("COMPLETE", 0.5), ("COMPLETE", 0.5)]
    settled = Search.of(optuna_plan(store, 60, grid=GRID, scheduler="asha"), ledger).ask(1000)
    assert not {task.key for task in tasks[:3]} & {task.key for task in settled}
    whole = Search.of(optuna_plan(store, 60, grid=GRID), ledger).ask(1000)
    assert {task.key for task in tasks[:3]} <= {task.key for task in whole}, (
        "without a scheduler it runs whole"
    )


class Shaky(FolderStorage):
    """A folder that raises an error on every third call."""

    calls = 0

    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        self.calls += 1
        if self.calls % 3 == 2:
            raise OSError("no answer")
        return super().create(name, data, lasting=lasting)


def test_unreachable_storage_loses_no_trial(store: Store) -> None:
    ledger = Ledger(store.where)
    ledger.storage = Shaky(store.root)
    search = Search.of(optuna_plan(store, 12, grid=GRID), ledger)
    given: list[Task] = []
    for _ in range(40):
        with suppress(OSError):
            given += search.ask(8)
        for task in given:
            search.tell(task, worth(task))
    assert len({task.key for task in given}) == len(given) == 24


def finished(store: Store, name: str = "strongest_defense") -> SweepSpec:
    """The shipped search, run to its end: 32 cells of 96, all that asha did not stop done."""
    file = ROOT / "sweeps" / f"{name}.yaml"
    sweep, ledger = load(file, ("data.source=digits",)), Ledger(store.where)
    search = Search.of(make_plan(sweep, store, name), ledger)
    stop = {"epoch": 20, "metric": "test/clean_acc", "value": 0.25}
    live, ended = search.ask(4), 0
    while live:
        task, ended = live.pop(), ended + 1
        stopped = ended % 3 == 0
        if stopped:
            ledger.stop(task.key, stop)
        else:
            ledger.publish(task.key, {"metrics": {"test/clean_acc": 0.5}})
        search.tell(task, None if stopped else 0.5)
        live += search.ask(4)
    assert ended == 64
    return sweep


def test_a_finished_search_leaves_nothing_to_run_build_or_estimate(store: Store) -> None:
    plan = make_plan(finished(store), store, "strongest_defense")
    assert (plan.missing, plan.to_build, plan.most) == ((), (), 0)
    assert (plan.done, len(plan.stopped), len(plan.tasks)) == (43, 21, 192)
    status = read_status(plan.snapshot, Ledger(store.where))
    assert (status.total, status.settled, status.missing) == (64, 64, 0)
    assert status.counts == "43 of 64 trials done, 0 failed, 21 stopped early, 0 missing"
    again = Ledger(store.where).storage
    plan.snapshot.keep(again, "v")
    assert kept_snapshot(again, "v") == plan.snapshot


def test_an_unfinished_search_has_its_started_and_remaining_cells_left(store: Store) -> None:
    ledger, plan = Ledger(store.where), optuna_plan(store, 10, grid=GRID)
    assert plan.work == "at most 2 data sets to build, 20 trials to run"
    begun = Search.of(plan, ledger).ask(8)
    for task in (begun[0], begun[1], begun[2]):
        ledger.publish(task.key, {"metrics": {"test/clean_acc": worth(task)}})
    elsewhere = next(task for task in plan.tasks if place(task.point.labels) not in {place(t.point.labels) for t in begun})  # fmt: skip
    ledger.publish(elsewhere.key, {"metrics": {"test/clean_acc": 0.5}})
    plan = optuna_plan(store, 10, grid=GRID)
    assert plan.sure == {task.key for task in begun[3:]}
    assert plan.most == 5 + 6 * 2
    assert read_status(plan.snapshot, ledger).missing == plan.most
    only = optuna_plan(store, 4, grid=GRID)
    assert {task.key for task in only.missing} == only.sure == plan.sure, "no other cell will be begun"
    assert only.work == "2 data sets to build, 5 trials to run"


def test_a_search_costs_as_much_as_the_trials_that_it_tries(store: Store) -> None:
    plan = optuna_plan(store, 6, grid=GRID)
    costs = Costs.given(store, 0.001)
    whole = {task.key: costs.task_seconds(task) for task in plan.tasks}
    cost = estimate(plan, costs, Resources(1, 0.0, 1.0))
    assert len(cost.trials) == plan.most == 12
    mean = sum(whole.values()) / len(whole)
    assert sum(cost.trials.values()) == pytest.approx(12 * mean, rel=0.1), (
        "the mean over long and short trials"
    )
    sure = {task.key for task in Search.of(plan, Ledger(store.where)).ask(3)}
    again = estimate(optuna_plan(store, 6, grid=GRID), costs, Resources(1, 0.0, 1.0))
    assert again.trials.keys() >= sure
    assert len(again.trials) == 12
