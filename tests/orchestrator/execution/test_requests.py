"""How many processes a cluster has room for."""

from __future__ import annotations

import pytest

from orchestrator.execution.requests import Capacity, Request


@pytest.mark.parametrize(
    ("request_", "running", "first", "room"),
    [
        (Request(1), [], [], 8),
        (Request(1, 0.25), [], [], 8),
        (Request(1, 1 / 3), [], [], 6),
        (Request(3), [Request(1)], [], 2),
        (Request(1, 1.0), [Request(1, 0.25)], [], 1),
        (Request(1, 0.5), [], [Request(1, 1)], 2),
        (Request(1, 1.0), [], [Request(1, 1)] * 2, 0),
        (Request(1), [], [Request(2)] * 3, 2),
        (Request(1), [], [Request(2)] * 9, 1),  # the builders take turns
        (Request(2), [], [Request(7)], 0),  # there is no room beside this one
        (Request(1), [Request(1)] * 9, [], -1),
    ],
)
def test_room(request_: Request, running: list[Request], first: list[Request], room: int) -> None:
    assert Capacity(8, 2).room(request_, running, first) == room
