"""What is running in a sweep, from the heartbeats of its drivers and the results of its trials.

Imports only light modules, so that `opsctl status` starts instantly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import Entry, differs
from orchestrator.storage.heartbeats import STALE_SECONDS
from orchestrator.storage.records import Heartbeat
from trainers.printable import one_line


@dataclass(frozen=True)
class Running:
    """A running trial: for how long (seconds), and the metrics of its last epoch, if there is one."""

    name: str
    seconds: float
    epochs: int
    epoch: float | None = None
    train_acc: float | None = None
    test_acc: float | None = None


@dataclass(frozen=True)
class Building:
    """A data set that is being built: its latest progress, and for how long (seconds) if that is known."""

    name: str
    progress: str
    seconds: float | None = None


def doubts_by_text(status: SweepStatus) -> dict[str, list[Entry]]:
    """Each warning of finished trials once, with the trials that have it."""
    found: dict[str, list[Entry]] = {}
    for entry, text in status.doubts():
        found.setdefault(text, []).append(entry)
    return found


def driver_line(heartbeat: Heartbeat, version: str | None) -> str:
    """Where a driver runs and for how long, what it does, and how its version of the sweep differs from
    `version`."""
    state = heartbeat["state"]
    parts = [f"{place(heartbeat)} for {elapsed(_between(heartbeat['started'], heartbeat['time']))}"]
    if state:
        words = [f"{len(state['running'])} trials running", f"{state['waiting']} waiting"]
        words += [f"{len(state['building'])} data sets being built"] if state["building"] else []
        words += [f"{state['elsewhere']} running elsewhere"] if state["elsewhere"] else []
        parts.append(", ".join(words))
        faults = [f"{n} {kind}" for kind, n in state["faults"].items() if n]
        parts += [f"faults so far: {', '.join(faults)}"] if faults else []
        paused = state.get("resting", 0)
        parts += [f"{paused} machines paused after repeated failures"] if paused else []
        parts += [f"the store does not answer: {state['silent']}"] if state.get("silent") else []
    silent = _between(heartbeat["time"], datetime.now(UTC).isoformat())
    if silent > STALE_SECONDS:
        parts.append(
            f"NO HEARTBEAT for {elapsed(silent)}: it is dead or unreachable, or clocks differ; "
            "opsctl stop waits a minute before it treats it as dead"
        )
    snapshot = heartbeat.get("outline")
    if version and snapshot and (how := differs(snapshot, version)):
        parts.append(f"it started {how}")
    return "; ".join(parts)


def place(heartbeat: Heartbeat) -> str:
    """`on box2 (process 4242)`"""
    return f"on {one_line(heartbeat['host'])} (process {heartbeat['pid']})"


def running(heartbeats: Sequence[Heartbeat]) -> list[Running]:
    """The running trials, longest-running first; all times are by the driver's clock."""
    found = [
        Running(
            trial["name"],
            _between(trial["since"], heartbeat["time"]),
            trial["epochs"],
            trial.get("epoch"),
            trial.get("train/acc"),
            trial.get("test/clean_acc"),
        )
        for heartbeat in heartbeats
        for trial in heartbeat["state"].get("running", ())
    ]
    return sorted(found, key=lambda trial: -trial.seconds)


def building(heartbeats: Sequence[Heartbeat]) -> list[Building]:
    """The data sets that are being built."""
    found = (data for heartbeat in heartbeats for data in heartbeat["state"].get("building", ()))
    return [Building(data["name"], data["word"]) for data in found]


def pace(status: SweepStatus, heartbeats: Sequence[Heartbeat]) -> float | None:
    """Trials per second, assuming that missing trials take as long as finished ones and that as many run at
    once as now; None if it cannot be estimated yet."""
    times = [record["seconds"] for record in status.results.values() if "seconds" in record]
    at_once = len(running(heartbeats))
    total = sum(times)
    return at_once * len(times) / total if at_once and total else None


def _between(one: str, other: str) -> float:
    return max(0.0, (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds())


def elapsed(seconds: float) -> str:
    """`42 s`, `0:12:05`, `2 days, 3:04:05`"""
    return f"{seconds:.0f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
