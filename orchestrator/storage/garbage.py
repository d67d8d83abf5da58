"""The content of a store, who needs it, what of it is damaged, and what can be removed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.storage.heartbeats import live_heartbeats
from orchestrator.storage.ledger import CHECKPOINT, WEIGHTS, Ledger
from orchestrator.storage.storage import FolderStorage, Storage
from orchestrator.storage.stores import storage_of
from poisons import Store
from poisons.records import IMPORT, RECORD
from trainers.stored import DamagedError

HOUR, DAY = 3600.0, 86400.0
Rule = Callable[["Place"], str | None]


@dataclass(frozen=True)
class Entry:
    """A data set of the store, and who needs it."""

    name: str
    record: dict[str, Any]
    needed_by: tuple[str, ...]  # empty: not needed

    @property
    def bytes(self) -> int:
        return sum(stamp["bytes"] for stamp in self.record["files"].values())


@dataclass(frozen=True)
class Place:
    """A file or folder of the store, such as `data/<name>`: its size, and seconds since it was written."""

    name: str
    bytes: int
    age: float

    @property
    def last(self) -> str:
        return PurePosixPath(self.name).name


@dataclass(frozen=True)
class Garbage:
    """Something that can be removed, and the reason."""

    name: str
    why: str
    bytes: int


def entries(store: Store) -> list[Entry]:
    """Every data set, by name. What trials of the ledger and running sweeps name is needed, and so are its
    ancestors."""
    records, storage = store.records(), storage_of(store)
    reasons = _used(storage)
    for name, sweeps in _claimed(storage).items():
        reasons.setdefault(name, []).extend(sweeps)
    to_visit = [name for name in reasons if name in records]
    while to_visit:
        name = to_visit.pop()
        for parent in records[name]["parents"]:
            if parent in records and parent not in reasons:
                reasons[parent] = [f"made into {name}"]
                to_visit.append(parent)
    return [Entry(name, record, tuple(reasons.get(name, ()))) for name, record in records.items()]


def find_garbage(store: Store, *, weights: bool = False) -> list[Garbage]:
    """Everything that can be removed: data sets that are not needed, damaged files in quarantine,
    leftovers of killed processes, and what belonged to these; and, if asked for, the kept `weights` of
    trials."""
    known = entries(store)
    unneeded = {entry.name for entry in known if not entry.needed_by}
    kept = {entry.name for entry in known} - unneeded
    finished = {f"data-{entry.record['key']}.pt" for entry in known}
    # without shared locks, another machine may be writing it right now
    patience = 0 if store.shares_locks else DAY
    rules: dict[str, Rule] = {
        "data": lambda p: _why_not(p, kept, unneeded, patience),
        "imports": lambda p: (
            "an import that was killed" if p.last.endswith(".tmp") and p.age > HOUR else None
        ),
        "quarantine": lambda _: "damaged; it was put aside and built again",
        "statistics": lambda p: None if p.last in kept else "statistics of images that go, or are gone",
        "checkpoints": lambda p: (
            "of a data set that is there" if p.last.removesuffix(".sha256") in finished else None
        ),
        "pictures": lambda p: (
            None if Path(p.last).stem in kept else "of a data set that goes, or is gone; drawn again"
        ),
    }
    storage = storage_of(store)
    now = storage.now()
    found = [
        Garbage(place.name, why, place.bytes)
        for folder, rule in rules.items()
        for place in _places(storage, folder, now)
        if (why := rule(place)) is not None
    ]
    return [
        *found,
        *_checkpoints(storage, now),
        *_histories(storage, now),
        *_weights(storage, now, every=weights),
    ]


def kept_weights(store: Store) -> tuple[int, int]:
    """The number of trials whose weights the store keeps, and their bytes."""
    there = storage_of(store).files("trials")
    sizes = [kept.bytes for name, kept in there.items() if name.partition("/")[2] == WEIGHTS]
    return len(sizes), sum(sizes)


def _weights(storage: Storage, now: float, *, every: bool) -> Iterator[Garbage]:
    """Kept weights that can be removed: those of trials without a result, whose worker was killed before it
    could publish one, and, if asked for, of `every` trial. Not those of running trials, nor those that a
    running sweep starts from."""
    there, starts = storage.files("trials"), _starts(storage)
    at_work = {lease.rpartition(".")[0] for lease in storage.names("leases")}
    for name, kept in there.items():
        key, _, last = name.partition("/")
        if last.lstrip(".") not in (WEIGHTS, f"{WEIGHTS}.tmp") or key in at_work:
            continue
        orphan = f"{key}/result.json" not in there or last != WEIGHTS
        if orphan and kept.changed is not None and now - kept.changed > DAY:
            yield Garbage(f"trials/{name}", "weights of a training that was killed", kept.bytes)
        elif every and not orphan and key not in starts:
            why = "kept weights; without them a probe added later must train this trial again"
            yield Garbage(f"trials/{name}", why, kept.bytes)


def _checkpoints(storage: Storage, now: float) -> Iterator[Garbage]:
    """Checkpoints left by workers that were killed right after publishing. A failed probe resumes from its
    trial's checkpoint, and a finished trial may be trained again for its probes."""
    there = storage.files("trials")
    at_work = {lease.rpartition(".")[0] for lease in storage.names("leases")}
    for name, kept in there.items():
        key, _, last = name.partition("/")
        if not last.lstrip(".").startswith(CHECKPOINT) or key in at_work:
            continue
        done = f"{key}/result.json" in there and f"{key}/failure.json" not in there
        if done and kept.changed is not None and now - kept.changed > DAY:
            yield Garbage(f"trials/{name}", "a checkpoint of a trial that is done", kept.bytes)


def _histories(storage: Storage, now: float) -> Iterator[Garbage]:
    """Histories of results, and curves of findings, that were not published: another driver was first. One
    that was written lately may belong to a result that is about to replace a damaged one."""
    there = {f"trials/{name}": kept for name, kept in storage.files("trials").items()}
    old = [name for name, kept in there.items() if kept.changed is not None and now - kept.changed > DAY]
    for name in sorted(Ledger(storage).superseded(old)):
        yield Garbage(name, "of a result or finding that another came before", there[name].bytes)


def _why_not(place: Place, kept: set[str], unneeded: set[str], patience: float) -> str | None:
    if place.last in unneeded:
        return "no trial and no running sweep needs it"
    left = place.last not in kept and place.age >= patience
    return "half-written, damaged, or of an older opsctl" if left else None


def _places(storage: Storage, folder: str, now: float) -> Iterator[Place]:
    """The direct entries of a folder of the store; `now` is by the clock of the storage."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for name, kept in storage.files(folder).items():
        age = 0.0 if kept.changed is None else now - kept.changed
        found[name.split("/")[0]].append((kept.bytes, age))
    for name in sorted({*storage.names(folder), *found}):
        sizes, ages = zip(*found.get(name, [(0, DAY)]), strict=True)
        yield Place(f"{folder}/{name}", sum(sizes), min(ages))


def remove(store: Store, item: Garbage) -> bool:
    """Remove it, unless a process on this machine is building a data set, which may be made from it, or a
    sweep that has started since needs it. Returns whether it was removed."""
    storage = storage_of(store)
    path = PurePosixPath(item.name)
    if path.name in _claimed(storage) or path.parent.name in _starts(storage) or _building(store):
        return False
    here = FolderStorage(store.root).remove_all(item.name)
    return storage.remove_all(item.name) or here


def imports(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """Every imported perturbation whose record is not damaged, by fingerprint."""
    storage = storage_of(store)
    names = sorted(storage.holders("imports", RECORD))
    read = storage.read_all([f"imports/{name}/{RECORD}" for name in names])
    found = []
    for name in names:
        with suppress(DamagedError):
            found.append((name, IMPORT.read(read[f"imports/{name}/{RECORD}"] or b"")))
    return found


def _building(store: Store) -> bool:
    """Whether a process on this machine holds the lock of a data set."""
    for file in (store.root / "locks").glob("data-*.lock"):
        try:
            with FileLock(file, timeout=0):
                pass
        except Timeout:
            return True
    return False


def _used(storage: Storage) -> dict[str, list[str]]:
    """Names of data sets that trials of the ledger, finished or failed, and their probes read, with the
    number of trials."""
    needs: dict[str, set[str]] = defaultdict(set)
    ledger = Ledger(storage)
    for key, result in ledger.summaries(ledger.done()).items():
        needs[key].update(result.get("needs", ()))
    for key, failure in ledger.failures(ledger.failed()).items():
        needs[key].update(failure.get("needs", ()))
    for key, findings in ledger.finding_summaries(ledger.probed()).items():
        needs[key].update(name for found in findings.values() for name in found.get("sets", {}).values())
    trials = Counter(name for names in needs.values() for name in names)
    return {name: [f"{n} trial{'s' * (n > 1)}"] for name, n in trials.items()}


def _claimed(storage: Storage) -> dict[str, list[str]]:
    """Names of data sets that running sweeps need, with these sweeps."""
    claims: dict[str, list[str]] = defaultdict(list)
    for heartbeat in live_heartbeats(storage):
        for name in heartbeat.get("needs", ()):
            claims[name].append(f"a running sweep, {heartbeat['sweep']} on {heartbeat['host']}")
    return dict(claims)


def _starts(storage: Storage) -> set[str]:
    """Keys of the trials whose weights trials of running sweeps start from."""
    return {key for heartbeat in live_heartbeats(storage) for key in heartbeat.get("starts", ())}
