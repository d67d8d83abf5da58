"""Several sweeps planned together count a shared trial, and a shared data set, once."""

from __future__ import annotations

from pathlib import Path

from orchestrator.execution.trial import run_trial
from orchestrator.planning.batch import Batch
from poisons import Store
from tests.conftest import CPU, Opsctl
from tests.orchestrator.sweeps import plan_of, tiny, write


def pair(store: Store) -> Batch:
    """{clean, ops} and {ops, em, randpix of two draws}, each with two seeds: ops is in both."""
    draws = {
        f"{kind} {seed}": {"poison": kind, "seed": seed} for kind, seed in (("randpix", 0), ("randpix", 1))
    }
    other = {"ops": {"poison": "ops"}, "em": {"poison": "em"}, **draws}
    grid = {"data": {name: {"limit": 60, **data} for name, data in other.items()}, "seed": [0, 1]}
    return Batch((plan_of(tiny(), store), plan_of(tiny(name="other", grid=grid), store)))


def test_trials_and_data_sets_shared_by_sweeps_count_once(store: Store) -> None:
    batch = pair(store)
    by_hand = {task.key for plan in batch.plans for task in plan.tasks}
    assert [task.key for task in batch.tasks] == list(
        dict.fromkeys(t.key for p in batch.plans for t in p.tasks)
    )
    assert (batch.points, len(batch.tasks), batch.shared, batch.most) == (12, len(by_hand), 2, 10)
    assert batch.single_seed == 5  # clean, ops, em, and each draw of the random pixel
    names = [spec.name for spec in batch.whole.to_build]
    assert len(names) == len(set(names)) == 6  # clean test and train, ops, em, randpix twice
    for i, spec in enumerate(batch.whole.to_build):
        assert {parent.name for parent in spec.parents} <= set(names[:i])


def test_a_finished_trial_is_done_in_every_sweep(store: Store) -> None:
    shared = next(task for task in pair(store).plans[0].tasks if task.point.labels["data.poison"] == "ops")
    run_trial(shared.trial, store, device=CPU)
    batch = pair(store)
    assert (batch.done, batch.most) == (1, 9)
    assert batch.of(batch.plans[0]) == "4 trials: 3 to run, 1 done"
    assert batch.of(batch.plans[1]) == "8 trials (2 shared with those above): 7 to run, 1 done"


def test_a_search_counts_only_the_trials_that_it_tries(store: Store) -> None:
    search = plan_of(tiny(run={"search": "optuna", "num_samples": 1}, name="search"), store)
    assert Batch((search,)).most == search.most == 2
    assert Batch((search, plan_of(tiny(), store))).most == 4  # the grid runs whatever the search would try


def test_the_plan_command_prints_the_total_of_several_sweeps(opsctl: Opsctl, tmp_path: Path) -> None:
    files = [
        write(tmp_path, tiny()),
        write(tmp_path, tiny(name="more", grid={"data.poison": ["ops", "em"], "seed": [0, 1]})),
    ]
    code, out, err = opsctl("plan", *map(str, files))
    assert code == 0, err
    assert "8 trials in 2 sweeps, 2 of them shared: 6 in all, 3 if each had one seed" in out
    assert "4 data sets to build, 6 trials to run, 0 trials already done" in out


def test_a_sweep_that_cannot_be_planned_does_not_affect_the_others(opsctl: Opsctl, tmp_path: Path) -> None:
    """A source may be missing on this machine, as ImageNet often is."""
    source = {"kind": "image_folder", "root": "nowhere"}
    odd = write(tmp_path, tiny(name="odd", base={"data": {"source": source}}))
    files = [write(tmp_path, tiny()), odd, write(tmp_path, tiny(name="again"))]
    code, out, err = opsctl("plan", *files)
    assert code == 2
    assert "8 trials in 2 sweeps, 4 of them shared: 4 in all, 2 if each had one seed" in out
    assert f"left out: {odd}: no folder" in " ".join(err.split())
    code, out, err = opsctl("report", *files, "--format", "csv")
    assert (code, out.count("tiny,"), "left out" in err) == (2, 2, True)
    code, out, err = opsctl("plan", odd, tmp_path / "gone.yaml")
    assert (code, out) == (2, "")
    assert "no folder" in err
    assert "gone.yaml" in err
