"""The terminal output of `opsctl status`, with and without `--watch`: progress, drivers, failures and doubts.

Imports only light modules, so that `opsctl status` starts instantly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator import report
from orchestrator.cli.tables import FittedTable, at_work
from orchestrator.cli.terminal import Terminal
from orchestrator.monitoring.driver_status import (
    building,
    doubts_by_text,
    driver_line,
    elapsed,
    pace,
    running,
)
from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.storage.records import Heartbeat
from trainers.printable import one_line

FAILURES = 5  # most failures shown with --watch; without it all are shown


def show(
    status: SweepStatus, heartbeats: Sequence[Heartbeat], version: str, where: str, console: Terminal
) -> None:
    """Print the status without the table. `heartbeats` are those of all drivers of the store at `where`."""
    name = status.snapshot.name
    mine = [heartbeat for heartbeat in heartbeats if heartbeat["sweep"] == name]
    others = sorted(
        {
            f"{heartbeat['sweep']} on {heartbeat['host']}"
            for heartbeat in heartbeats
            if heartbeat["sweep"] != name
        }
    )
    console.say((name, "bold"), f": {status.counts}")
    for heartbeat in mine:
        console.say(("runs", "green"), f"   {driver_line(heartbeat, version)}")
    if building(mine) or running(mine):
        console.print(at_work(building(mine), running(mine)))
    if others:
        console.say(f"other sweeps running in this store: {', '.join(map(one_line, others))}")
    for entry, failure in status.failed():
        attempts = failure.get("attempts", 1)
        text = f" {entry.key} ({one_line(entry.name)}), {attempts} attempts: {failure['error']}"
        console.say(("failed", "red"), text)
        console.say(f"       {where}/trials/{entry.key}/failure.json")
    for name, why in status.damaged.items():
        console.say(("damaged", "red"), f" {where}/{name} counts as missing: {why}")
    for text, entries in doubts_by_text(status).items():
        more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
        first = f"{entries[0].key} ({one_line(entries[0].name)})"
        console.say(("doubt", "yellow"), f"  {first}{more}: {text}")


@dataclass
class Lines:
    """Prints a line for each change, for logs and pipes."""

    console: Terminal
    start: float = field(default_factory=time.monotonic)
    last: str = ""
    reported: set[str] = field(default_factory=set)  # keys of failed trials

    def show(self, status: SweepStatus, drivers: Sequence[Heartbeat]) -> None:
        who = f"{len(running(drivers))} running" if drivers else "no driver is running"
        made = "".join(f", {data.name} is being built" for data in building(drivers))
        line = f"{status.counts}; {who}{made}"
        if line != self.last:
            self.last = line
            self._say(line)
        for entry, failure in status.failed():
            if entry.key not in self.reported:
                self.reported.add(entry.key)
                self._say(f"failed {entry.key} ({entry.name}): {failure['error']}")

    def close(self) -> None: ...

    def _say(self, line: str) -> None:
        text = f"[{time.monotonic() - self.start:7.1f} s] {line}"
        self.console.say(text)


class Screen:
    """A live view: a progress bar, the drivers, what is running, failures, and the table."""

    def __init__(self, console: Terminal, version: str | None) -> None:
        self.version = version
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.live.start()

    def show(self, status: SweepStatus, drivers: Sequence[Heartbeat]) -> None:
        self.live.update(picture(status, drivers, self.version), refresh=True)

    def close(self) -> None:
        self.live.stop()


def picture(status: SweepStatus, drivers: Sequence[Heartbeat], version: str | None) -> Group:
    """The content of the screen."""
    rate = pace(status, drivers)
    line = RichTable.grid(padding=(0, 2, 0, 0))
    line.add_row(
        ProgressBar(total=status.total, completed=status.total - status.left, width=40),
        status.counts,
        f"{3600 * rate:.0f} an hour, {elapsed(status.left / rate)} left" if rate else "",
    )
    who = [
        Text(f"runs {driver_line(heartbeat, version)}", overflow="ellipsis", no_wrap=True)
        for heartbeat in drivers
    ]
    builds, runs, failed = building(drivers), running(drivers), status.failed()
    more = [Text(f"... and {len(failed) - FAILURES} more failures")] if len(failed) > FAILURES else []
    return Group(
        Text.assemble((status.snapshot.name, "bold"), f": {status.snapshot.question}"),
        line,
        *(who or [Text("no driver is running")]),
        *([at_work(builds, runs)] if builds or runs else []),
        *(
            Text.assemble(("failed", "red"), f" {entry.name}: {record['error']}")
            for entry, record in failed[:FAILURES]
        ),
        *more,
        FittedTable(report.tabulate(status)),
    )
