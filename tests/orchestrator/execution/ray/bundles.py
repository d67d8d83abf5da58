"""Bundles for tests of Tune, and what happens to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from orchestrator.execution.bundles import Bundle
from orchestrator.execution.messages import Order
from orchestrator.execution.ray.tune import Tuning
from orchestrator.execution.requests import Request
from orchestrator.execution.scheduler import Event


def bundle(number: int, *keys: str, cpus: float = 1.0, gpus: float = 0.0, **options: Any) -> Bundle:
    """A bundle of trainings whose keys say what they do."""
    orders = [Order(attempt=100 * number + i, key=key, trial="", keep=False) for i, key in enumerate(keys)]
    request = Request(cpus, gpus, options.pop("avoid", frozenset()))
    return Bundle(
        number, f"point {number}", f"key-{number}", request, tuple(orders), options.pop("resting", {})
    )


def until(tuning: Tuning, ends: Callable[[list[Event]], bool], seconds: float = 60.0) -> list[Event]:
    """All events until some have happened."""
    events, end = list[Event](), time.monotonic() + seconds
    while not ends(events):
        assert time.monotonic() < end, events
        events += tuning.events()
    return events
