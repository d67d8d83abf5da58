"""The runs that a store has of one key: which of them counts, and which are left over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mlflow.entities import Run

from orchestrator.tracking.connection import Connection
from orchestrator.tracking.payloads import KEY, LOOK, PARENT

TURNS = 8  # in which drivers that send the same at once will have agreed


class Copy(NamedTuple):
    """A run of a key, with the looks whose findings it has, by name and key."""

    run_id: str
    status: str
    parent: str | None
    looks: frozenset[tuple[str, str]] = frozenset()


def copies(connection: Connection, experiment: str, key: str | None = None) -> dict[str, list[Copy]]:
    """The runs of an experiment by key, or of one key only; the smallest id first."""
    found: dict[str, list[Copy]] = {}
    for run in connection.runs(experiment, "" if key is None else f"tags.`{KEY}` = '{key}'"):
        if (its := run.data.tags.get(KEY)) is not None:
            found.setdefault(its, []).append(_copy(run))
    return {its: sorted(group, key=lambda copy: copy.run_id) for its, group in found.items()}


def _copy(run: Run) -> Copy:
    tags = run.data.tags
    looks = frozenset((tag.removeprefix(LOOK), its) for tag, its in tags.items() if tag.startswith(LOOK))
    return Copy(str(run.info.run_id), str(run.info.status), tags.get(PARENT), looks)


def whole(group: Iterable[Copy]) -> Copy | None:
    """The one that counts: FINISHED, with the smallest id."""
    done = (copy for copy in group if copy.status == "FINISHED")
    return min(done, key=lambda copy: copy.run_id, default=None)


def unfinished(group: Iterable[Copy]) -> list[Copy]:
    """Those that may be resumed, the smallest id first."""
    return sorted((copy for copy in group if copy.status != "FINISHED"), key=lambda copy: copy.run_id)


def left_over(group: Iterable[Copy]) -> list[Copy]:
    """All but the one that counts; none as long as none does."""
    group = list(group)
    kept = whole(group)
    return [copy for copy in group if kept is not None and copy is not kept]


def discard(connection: Connection, group: Iterable[Copy]) -> None:
    for copy in group:
        connection.client.delete_run(copy.run_id)


def settle(
    connection: Connection,
    experiment: str,
    wanted: Iterable[str],
    write: Callable[[str, list[Copy]], None],
    report: Callable[[int, int], None] = lambda _sent, _of: None,
) -> tuple[int, list[str]]:
    """Have one FINISHED run of every wanted key, and no other; `write(key, group)` writes one, or finishes
    one of `group`, the runs that there are. Returns how many were missing, and which still are; `report`
    hears of each: (written, of).

    Another driver may do the same at this moment, and what was listed may have changed when it is deleted.
    Hence nothing is deleted before there is one that counts, and whoever wrote or deleted looks again: after
    the last change, somebody has found all well.
    """
    wanted, written = list(wanted), set[str]()
    missing: list[str] = []
    for _ in range(TURNS):
        known = copies(connection, experiment)
        missing = [key for key in wanted if whole(known.get(key, [])) is None]
        surplus = [copy for key in wanted for copy in left_over(known.get(key, []))]
        if not missing and not surplus:
            break
        discard(connection, surplus)
        for key in missing:
            write(key, known.get(key, []))
            written.add(key)
            report(len(written), len(written.union(missing)))
    return len(written), missing
