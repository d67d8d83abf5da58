"""One bad machine does not fail all trials."""

from __future__ import annotations

from orchestrator.execution.node_health import AVOID_SECONDS, LONGEST_REST, REST_SECONDS, ROW, Nodes
from tests.orchestrator.execution.test_progress import Clock


def test_a_trial_is_retried_on_another_machine_if_there_is_one() -> None:
    nodes = Nodes(clock := Clock())
    nodes.failed("bad", "trial")
    assert nodes.avoided("trial", ["bad", "good"]) == {"bad"}
    assert nodes.avoided("another", ["bad", "good"]) == set()
    assert nodes.avoided("trial", ["bad"]) == set(), "there is no other machine"
    assert nodes.failures == {"trial"}
    clock.time += AVOID_SECONDS + 1
    assert nodes.avoided("trial", ["bad", "good"]) == set(), "it has waited long enough"
    assert nodes.failures == set()


def test_a_trial_that_failed_on_every_machine_may_run_on_any() -> None:
    nodes = Nodes(Clock())
    for node in ("one", "two"):
        nodes.failed(node, "trial")
    assert nodes.avoided("trial", ["one", "two"]) == set()
    assert nodes.avoided("trial", ["one", "two", "three"]) == {"one", "two"}


def test_a_machine_with_consecutive_failures_is_paused_longer_each_time() -> None:
    nodes = Nodes(clock := Clock())
    for i in range(ROW):
        assert "bad" not in nodes.resting
        nodes.failed("bad", f"trial-{i}")
    assert nodes.resting == {"bad": REST_SECONDS}
    nodes.failed("bad", "was running already")  # does not lengthen the pause
    seconds = REST_SECONDS
    for again in range(8):
        clock.time += seconds - 0.1
        assert "bad" in nodes.resting
        clock.time += 0.2
        assert "bad" not in nodes.resting
        nodes.failed("bad", f"again-{again}")
        seconds = min(LONGEST_REST, 2 * seconds)


def test_repeated_failures_of_one_trial_do_not_pause_a_machine() -> None:
    nodes = Nodes(Clock())
    for _ in range(2 * ROW):
        nodes.failed("box", "the same")
    nodes.worked("box")
    for i in range(ROW - 1):
        nodes.failed("box", f"trial-{i}")
    assert "box" not in nodes.resting
