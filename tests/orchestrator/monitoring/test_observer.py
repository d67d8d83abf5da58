"""An observer that is made while the sweep begins misses nothing, and delays nothing."""

from __future__ import annotations

import time
from concurrent.futures import Future
from threading import Timer

from orchestrator.monitoring.observer import Awaited, Observer
from orchestrator.planning.plan import Plan
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny


class Seen(Observer):
    """Records events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def sweep_started(self, plan: Plan) -> None:
        self.events.append("started")

    def store_silent(self, error: str) -> None:
        self.events.append(error)

    def sweep_ended(self) -> None:
        self.events.append("ended")


def test_missed_events_are_passed_on_in_their_order(store: Store) -> None:
    made, seen = Future[Observer | None](), Seen()
    awaited = Awaited(made, patience=10.0)
    awaited.sweep_started(plan_of(tiny(), store))
    awaited.store_silent("one")
    assert seen.events == []
    made.set_result(seen)
    awaited.store_silent("two")
    assert seen.events == ["started", "one", "two"]
    awaited.sweep_ended()
    assert seen.events == ["started", "one", "two", "ended"]


def test_the_end_of_a_sweep_waits_for_the_observer(store: Store) -> None:
    made, seen = Future[Observer | None](), Seen()
    awaited = Awaited(made, patience=30.0)
    awaited.sweep_started(plan_of(tiny(), store))
    Timer(0.2, lambda: made.set_result(seen)).start()
    awaited.sweep_ended()
    assert seen.events == ["started", "ended"]


def test_it_is_not_waited_for_for_ever_nor_if_nothing_has_happened(store: Store) -> None:
    begun = time.monotonic()
    Awaited(Future(), patience=60.0).sweep_ended()
    awaited = Awaited(Future(), patience=0.1)
    awaited.sweep_started(plan_of(tiny(), store))
    awaited.sweep_ended()
    assert time.monotonic() - begun < 30


def test_there_may_be_no_observer(store: Store) -> None:
    made = Future[Observer | None]()
    made.set_result(None)
    awaited = Awaited(made, patience=60.0)
    awaited.sweep_started(plan_of(tiny(), store))
    awaited.sweep_ended()
