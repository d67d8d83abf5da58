"""The first trial that can start is found at once, however many wait for something else."""

from __future__ import annotations

import time

from orchestrator.execution.ready_queue import Ready


def waiting(ready: Ready) -> int:
    return sum(len(list(ready.keys(share))) for share in ready.shares)


def test_trials_of_each_share_are_taken_in_order() -> None:
    ready = Ready()
    for rank, share in ((3, 0.5), (1, 0.25), (0, 0.5), (2, 0.25)):
        ready.add(f"trial {rank}", rank, share)
    assert (waiting(ready), *(len(list(ready.keys(s))) for s in (0.5, 1.0))) == (4, 2, 0)
    assert list(ready.keys(0.5)) == ["trial 0", "trial 3"]
    assert [ready.take(0.25) for _ in range(3)] == ["trial 1", "trial 2", None]
    assert ready.shares == [0.5]


def test_a_trial_whose_share_grew_moves_to_that_share_in_order() -> None:
    ready = Ready()
    for rank in range(4):
        ready.add(f"trial {rank}", rank, 0.25)
    ready.sort_out(lambda key: 0.5 if key in ("trial 0", "trial 2") else 0.25)
    assert [list(ready.keys(share)) for share in (0.25, 0.5)] == [
        ["trial 1", "trial 3"],
        ["trial 0", "trial 2"],
    ]


def test_trials_of_other_shares_cost_no_time() -> None:
    """A linear scan would pass ten thousand trials of another share for each of these."""
    ready = Ready()
    for rank in range(10_000):
        ready.add(f"a {rank:05}", rank, 0.25)
        ready.add(f"b {rank:05}", rank + 10_000, 0.5)
    begun = time.perf_counter()
    while ready.take(0.5) is not None:
        pass
    assert time.perf_counter() - begun < 1
    assert waiting(ready) == 10_000
