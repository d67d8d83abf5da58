"""One bad machine does not eat all trials."""

from __future__ import annotations

from orchestrator.execution.node_health import AVOID_SECONDS, LONGEST_REST, REST_SECONDS, ROW, Nodes
from tests.orchestrator.execution.test_progress import Clock


def test_a_trial_goes_elsewhere_than_where_it_failed_while_there_is_an_elsewhere() -> None:
    nodes = Nodes(clock := Clock())
    nodes.failed("bad", "trial")
    assert nodes.barred("bad", ["bad", "good"]) == {"trial"}
    assert nodes.barred("good", ["bad", "good"]) == set()
    assert nodes.barred("bad", ["bad"]) == set(), "there is no other"
    clock.time += AVOID_SECONDS + 1
    assert nodes.barred("bad", ["bad", "good"]) == set(), "it has waited long enough"


def test_a_trial_that_failed_everywhere_is_tried_anywhere() -> None:
    nodes = Nodes(Clock())
    for node in ("one", "two"):
        nodes.failed(node, "trial")
    assert nodes.barred("one", ["one", "two"]) == set()
    assert nodes.barred("one", ["one", "two", "three"]) == {"trial"}


def test_a_machine_where_trials_fail_in_a_row_rests_and_longer_each_time() -> None:
    nodes = Nodes(clock := Clock())
    for i in range(ROW):
        assert not nodes.rests("bad")
        nodes.failed("bad", f"trial-{i}")
    assert nodes.rests("bad")
    assert nodes.resting == 1
    nodes.failed("bad", "which was on it already")  # that costs no longer rest
    seconds = REST_SECONDS
    for again in range(8):
        clock.time += seconds - 0.1
        assert nodes.rests("bad")
        clock.time += 0.2
        assert not nodes.rests("bad")
        nodes.failed("bad", f"again-{again}")
        seconds = min(LONGEST_REST, 2 * seconds)


def test_one_trial_that_fails_often_or_a_success_between_makes_no_bad_machine() -> None:
    nodes = Nodes(Clock())
    for _ in range(2 * ROW):
        nodes.failed("box", "the same")
    nodes.worked("box")
    for i in range(ROW - 1):
        nodes.failed("box", f"trial-{i}")
    assert not nodes.rests("box")
