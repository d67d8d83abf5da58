"""`gpus_per_trial: auto` measures each shape once, stores its share, and raises shares that were too small."""

from __future__ import annotations

from orchestrator.estimates import packing
from orchestrator.estimates.shares import Given, Measured, Shares
from orchestrator.planning.extents import Extents
from orchestrator.planning.plan import Task
from orchestrator.storage.locations import open_storage
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
    assert len(shapes) == 2, "poison and seed do not affect memory"
    tasks = {shape: task for shape, task in shares.wanted.items()}
    assert [shares.of(task) for task in tasks.values()] == [None, None]
    assert shares.measured(shapes[0], GpuProfile(2 * GB, 0.3, 0.01), 40 * GB) == 0.25
    assert shares.of(tasks[shapes[0]]) == 0.25
    assert shares.of(tasks[shapes[1]]) is None
    shares.unknown(shapes[1])
    assert shares.of(tasks[shapes[1]]) == 1.0
    assert shares.wanted == {}


def test_measured_shares_are_stored_for_the_next_sweep(store: Store) -> None:
    shares, shapes = measured(store)
    shares.measured(shapes[0], GpuProfile(2 * GB, 0.3, 0.01), 40 * GB)
    assert measured(store)[1] == [shapes[1]]


def test_a_memory_fault_permanently_raises_the_share_of_the_shape(store: Store) -> None:
    shares, shapes = measured(store)
    task = shares.wanted[shapes[0]]
    shares.measured(shapes[0], GpuProfile(2 * GB, 0.3, 0.01), 40 * GB)
    assert shares.grow(task, 0.25)
    assert shares.of(task) == 0.5
    again, _ = measured(store)
    assert again.of(task) == 0.5
    assert again.grow(task, 0.5)
    assert not again.grow(task, 1.0), "there is no larger share"


def given(store: Store, share: float) -> tuple[Given, Task, Task]:
    """A given share, and a trial of each of two shapes."""
    plan = plan_of(tiny(grid={"train": TWO, "data.poison": ["clean", "ops"], "seed": [0, 1]}), store)
    shares = Given(share, packing.ShareStore(open_storage(store.where)), Extents(store), "H200", plan.tasks)
    one = plan.tasks[0]
    return shares, one, next(t for t in plan.tasks if shares.shapes[t.key] != shares.shapes[one.key])


def test_a_given_share_is_kept_except_for_shapes_that_need_more(store: Store) -> None:
    shares, one, other = given(store, 0.25)
    assert (shares.of(one), shares.of(other)) == (0.25, 0.25)
    assert shares.grow(one, 0.25)
    assert (shares.of(one), shares.of(other)) == (0.5, 0.25), "others keep theirs"
    like_it = [key for key, shape in shares.shapes.items() if shape == shares.shapes[one.key]]
    assert len(like_it) == 4
    assert shares.grow(one, 0.5)
    assert not shares.grow(one, 1.0)


def test_the_next_sweep_knows_for_which_shapes_a_given_share_was_too_small(store: Store) -> None:
    shares, one, other = given(store, 0.25)
    shares.grow(one, 0.25)
    again, _, _ = given(store, 0.25)
    assert (again.of(one), again.of(other)) == (0.5, 0.25)
    larger, _, _ = given(store, 0.75)
    assert (larger.of(one), larger.of(other)) == (0.75, 0.75)


def test_a_measured_share_does_not_override_a_given_one(store: Store) -> None:
    found, shapes = measured(store)
    found.measured(shapes[0], GpuProfile(2 * GB, 1.0, 0.01), 40 * GB)
    assert given(store, 0.25)[0].known == {}


def test_shares_of_zero_and_one_do_not_grow(store: Store) -> None:
    task = plan_of(tiny(), store).tasks[0]
    for share in (0.0, 1.0):
        shares = Shares.fixed(share)
        assert not shares.grow(task, share)
        assert shares.of(task) == share
