"""`opsctl status --watch`: a sweep that runs, seen from any terminal or machine that reaches its store.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator import report
from orchestrator.planning.snapshot import Outline
from orchestrator.standing import Standing, look
from orchestrator.status import building, driver_line, pace, running
from orchestrator.storage.heartbeats import Mark, Watch, marks
from orchestrator.storage.ledger import Ledger
from orchestrator.tables import at_work, duration, rich_table
from orchestrator.terminal import Terminal

FAILURES = 5  # on the screen; status shows all


class View(Protocol):
    """Shows how far a sweep is, as often as it is told."""

    def show(self, standing: Standing, drivers: Sequence[Mark]) -> None: ...

    def close(self) -> None: ...


def watch(
    outline: Outline, ledger: Ledger, view: View, *, every: float, stop: threading.Event
) -> Standing | None:
    """Show a sweep every so many seconds until nothing is left to run, what ran it has ended, or `stop` is
    set; how far it was then. A store that does not answer for a while is asked again."""
    alive, seen, ran = Watch(ledger.depot), None, False
    try:
        while True:
            with suppress(OSError):
                drivers = [mark for mark in marks(ledger.depot) if mark["sweep"] == outline.name]
                drivers = [mark for mark in drivers if alive.alive(mark["id"])]
                seen = look(outline, ledger, seen)
                view.show(seen, drivers)
                if not drivers and (ran or not seen.left):
                    return seen
                ran = ran or bool(drivers)
            if stop.wait(every):
                return seen
    finally:
        view.close()


@dataclass
class Lines:
    """A line per change, for logs and pipes."""

    console: Terminal
    start: float = field(default_factory=time.monotonic)
    last: str = ""
    told: set[str] = field(default_factory=set)  # keys of failures

    def show(self, standing: Standing, drivers: Sequence[Mark]) -> None:
        who = f"{len(running(drivers))} run" if drivers else "nobody runs it"
        made = "".join(f", {data.name} is being built" for data in building(drivers))
        line = f"{standing.counts}; {who}{made}"
        if line != self.last:
            self.last = line
            self._say(line)
        for entry, failure in standing.failed():
            if entry.key not in self.told:
                self.told.add(entry.key)
                self._say(f"failed {entry.key} ({entry.name}): {failure['error']}")

    def close(self) -> None: ...

    def _say(self, line: str) -> None:
        text = f"[{time.monotonic() - self.start:7.1f} s] {line}"
        self.console.say(text)


class Screen:
    """A picture that renews itself: a bar, who runs the sweep, what runs, what failed, the table."""

    def __init__(self, console: Terminal, version: str | None) -> None:
        self.version = version
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.live.start()

    def show(self, standing: Standing, drivers: Sequence[Mark]) -> None:
        self.live.update(picture(standing, drivers, self.version), refresh=True)

    def close(self) -> None:
        self.live.stop()


def picture(standing: Standing, drivers: Sequence[Mark], version: str | None) -> Group:
    """What the screen shows."""
    rate = pace(standing, drivers)
    line = RichTable.grid(padding=(0, 2, 0, 0))
    line.add_row(
        ProgressBar(total=standing.total, completed=standing.total - standing.left, width=40),
        standing.counts,
        f"{3600 * rate:.0f} an hour, {duration(standing.left / rate)} left" if rate else "",
    )
    who = [Text(f"runs {driver_line(mark, version)}", overflow="ellipsis", no_wrap=True) for mark in drivers]
    builds, runs, failed = building(drivers), running(drivers), standing.failed()
    more = [Text(f"... and {len(failed) - FAILURES} more failures")] if len(failed) > FAILURES else []
    return Group(
        Text.assemble((standing.outline.name, "bold"), f": {standing.outline.question}"),
        line,
        *(who or [Text("nobody runs it just now")]),
        *([at_work(builds, runs)] if builds or runs else []),
        *(
            Text.assemble(("failed", "red"), f" {entry.name}: {told['error']}")
            for entry, told in failed[:FAILURES]
        ),
        *more,
        rich_table(report.tabulate(standing)),
    )
