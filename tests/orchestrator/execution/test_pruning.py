"""A scheduler prunes hopeless trials, never the best, and compares only epochs that others have reached."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from orchestrator.execution.pruning import Pruner
from orchestrator.execution.trial import run_trial
from orchestrator.planning.caveats import remarks
from orchestrator.planning.plan import Plan, Task
from orchestrator.planning.spec import JUDGED
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.trial_spec import TrialSpec
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import plan_of, tiny

EPOCHS = 27
GRID = {"train.batch_size": [8, 16, 24, 32, 40, 48, 56, 64], "seed": [0, 1, 2]}


def plan(store: Store, scheduler: str, epochs: Any = EPOCHS, **run: Any) -> Plan:
    grid = GRID | ({"train.epochs": epochs} if isinstance(epochs, list) else {})
    sweep = tiny(grid=grid, run={"scheduler": scheduler, **run}, report={"rows": "train.batch_size"})
    if isinstance(epochs, list):
        sweep["report"] = {"rows": ["train.batch_size", "train.epochs"]}
    else:
        sweep["base"] = {**sweep["base"], "train": {**sweep["base"]["train"], "epochs": epochs}}
    return plan_of(sweep, store)


def curve(task: Task, epoch: int) -> float:
    """Larger batches are better, seeds differ a little, and no two curves cross."""
    goal = task.trial.train.batch_size / 80 + task.trial.seed / 1000  # type: ignore[operator]
    return goal * (1 - math.exp(-epoch / 8))


def race(judge: Pruner, tasks: list[Task], *, workers: int, sign: float = 1.0) -> dict[str, int]:
    """Run trials epoch by epoch, so many at a time; the last epoch of each by its key."""
    waiting, live, last = list(tasks), dict[str, tuple[Task, int]](), dict[str, int]()
    while waiting or live:
        while waiting and len(live) < workers:
            task = waiting.pop(0)
            live[task.key] = (task, 1)
        for key, (task, epoch) in list(live.items()):
            row = {"epoch": float(epoch), "test/clean_acc": sign * curve(task, epoch)}
            last[key] = epoch
            if judge.report(task, epoch, row) or epoch == task.trial.train.epochs:
                del live[key]
            else:
                live[key] = (task, epoch + 1)
    return last


def halved(tasks: list[Task], *, workers: int, epochs: int) -> dict[str, int]:
    """A plain implementation of asynchronous successive halving: at g, 3 g, 9 g, ... the best third of the trials
    that reached this epoch continues, or the best one if there are fewer than three."""
    rungs: dict[int, list[float]] = {}
    epoch = math.ceil(epochs / 10)
    while epoch <= epochs:
        rungs[epoch], epoch = [], epoch * 3
    waiting, live, last = list(tasks), list[tuple[Task, int]](), dict[str, int]()
    while waiting or live:
        while waiting and len(live) < workers:
            live.append((waiting.pop(0), 1))
        going = []
        for task, epoch in live:
            last[task.key] = epoch
            goes_on = epoch < epochs
            if epoch in rungs:
                rungs[epoch].append(curve(task, epoch))
                best = sorted(rungs[epoch], reverse=True)[: max(1, len(rungs[epoch]) // 3)]
                goes_on = goes_on and curve(task, epoch) >= best[-1]
            if goes_on:
                going.append((task, epoch + 1))
        live = going
    return last


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workers", [1, 4, 24])
def test_asha_matches_a_plain_implementation_and_keeps_the_best(
    store: Store, seed: int, workers: int
) -> None:
    todo = plan(store, "asha")
    tasks = list(todo.tasks)
    random.Random(seed).shuffle(tasks)
    last = race(Pruner.of(todo, Ledger(store.where)), tasks, workers=workers)
    assert last == halved(tasks, workers=workers, epochs=EPOCHS)
    best, worst = max(tasks, key=lambda t: curve(t, EPOCHS)), min(tasks[3:], key=lambda t: curve(t, EPOCHS))
    assert last[best.key] == EPOCHS
    assert last[worst.key] == 3, "the first rung, a tenth of the epochs"
    assert sum(last.values()) < 0.75 * EPOCHS * len(tasks)


@pytest.mark.parametrize("seed", range(5))
def test_the_median_rule_prunes_the_worse_half_after_five_trials_and_keeps_the_best(
    store: Store, seed: int
) -> None:
    todo = plan(store, "median")
    tasks = list(todo.tasks)
    random.Random(seed).shuffle(tasks)
    last = race(Pruner.of(todo, Ledger(store.where)), tasks, workers=1)
    assert [last[task.key] for task in tasks[:5]] == [EPOCHS] * 5
    finished = [curve(task, 3) for task in tasks[:5]]
    for task in tasks[5:]:
        middle = sorted(finished)[(len(finished) - 1) // 2], sorted(finished)[len(finished) // 2]
        assert last[task.key] == (3 if curve(task, 3) < sum(middle) / 2 else EPOCHS)
        finished += [curve(task, 3)] if last[task.key] == EPOCHS else []
    assert last[max(tasks, key=lambda t: curve(t, EPOCHS)).key] == EPOCHS


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_the_lowest_is_kept_if_lower_is_better(store: Store, scheduler: str) -> None:
    todo = plan(store, scheduler, mode="min")
    last = race(Pruner.of(todo, Ledger(store.where)), list(todo.tasks), workers=4, sign=-1)
    other = plan(store, scheduler, mode="max")
    assert last == race(Pruner.of(other, Ledger(store.where)), list(other.tasks), workers=4)


def test_trials_of_different_lengths_are_not_compared(store: Store) -> None:
    todo = plan(store, "asha", epochs=[9, 27])
    judge = Pruner.of(todo, Ledger(store.where))
    short, long = ([task for task in todo.tasks if task.trial.train.epochs == n] for n in (9, 27))
    race(judge, [max(long, key=lambda t: curve(t, 27))], workers=1)
    worst = min(short, key=lambda t: curve(t, 9))
    assert race(judge, [worst], workers=1) == {worst.key: 9}


def test_no_trial_is_pruned_after_its_last_epoch(store: Store) -> None:
    todo = plan(store, "asha", epochs=1)
    assert set(race(Pruner.of(todo, Ledger(store.where)), list(todo.tasks), workers=4).values()) == {1}
    judge = Pruner.of(todo, Ledger(store.where))
    assert not any(judge.report(task, 1, {"test/clean_acc": -i}) for i, task in enumerate(todo.tasks))


def test_a_row_reported_twice_changes_nothing(store: Store) -> None:
    todo = plan(store, "asha")
    once, twice = Pruner.of(todo, Ledger(store.where)), Pruner.of(todo, Ledger(store.where))
    for task in todo.tasks[::-1]:
        for epoch in range(1, 10):
            row = {"epoch": float(epoch), "test/clean_acc": curve(task, epoch)}
            said = once.report(task, epoch, row)
            assert twice.report(task, epoch, row) == said
            assert [twice.report(task, e, row) for e in range(1, epoch + 1)] == [said] * epoch


def test_epochs_whose_report_was_lost_are_taken_from_the_record(store: Store) -> None:
    """A finished trial counts with all of its epochs; otherwise nothing could be compared with it."""
    planned = plan(store, "median")
    ranked = sorted(planned.tasks, key=lambda task: -curve(task, EPOCHS))
    best, worst = ranked[:5], ranked[-1]
    judge = Pruner.of(planned, Ledger(store.where))
    for task in best:
        rows = [{"epoch": float(e), "test/clean_acc": curve(task, e)} for e in range(1, EPOCHS + 1)]
        assert not any([judge.report(task, e, rows[e - 1]) for e in (1, 2, 5)])
        judge.learn(task, {"metrics": {}, "history": rows})
    ends = [judge.report(worst, e, {"test/clean_acc": curve(worst, e)}) for e in range(1, EPOCHS + 1)]
    assert any(ends)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_resumed_sweep_prunes_as_if_it_had_not_been_interrupted(store: Store, scheduler: str) -> None:
    ledger, todo = Ledger(store.where), plan(store, scheduler)
    tasks = list(todo.tasks)
    random.Random(1).shuffle(tasks)
    whole = Pruner.of(todo, ledger)
    first = race(whole, tasks[:14], workers=1)
    for task in tasks[:14]:
        rows = [{"epoch": float(e), "test/clean_acc": curve(task, e)} for e in range(1, first[task.key] + 1)]
        if first[task.key] == EPOCHS:
            ledger.publish(
                task.key, {"metrics": {"test/clean_acc": rows[-1]["test/clean_acc"]}, "history": rows}
            )
        else:
            ledger.stop(task.key, whole.verdict(task, rows[-1]))
    again = plan(store, scheduler)
    assert len(again.missing) == len(tasks) - 14
    assert race(Pruner.of(again, ledger), tasks[14:], workers=1) == race(whole, tasks[14:], workers=1)


def test_the_verdict_names_epoch_metric_scheduler_and_sweep(store: Store) -> None:
    todo = plan(store, "asha")
    judge = Pruner.of(todo, Ledger(store.where))
    best, worst = todo.tasks[-1], todo.tasks[0]
    race(judge, [best], workers=1)
    assert race(judge, [worst], workers=1) == {worst.key: 3}
    row = {"epoch": 3.0, "test/clean_acc": curve(worst, 3), "lr": 0.1}
    verdict = judge.verdict(worst, row)
    assert verdict["history"] == [{"epoch": float(e), "test/clean_acc": curve(worst, e)} for e in (1, 2, 3)]
    assert {name: verdict[name] for name in verdict if name != "history"} == {
        "epoch": 3, "metric": "test/clean_acc", "value": curve(worst, 3), "scheduler": "asha", "sweep": "tiny",
    }  # fmt: skip


def test_without_a_scheduler_nothing_is_pruned(store: Store) -> None:
    todo = plan(store, "none")
    assert set(race(Pruner.of(todo, Ledger(store.where)), list(todo.tasks), workers=4).values()) == {EPOCHS}
    assert remarks(todo) == []


def test_a_scheduler_that_thins_means_over_seeds_gives_a_warning(store: Store) -> None:
    (remark,) = remarks(plan(store, "median"))
    assert remark.startswith("scheduler: median ends trials early, and stopped trials are not in the means")


def test_metrics_for_pruning_are_those_reported_every_epoch(store: Store) -> None:
    rows: list[dict[str, float]] = []
    trial = TrialSpec.parse(tiny()["base"], "test")
    pinned = trial.model_copy(update={"data": trial.data.pinned()})
    run_trial(pinned, store, device=CPU, report=rows.append)
    assert len(rows) == 2
    assert all({*JUDGED, "epoch", "lr"} == set(row) for row in rows)
