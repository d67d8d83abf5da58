"""What of a sweep is at work, from the heartbeats of its drivers and the results of its trials.

Imports nothing heavy, so that looking at a sweep is instant.
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
    """A trial that runs: for how long (seconds), and what its last epoch said, if it had one."""

    name: str
    seconds: float
    epochs: int
    epoch: float | None = None
    train_acc: float | None = None
    test_acc: float | None = None


@dataclass(frozen=True)
class Building:
    """A data set that is being built, for how long if that is known, and the last word of its builder."""

    name: str
    word: str
    seconds: float | None = None


def doubts_by_text(status: SweepStatus) -> dict[str, list[Entry]]:
    """Warnings of finished trials, each once, with the trials that have it."""
    found: dict[str, list[Entry]] = {}
    for entry, text in status.doubts():
        found.setdefault(text, []).append(entry)
    return found


def driver_line(heartbeat: Heartbeat, version: str | None) -> str:
    """Who runs the sweep and for how long, what it does, and in what its version of the sweep is another than
    `version`."""
    state = heartbeat["state"]
    parts = [f"{place(heartbeat)} for {elapsed(_between(heartbeat['started'], heartbeat['time']))}"]
    if state:
        words = [f"{len(state['running'])} trials run", f"{state['waiting']} wait"]
        words += [f"{len(state['building'])} data sets are being built"] if state["building"] else []
        words += [f"{state['elsewhere']} run elsewhere"] if state["elsewhere"] else []
        parts.append(", ".join(words))
        faults = [f"{n} of {kind}" for kind, n in state["faults"].items() if n]
        parts += [f"faults until now: {', '.join(faults)}"] if faults else []
        resting = state.get("resting", 0)
        parts += [f"{resting} machines rest, where trials failed one after another"] if resting else []
        parts += [f"the store does not answer: {state['silent']}"] if state.get("silent") else []
    silent = _between(heartbeat["time"], datetime.now(UTC).isoformat())
    if silent > STALE_SECONDS:
        parts.append(
            f"NO SIGN OF IT for {elapsed(silent)}: it is dead or cut off, or clocks differ; "
            "opsctl stop waits a minute and then takes it for dead"
        )
    snapshot = heartbeat.get("outline")
    if version and snapshot and (how := differs(snapshot, version)):
        parts.append(f"it began {how}")
    return "; ".join(parts)


def place(heartbeat: Heartbeat) -> str:
    """`on box2 (process 4242)`"""
    return f"on {one_line(heartbeat['host'])} (process {heartbeat['pid']})"


def running(heartbeats: Sequence[Heartbeat]) -> list[Running]:
    """The trials that run, those that began first first; all times are the driver's own."""
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
    told = (data for heartbeat in heartbeats for data in heartbeat["state"].get("building", ()))
    return [Building(data["name"], data["word"]) for data in told]


def pace(status: SweepStatus, heartbeats: Sequence[Heartbeat]) -> float | None:
    """Trials a second, if those that are missing take as long as those that are done, and as many run at once
    as just now; None if nobody can tell yet."""
    times = [record["seconds"] for record in status.results.values() if "seconds" in record]
    at_once = len(running(heartbeats))
    return at_once * len(times) / sum(times) if at_once and sum(times) else None


def _between(one: str, other: str) -> float:
    return max(0.0, (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds())


def elapsed(seconds: float) -> str:
    """`42 s`, `0:12:05`, `2 days, 3:04:05`"""
    return f"{seconds:.0f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
