"""What most commands need first: the console, the plan of a sweep file, its snapshot, the ledger."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from orchestrator.cli.terminal import Terminal
    from orchestrator.monitoring.sweep_status import SweepStatus
    from orchestrator.planning.plan import Plan
    from orchestrator.planning.snapshot import Snapshot
    from orchestrator.storage.ledger import Ledger
    from poisons import Store

Made = TypeVar("Made")


def console_of() -> Terminal:
    from orchestrator.cli.terminal import Terminal

    return Terminal()


def warn(console: Terminal, message: str) -> None:
    console.say(("warning:", "yellow"), f" {message}")


def plan_of(
    file: Path, store: str, settings: list[str] | None, *, retry: Collection[str] = ()
) -> tuple[Plan, Store]:
    from orchestrator.cli.terminal import Terminal

    with Terminal(stderr=True).status("reading the sweep and the store"):
        from orchestrator.planning.plan import make_plan
        from orchestrator.planning.snapshot import version_of
        from orchestrator.planning.sweep_file import load
        from orchestrator.storage.ledger import Ledger
        from orchestrator.storage.stores import open_store, storage_of

        version = version_of(file, settings or ()) or ""
        spec = load(file, tuple(settings or ()))
        stored = open_store(store)
        todo = make_plan(spec, stored, str(file), version=version, retry=retry)
        with suppress(OSError):  # the disk may be full; status then plans the sweep itself
            todo.snapshot.keep(Ledger(storage_of(stored)).storage, version)
        return todo, stored


def each_of(files: list[Path], make: Callable[[Path], Made]) -> tuple[list[Made], list[str]]:
    """The results of `make` for each sweep file, and the error messages of those that failed. Raises
    InputError if all of them fail."""
    made, wrong = [], []
    for file in files:
        try:
            made.append(make(file))
        except ValueError as error:
            from trainers import InputError  # local, so that status and report start instantly

            if len(files) == 1 or not isinstance(error, InputError):
                raise
            wrong.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    if not made:
        raise InputError("\n".join(wrong))
    return made, wrong


def refuse_left_out(wrong: list[str]) -> None:
    """Raises InputError if any of several sweeps was left out."""
    if wrong:
        from trainers import InputError

        raise InputError("left out: " + "; ".join(wrong))


def snapshot_of(file: Path, store: str, settings: list[str] | None) -> tuple[Snapshot, Ledger, str]:
    """The snapshot of a sweep (of its last plan, else planned now), its ledger, and its text's version."""
    from orchestrator.planning.snapshot import kept_snapshot, version_of

    ledger, version = ledger_of(store), version_of(file, settings or ())
    snapshot = kept_snapshot(ledger.storage, version) if version else None
    if snapshot is None:
        todo, _ = plan_of(file, store, settings)
        snapshot, version = todo.snapshot, todo.version
    return snapshot, ledger, version or ""


def ledger_of(store: str) -> Ledger:
    """The ledger of a store, for reading only: saves the time that it takes to open the store."""
    from orchestrator.storage.ledger import Ledger

    return Ledger(store)


def name_of(file: Path, store: str) -> str:
    """The name of the sweep in a file. If it was planned before, the file is not parsed."""
    from orchestrator.planning.snapshot import kept_snapshot, version_of

    version = version_of(file)
    snapshot = kept_snapshot(ledger_of(store).storage, version) if version else None
    if snapshot is not None:
        return snapshot.name
    from orchestrator.planning.sweep_file import load

    return load(file).name


def status_of(todo: Plan, stored: Store) -> SweepStatus:
    from orchestrator.monitoring.sweep_status import read_status
    from orchestrator.storage.ledger import Ledger
    from orchestrator.storage.stores import storage_of

    return read_status(todo.snapshot, Ledger(storage_of(stored)))
