"""A failed builder is retried as a trial is. These tests do not start Ray."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from orchestrator.execution.faults import Fault
from orchestrator.execution.ray.builders import Builders
from orchestrator.execution.ray.connect import Cluster
from poisons import DataSpec, Poison, Store
from tests.orchestrator.execution.test_progress import Recorder, begun
from trainers.defenses.avatar import Avatar


def scene(store: Store, **run: int) -> tuple[Builders, DataSpec, Recorder]:
    progress, recorder, _ = begun(store, run=run)
    builders = Builders(progress._context, progress, Cluster(), "driver")
    return builders, progress.buildable()[0], recorder


@pytest.mark.parametrize(("kind", "tries"), [("config", 1), ("trial", 2), ("memory", 2), ("machine", 4)])
def test_each_kind_of_fault_has_its_own_number_of_retries(store: Store, kind: str, tries: int) -> None:
    builders, spec, recorder = scene(store, machine_retries=3)
    for _ in range(tries):
        assert spec in builders.progress.unbuilt
        builders._failed(spec, Fault(kind, "no"))  # type: ignore[arg-type]
    assert spec not in builders.progress.unbuilt
    retried = [what for _, what in recorder.events if what.startswith("again")]
    how = ["in 1 s", "in 2 s", "in 4 s"] if kind == "machine" else ["once more"]
    assert retried == [f"again {word}: no" for word in how[: tries - 1]]


def test_a_builder_that_makes_progress_is_not_given_up(store: Store) -> None:
    """A builder that resumes from its checkpoint reports its rounds again; that is no progress."""
    builders, spec, _ = scene(store, machine_retries=1)
    for rounds in (2, 3, 4):
        builders.rows[spec.name] = 0
        for _ in range(rounds):
            builders._count_report(spec.name)
        builders._failed(spec, Fault("machine", "gone"))
        assert spec in builders.progress.unbuilt
    builders.rows[spec.name] = 0
    for _ in range(4):
        builders._count_report(spec.name)
    builders._failed(spec, Fault("machine", "gone"))
    assert spec not in builders.progress.unbuilt


def test_an_out_of_memory_kill_is_a_machine_fault_and_reduces_the_number_of_workers(store: Store) -> None:
    builders, spec, _ = scene(store, workers_per_data=4)
    memory = OutOfMemoryError("Task was killed due to the node running low on memory.\nand so on")
    helper = RayTaskError("_build", "Traceback", memory)  # one worker of a live builder was killed
    for error in (memory, helper):
        fault = builders._fault(spec, error)
        assert fault.kind == "machine"
        assert fault.error.startswith("its machine ran out of memory")
    assert builders.pressure.most < math.inf
    assert builders._fault(spec, WorkerCrashedError()).kind == "machine"
    assert builders._fault(spec, RayTaskError("_build", "Traceback", KeyError("x"))).kind == "trial"


class EmptyQueue:
    """A queue without messages, which is false, as Ray's is."""

    made: ClassVar[int] = 0

    def __init__(self, **_: object) -> None:
        EmptyQueue.made += 1

    def __len__(self) -> int:
        return 0


def test_all_builders_report_to_one_queue(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    builders, spec, _ = scene(store)
    given: list[object] = []
    monkeypatch.setattr("orchestrator.execution.ray.builders.Queue", EmptyQueue)
    monkeypatch.setattr(
        "orchestrator.execution.ray.builders.start_build",
        lambda spec, opener, mail, **_: given.append(mail) or len(given),
    )
    for _ in range(3):
        builders._submit(spec)
    assert EmptyQueue.made == 1
    assert all(mail is given[0] for mail in given)


def test_a_network_that_several_data_sets_need_is_trained_by_one_builder(store: Store) -> None:
    builders, spec, _ = scene(store)
    clean, own = (
        Avatar.parse({**Avatar.smoke, "learns_from": which}, "test") for which in ("clean", "training")
    )
    ops, em = (
        spec.model_copy(update={"poison": (Poison.parse(kind, "test"),)}) for kind in ("ops", "randpix")
    )
    builders.refs = {1: ops.restored(clean)}  # type: ignore[dict-item]
    assert builders._waits(em.restored(clean))
    assert not builders._waits(em.restored(own))
    assert not builders._waits(em)
    builders.trained.add(ops.restored(clean).shares or "")
    assert not builders._waits(em.restored(clean))
