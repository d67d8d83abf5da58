"""What `opsctl status` says: how far a sweep is, who runs it, what failed, what is in doubt.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from orchestrator.planning.snapshot import Entry, differs
from orchestrator.standing import Standing
from orchestrator.storage.heartbeats import STALE_SECONDS, Mark
from orchestrator.tables import Building, Running, at_work, duration
from orchestrator.terminal import Terminal
from trainers.printable import one_line


def tell(standing: Standing, marks: Sequence[Mark], version: str, where: str, console: Terminal) -> None:
    """Print it: all but the table. `marks` are those of all drivers of the store at `where`."""
    name = standing.outline.name
    mine = [mark for mark in marks if mark["sweep"] == name]
    others = sorted({f"{mark['sweep']} on {mark['host']}" for mark in marks if mark["sweep"] != name})
    console.say((name, "bold"), f": {standing.counts}")
    for mark in mine:
        console.say(("runs", "green"), f"   {driver_line(mark, version)}")
    if building(mine) or running(mine):
        console.print(at_work(building(mine), running(mine)))
    if others:
        console.say(f"this store's other sweeps that run: {', '.join(map(one_line, others))}")
    for entry, failure in standing.failed():
        attempts = failure.get("attempts", 1)
        told = f" {entry.key} ({one_line(entry.name)}), {attempts} attempts: {failure['error']}"
        console.say(("failed", "red"), told)
        console.say(f"       {where}/trials/{entry.key}/failure.json")
    for name, why in standing.damaged.items():
        console.say(("damaged", "red"), f" {where}/{name} counts as missing: {why}")
    for text, entries in doubts_by_text(standing).items():
        more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
        first = f"{entries[0].key} ({one_line(entries[0].name)})"
        console.say(("doubt", "yellow"), f"  {first}{more}: {text}")


def doubts_by_text(standing: Standing) -> dict[str, list[Entry]]:
    """Warnings of finished trials, each once, with the trials that have it."""
    found: dict[str, list[Entry]] = {}
    for entry, text in standing.doubts():
        found.setdefault(text, []).append(entry)
    return found


def driver_line(mark: Mark, version: str | None) -> str:
    """Who runs the sweep and for how long, what it does, and in what its version of the sweep is another than
    `version`."""
    state = mark["state"]
    parts = [f"{place(mark)} for {duration(_between(mark['started'], mark['time']))}"]
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
    silent = _between(mark["time"], datetime.now(UTC).isoformat())
    if silent > STALE_SECONDS:
        parts.append(
            f"NO SIGN OF IT for {duration(silent)}: it is dead or cut off, or clocks differ; "
            "opsctl stop waits a minute and then takes it for dead"
        )
    if version and mark.get("outline") and (how := differs(mark["outline"], version)):
        parts.append(f"it began {how}")
    return "; ".join(parts)


def place(mark: Mark) -> str:
    """`on box2 (process 4242)`"""
    return f"on {one_line(mark['host'])} (process {mark['pid']})"


def running(marks: Sequence[Mark]) -> list[Running]:
    """The trials that run, those that began first first; all times are the driver's own."""
    found = [
        Running(
            trial["name"],
            _between(trial["since"], mark["time"]),
            trial["epochs"],
            *(trial.get(name) for name in ("epoch", "train/acc", "test/clean_acc")),
        )
        for mark in marks
        for trial in mark["state"].get("running", ())
    ]
    return sorted(found, key=lambda trial: -trial.seconds)


def building(marks: Sequence[Mark]) -> list[Building]:
    """The data sets that are being built."""
    told = (data for mark in marks for data in mark["state"].get("building", ()))
    return [Building(data["name"], data["word"]) for data in told]


def pace(standing: Standing, marks: Sequence[Mark]) -> float | None:
    """Trials a second, if those that are missing take as long as those that are done, and as many run at once
    as just now; None if nobody can tell yet."""
    times = [record["seconds"] for record in standing.results.values() if "seconds" in record]
    at_once = len(running(marks))
    return at_once * len(times) / sum(times) if at_once and sum(times) else None


def _between(one: str, other: str) -> float:
    return max(0.0, (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds())
