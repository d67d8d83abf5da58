"""A sweep waits for the machines of a cluster that is starting."""

from __future__ import annotations

import pytest

from orchestrator.execution.ray import connect
from orchestrator.execution.ray.connect import JOIN_SECONDS, Cluster
from tests.orchestrator.execution.test_progress import Clock

HEAD, WORKER = {"memory": 1e9}, {"CPU": 4.0}


def waited(monkeypatch: pytest.MonkeyPatch, joins: float) -> float:
    """Seconds spent waiting for a cluster whose first worker machine joins the head after `joins` seconds."""
    clock = Clock()
    begun = clock.time
    monkeypatch.setattr(connect.time, "monotonic", lambda: clock.time)
    monkeypatch.setattr(connect.time, "sleep", lambda seconds: setattr(clock, "time", clock.time + seconds))
    monkeypatch.setattr(
        Cluster, "machines", lambda self: [HEAD, *([WORKER] if clock.time - begun >= joins else [])]
    )
    Cluster().wait_for_machines()
    return clock.time - begun


def test_a_new_cluster_is_given_time_for_its_first_worker_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert waited(monkeypatch, joins=0) == 0
    assert waited(monkeypatch, joins=5) == pytest.approx(5, abs=0.3)
    assert waited(monkeypatch, joins=1e9) == pytest.approx(JOIN_SECONDS, abs=0.3), "not for ever"
