"""`gpus_per_trial: auto` measures each shape once, remembers it, and gives more where it was too little."""

from __future__ import annotations

from orchestrator.estimates import packing
from orchestrator.estimates.shares import Given, Measured, Shares
from orchestrator.planning.extents import Extents
from orchestrator.planning.plan import Task
from orchestrator.storage.storage import open_storage
from poisons import Store
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny
from trainers.gpu_profile import GpuProfile

GB = 2**30
TWO = {"wide": {**TRAIN, "batch_size": 64}, "narrow": {**TRAIN, "batch_size": 16}}


def measured(store: Store) -> tuple[Measured, list[str]]:
    plan = plan_of(tiny(grid={"train": TWO, "data.poison": ["clean", "ops"], "seed": [0, 1]}), store)
    shares = Measured(packing.ShareStore(open_storage(store.where)), Extents(store), "H200", plan.tasks)
    return shares, list(shares.wanted)


def test_trials_of_one_shape_are_measured_once(store: Store) -> None:
    shares, shapes = measured(store)
    assert len(shapes) == 2, "poison and seed decide no memory"
    tasks = {shape: task for shape, task in shares.wanted.items()}
    assert [shares.of(task) for task in tasks.values()] == [None, None]
    assert shares.measured(shapes[0], GpuProfile(2 * GB, 0.3, 0.01), 40 * GB) == 0.25
    assert shares.of(tasks[shapes[0]]) == 0.25
    assert shares.of(tasks[shapes[1]]) is None
    shares.unknown(shapes[1])
    assert shares.of(tasks[shapes[1]]) == 1.0
    assert shares.wanted == {}


def test_what_was_measured_is_known_to_the_next_sweep(store: Store) -> None:
    shares, shapes = measured(store)
    shares.measured(shapes[0], GpuProfile(2 * GB, 0.3, 0.01), 40 * GB)
    assert measured(store)[1] == [shapes[1]]


def test_a_lack_of_memory_grows_the_share_of_all_like_it_for_good(store: Store) -> None:
    shares, shapes = measured(store)
    task = shares.wanted[shapes[0]]
    shares.measured(shapes[0], GpuProfile(2 * GB, 0.3, 0.01), 40 * GB)
    assert shares.grow(task, 0.25)
    assert shares.of(task) == 0.5
    again, _ = measured(store)
    assert again.of(task) == 0.5
    assert again.grow(task, 0.5)
    assert not again.grow(task, 1.0), "there is no more"


def given(store: Store, share: float) -> tuple[Given, Task, Task]:
    """And a trial of each of two shapes."""
    plan = plan_of(tiny(grid={"train": TWO, "data.poison": ["clean", "ops"], "seed": [0, 1]}), store)
    shares = Given(share, packing.ShareStore(open_storage(store.where)), Extents(store), "H200", plan.tasks)
    one = plan.tasks[0]
    return shares, one, next(t for t in plan.tasks if shares.shapes[t.key] != shares.shapes[one.key])


def test_a_share_given_by_hand_is_kept_but_for_those_that_it_was_too_little_for(store: Store) -> None:
    shares, one, other = given(store, 0.25)
    assert (shares.of(one), shares.of(other)) == (0.25, 0.25)
    assert shares.grow(one, 0.25)
    assert (shares.of(one), shares.of(other)) == (0.5, 0.25), "others keep theirs"
    like_it = [key for key, shape in shares.shapes.items() if shape == shares.shapes[one.key]]
    assert len(like_it) == 4
    assert shares.grow(one, 0.5)
    assert not shares.grow(one, 1.0)


def test_the_next_sweep_knows_what_a_share_given_by_hand_was_too_little_for(store: Store) -> None:
    shares, one, other = given(store, 0.25)
    shares.grow(one, 0.25)
    again, _, _ = given(store, 0.25)
    assert (again.of(one), again.of(other)) == (0.5, 0.25)
    larger, _, _ = given(store, 0.75)
    assert (larger.of(one), larger.of(other)) == (0.75, 0.75)


def test_what_was_measured_does_not_overrule_what_is_said(store: Store) -> None:
    found, shapes = measured(store)
    found.measured(shapes[0], GpuProfile(2 * GB, 1.0, 0.01), 40 * GB)
    assert given(store, 0.25)[0].known == {}


def test_all_of_a_gpu_and_none_of_it_do_not_grow(store: Store) -> None:
    task = plan_of(tiny(), store).tasks[0]
    for share in (0.0, 1.0):
        shares = Shares.fixed(share)
        assert not shares.grow(task, share)
        assert shares.of(task) == share
