"""One policy decides what is retried, and when."""

from __future__ import annotations

import pytest

from orchestrator.execution.faults import Fault
from orchestrator.execution.retries import Retries, Retry
from orchestrator.planning.spec import RunSpec

GONE = Fault("machine", "gone")


def test_pauses_after_machine_faults_grow_until_the_work_is_given_up() -> None:
    retries = Retries(RunSpec(machine_retries=8))
    waits = [retries.after("a", GONE) for _ in range(9)]
    assert waits == [*(Retry(float(wait)) for wait in (1, 2, 4, 8, 16, 32, 60, 60)), None]
    assert retries.after("b", GONE) == Retry(1.0), "each piece of work has its own count"


def test_progress_resets_the_count_of_machine_faults_only() -> None:
    retries = Retries(RunSpec(retries=1, machine_retries=1))
    own = Fault("trial", "diverged")
    assert str(retries.after("a", GONE)) == "in 1 s"
    assert str(retries.after("a", own)) == "once more"
    assert retries.faults("a") == 2
    retries.progressed("a")
    assert retries.after("a", GONE) == Retry(1.0)
    assert retries.after("a", own) is None


@pytest.mark.parametrize("run", [RunSpec(), RunSpec(retries=5, machine_retries=5)])
def test_a_config_fault_is_never_retried(run: RunSpec) -> None:
    assert Retries(run).after("a", Fault("config", "no such option")) is None
