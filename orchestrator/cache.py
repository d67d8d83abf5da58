"""What the store holds, who needs it, what of it is damaged, and what can go."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.host import running
from poisons import Store
from poisons.durable import read_json, write_whole
from poisons.store import read_record

NEEDS = "needs.json"  # in the scratch folder of a sweep that runs: the data sets that it counts on


@dataclass(frozen=True)
class Entry:
    """A data set of the store, and who needs it."""

    folder: Path
    record: dict[str, Any]
    needed_by: tuple[str, ...]  # in words; empty: nobody

    @property
    def bytes(self) -> int:
        return sum(told["bytes"] for told in self.record["files"].values())


@dataclass(frozen=True)
class Rubbish:
    """Something that can go, and why."""

    path: Path
    why: str
    bytes: int


def entries(store: Store) -> list[Entry]:
    """Every data set, by name. What trials of the ledger and running sweeps name is needed, and so is what
    that was made from."""
    folders = [f for f in _inside(store.root / "data") if f.suffix != ".tmp"]
    records = {f.name: record for f in folders if (record := read_record(f)) is not None}
    reasons = _used(store)
    for name, sweeps in _claimed(store).items():
        reasons.setdefault(name, []).extend(sweeps)
    look = [name for name in reasons if name in records]
    while look:
        name = look.pop()
        for parent in records[name]["parents"]:
            if parent in records and parent not in reasons:
                reasons[parent] = [f"made into {name}"]
                look.append(parent)
    return [
        Entry(store.root / "data" / name, record, tuple(reasons.get(name, ())))
        for name, record in records.items()
    ]


def rubbish(store: Store) -> list[Rubbish]:
    """All that can go: data sets that nobody needs, what was put aside as damaged, what was killed and left,
    and what belonged to these."""
    known = entries(store)
    unneeded = {entry.folder.name: entry for entry in known if not entry.needed_by}
    kept = {entry.folder.name for entry in known} - unneeded.keys()
    finished = {f"data-{entry.record['key']}.pt" for entry in known}
    rules: dict[str, Callable[[Path], str | None]] = {
        "data": lambda f: _why_not(f, f.name in unneeded),
        "imports": lambda f: "an import that was killed" if f.suffix == ".tmp" and _old(f) else None,
        "quarantine": lambda _: "damaged; it was put aside and built again",
        "statistics": lambda f: None if f.name in kept else "statistics of images that go, or are gone",
        "checkpoints": lambda f: "of a data set that is there" if f.name in finished else None,
        "pictures": lambda f: None if f.stem in kept else "of a data set that goes, or is gone; drawn again",
    }
    return [
        Rubbish(place, why, size(place))
        for folder, rule in rules.items()
        for place in _inside(store.root / folder)
        if (why := rule(place)) is not None
    ]


def _old(path: Path) -> bool:
    """Whether nobody has written here for an hour."""
    return time.time() - path.stat().st_mtime > 3600


def _why_not(folder: Path, unneeded: bool) -> str | None:
    if folder.suffix == ".tmp" or read_record(folder) is None:
        return "half-written, or of an older opsctl"
    return "no trial and no running sweep needs it" if unneeded else None


def remove(store: Store, item: Rubbish) -> bool:
    """Remove it, unless somebody builds a data set just now, which may be made from it, or a sweep that began
    since counts on it."""
    if item.path.name in _claimed(store) or _building(store):
        return False
    going = item.path.with_name(f"{item.path.name}.{os.getpid()}.tmp")
    try:
        os.rename(item.path, going)  # at once, so that nobody opens half of it
    except FileNotFoundError:
        return False
    shutil.rmtree(going) if going.is_dir() else going.unlink()
    return True


def _building(store: Store) -> bool:
    """Whether anyone holds the lock of a data set."""
    for file in (store.root / "locks").glob("data-*.lock"):
        try:
            with FileLock(file, timeout=0):
                pass
        except Timeout:
            return True
    return False


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def claim(scratch: Path, names: list[str]) -> None:
    """Say in the scratch folder of a sweep which data sets it counts on."""
    scratch.mkdir(parents=True, exist_ok=True)
    write_whole(scratch / NEEDS, {"needs": names})


def _used(store: Store) -> dict[str, list[str]]:
    """Names of data sets that trials of the ledger, done or failed, read, and how many trials."""
    trials: Counter[str] = Counter()
    for folder in _inside(store.root / "trials"):
        record = read_json(folder / "result.json") or read_json(folder / "failure.json") or {}
        trials.update(set(record.get("needs", ())))
    return {name: [f"{n} trial{'s' * (n > 1)}"] for name, n in trials.items()}


def _claimed(store: Store) -> dict[str, list[str]]:
    """Names of data sets that sweeps count on that run now, and which sweeps."""
    claims: dict[str, list[str]] = {}
    for folder in _inside(store.root / "tune"):
        for name in (read_json(folder / NEEDS) or {}).get("needs", ()) if running(folder) else ():
            claims.setdefault(name, []).append(f"a running sweep, {folder.name}")
    return claims


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
