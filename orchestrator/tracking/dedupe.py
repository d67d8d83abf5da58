"""Removes duplicate runs: which run of a key counts, and which are superfluous."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mlflow.entities import Run

from orchestrator.tracking.connection import Connection
from orchestrator.tracking.payloads import KEY, PARENT, PROBE_TAG

TURNS = 8  # enough rounds for drivers that send the same trials at once to converge


class Copy(NamedTuple):
    """A run of a key. `probes` are the probes whose findings it has, by name and key."""

    run_id: str
    status: str
    parent: str | None
    probes: frozenset[tuple[str, str]] = frozenset()


def copies(connection: Connection, experiment: str, key: str | None = None) -> dict[str, list[Copy]]:
    """The runs of an experiment by key, or those of one key; the smallest id first."""
    found: dict[str, list[Copy]] = {}
    for run in connection.runs(experiment, "" if key is None else f"tags.`{KEY}` = '{key}'"):
        if (its := run.data.tags.get(KEY)) is not None:
            found.setdefault(its, []).append(_copy(run))
    return {its: sorted(group, key=lambda copy: copy.run_id) for its, group in found.items()}


def _copy(run: Run) -> Copy:
    tags = run.data.tags
    probes = frozenset(
        (tag.removeprefix(PROBE_TAG), its) for tag, its in tags.items() if tag.startswith(PROBE_TAG)
    )
    return Copy(str(run.info.run_id), str(run.info.status), tags.get(PARENT), probes)


def whole(group: Iterable[Copy]) -> Copy | None:
    """The run that counts: FINISHED, with the smallest id. None if no run is FINISHED."""
    done = (copy for copy in group if copy.status == "FINISHED")
    return min(done, key=lambda copy: copy.run_id, default=None)


def unfinished(group: Iterable[Copy]) -> list[Copy]:
    """The runs that can be resumed, the smallest id first."""
    return sorted((copy for copy in group if copy.status != "FINISHED"), key=lambda copy: copy.run_id)


def left_over(group: Iterable[Copy]) -> list[Copy]:
    """All runs but the one that counts; none if no run counts yet."""
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
    """Ensure that every wanted key has exactly one FINISHED run. `write(key, group)` writes one, or finishes
    one of `group`, the existing runs. Returns how many were written, and which keys still lack one; calls
    `report(written, of)` after each.

    Another driver may do the same at the same time, and a run may change between listing and deleting. Hence
    nothing is deleted before a FINISHED run exists, and after any change the runs are listed again until
    nothing is left to do.
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
