"""What can start, starts; what cannot, fails with its own reason and no other."""

from __future__ import annotations

from orchestrator.observer import Audience, Observer
from orchestrator.plan import Task
from orchestrator.progress import Progress
from poisons import DataSpec, Store
from tests.orchestrator.sweeps import plan_of, tiny


class Told(Observer):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def data_failed(self, spec: DataSpec, error: str) -> None:
        self.heard.append((spec.name.rpartition("-")[0], error))

    def trial_failed(self, task: Task, error: str) -> None:
        self.heard.append((task.point.name, error))


def begun(store: Store, **changes: object) -> tuple[Progress, Told]:
    told = Told()
    return Progress(plan_of(tiny(**changes), store), store, Audience(told)), told


def build(progress: Progress, word: str) -> None:
    (spec,) = [spec for spec in progress.buildable() if word in spec.name]
    del progress.unbuilt[spec.name]
    progress.data_built(spec)


def test_a_trial_can_start_when_its_own_data_sets_are_there(store: Store) -> None:
    progress, _ = begun(store, grid={"data.poison": ["ops", "clean"], "seed": [0, 1]})
    assert [spec.name.rpartition("-")[0] for spec in progress.buildable()] == [
        "digits-clean-test",
        "digits-clean-train",
    ]
    build(progress, "clean-train")
    assert progress.ready() is None
    build(progress, "clean-test")
    first = progress.ready()
    assert first is not None
    assert first.point.name == "data.poison=clean, seed=0", (
        "not the first in the file, but the first that can"
    )
    build(progress, "ops")
    second = progress.ready()
    assert second is not None
    assert second.point.name == "data.poison=ops, seed=0"


def test_no_more_run_than_may(store: Store) -> None:
    progress, _ = begun(store, grid={"seed": [0, 1]}, run={"max_concurrent": 1})
    build(progress, "clean-train")
    build(progress, "clean-test")
    task = progress.ready()
    assert task is not None
    progress.give(task)
    assert progress.ready() is None
    progress.ended(task.key)
    assert progress.ready() is not None


def test_what_is_made_from_a_broken_data_set_is_broken_too(store: Store) -> None:
    progress, told = begun(store, grid={"data.poison": ["clean", ["em", "ops"]], "seed": [0]})
    build(progress, "clean-train")
    (em,) = [spec for spec in progress.buildable() if "em" in spec.name]
    del progress.unbuilt[em.name]
    progress.data_failed(em, "Boom: no")
    assert told.heard == [
        ("digits-em-train", "Boom: no"),
        ("digits-em-ops-train", "Boom: no"),
        ("data.poison=em+ops, seed=0", "Boom: no"),
    ]
    assert {spec.name.rpartition("-")[0] for spec in progress.buildable()} == {
        "digits-clean-test",
        "digits-ops-train",  # not broken; nobody waits for it any more
    }
    assert [task.point.name for task in progress.waiting] == ["data.poison=clean, seed=0"]


def test_clean_images_that_cannot_be_read_break_each_thing_once(store: Store) -> None:
    progress, told = begun(store, grid={"data.poison": ["em", ["em", "ops"]], "seed": [0]})
    (clean,) = [spec for spec in progress.buildable() if "clean-train" in spec.name]
    del progress.unbuilt[clean.name]
    progress.data_failed(clean, "Boom: torn")
    broken = ["digits-clean-train", "digits-em-train", "digits-em-ops-train", "digits-ops-train"]
    assert sorted(name for name, _ in told.heard if name.startswith("digits")) == sorted(broken)
    assert len(progress.failed) == 2
    assert progress.waiting == []


def test_an_old_failure_is_not_told_as_new(store: Store) -> None:
    progress, told = begun(store, grid={"seed": [0]})
    task = progress.plan.tasks[0]
    progress.ledger.fail(task.key, {"error": "Boom: last week", "traceback": None})
    progress.started(task.key)
    progress.gave_up(task.key)
    assert told.heard == [("seed=0", "its worker process died; was there memory enough?")]
    progress.started(task.key)
    progress.ledger.fail(task.key, {"error": "Boom: now", "traceback": None})
    progress.gave_up(task.key)
    assert told.heard[-1] == ("seed=0", "Boom: now")
    assert progress.ledger.failure(task.key)["attempts"] == 3  # type: ignore[index]
