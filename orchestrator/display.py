"""What a person sees of a sweep: a live table and bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from orchestrator import report
from orchestrator.observer import Observer
from orchestrator.plan import Plan, Task
from orchestrator.results import Record
from poisons import DataSpec
from trainers.loop import Metrics


@dataclass
class Lines(Observer):
    """One line per event, for logs and pipes."""

    console: Console
    start: float = field(default_factory=time.monotonic)
    total: int = 0
    ended: int = 0

    def say(self, message: str) -> None:
        self.console.print(
            f"[{time.monotonic() - self.start:7.1f} s] {message}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def sweep_started(self, plan: Plan) -> None:
        self.total = len(plan.missing)
        self.say(f"{plan.sweep.name}: {len(plan.to_build)} data sets to build, {self.total} trials to run")

    def data_started(self, spec: DataSpec) -> None:
        self.say(f"data   {spec.name}: building")

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None:
        self.say(f"data   {spec.name}: {words(row)}")

    def data_built(self, spec: DataSpec) -> None:
        self.say(f"data   {spec.name}: built")

    def data_failed(self, spec: DataSpec, error: str) -> None:
        self.say(f"data   {spec.name}: FAILED, {error}")

    def trial_retried(self, task: Task) -> None:
        self.say(f"trial  {task.key} ({task.point.name}): failed, is tried again")

    def trial_done(self, task: Task, record: Record) -> None:
        self.ended += 1
        result = f"{100 * record['metrics']['test/clean_acc']:.2f} % in {record['seconds']:.1f} s"
        self.say(f"trial  {self.ended}/{self.total} {task.key} ({task.point.name}): {result}")

    def trial_failed(self, task: Task, error: str) -> None:
        self.ended += 1
        self.say(f"trial  {self.ended}/{self.total} {task.key} ({task.point.name}): FAILED, {error}")


class Screen(Observer):
    """Bars for data sets and trials, a table of what runs now; failures stay on the screen above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.building: dict[str, tuple[float, str]] = {}  # name -> since when, last word
        self.running: dict[str, tuple[Task, float, Metrics]] = {}
        self.waiting = console.status("starting Ray")
        self.waiting.start()
        self.live = Live(console=console, get_renderable=self.picture, refresh_per_second=4, transient=True)

    def picture(self) -> Group:
        now = time.monotonic()
        table = RichTable("running", "for", "epoch", "train acc", "test acc", box=None, padding=(0, 2, 0, 0))
        for name, (since, word) in list(self.building.items()):
            table.add_row(f"[cyan]{escape(name)}[/] {escape(word)}", f"{now - since:.0f} s", "", "", "")
        for task, since, row in list(self.running.values()):
            epoch = f"{row['epoch']:.0f}/{task.trial.train.epochs}" if row else f"-/{task.trial.train.epochs}"
            accs = [f"{100 * row[name]:.1f} %" if row else "" for name in ("train/acc", "test/clean_acc")]
            table.add_row(escape(task.point.name), f"{now - since:.0f} s", epoch, *accs)
        return Group(self.bars, table)

    def sweep_started(self, plan: Plan) -> None:
        self.data_bar = self.bars.add_task("data sets", total=len(plan.to_build))
        self.trial_bar = self.bars.add_task("trials", total=len(plan.tasks), completed=plan.done)
        self.waiting.stop()
        self.live.start()

    def sweep_ended(self) -> None:
        self.waiting.stop()
        self.live.stop()

    def data_started(self, spec: DataSpec) -> None:
        self.building[spec.name] = (time.monotonic(), "")

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None:
        since, _ = self.building.get(spec.name, (time.monotonic(), ""))
        self.building[spec.name] = (since, words(row))

    def data_built(self, spec: DataSpec) -> None:
        self.building.pop(spec.name, None)
        self.bars.advance(self.data_bar)

    def data_failed(self, spec: DataSpec, error: str) -> None:
        self.building.pop(spec.name, None)
        self.console.print(f"[red]data set {escape(spec.name)} failed:[/] {escape(error)}")

    def trial_started(self, task: Task) -> None:
        self.running[task.key] = (task, time.monotonic(), {})

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None:
        _, since, _ = self.running.get(task.key, (task, time.monotonic(), {}))
        self.running[task.key] = (task, since, rows[-1])

    def trial_done(self, task: Task, record: Record) -> None:
        self.running.pop(task.key, None)
        self.bars.advance(self.trial_bar)

    def trial_failed(self, task: Task, error: str) -> None:
        self.running.pop(task.key, None)
        self.bars.advance(self.trial_bar)
        self.console.print(f"[red]trial {task.key} ({escape(task.point.name)}) failed:[/] {escape(error)}")


def words(row: dict[str, Any]) -> str:
    """`round 3, error 0.4231, seconds 12.4`"""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
    )


def rich_table(table: report.Table) -> RichTable:
    """The report for a terminal."""
    rich = RichTable(
        title=escape(f"{table.name}: {table.question}"), caption=report.caption(table), title_justify="left"
    )
    rich.add_column(escape(" / ".join(table.row_axes) or "sweep"))
    for column in table.columns:
        rich.add_column(escape(column), justify="right")
    for row in table.rows:
        rich.add_row(
            escape(row),
            *(report.text(table, row, column) for column in table.columns),
        )
    return rich


def picture(table: report.Table) -> str:
    """The report as an SVG image of a terminal, in a font of the reader's own: it fetches nothing."""
    rich = rich_table(table)
    wide = Console(record=True, width=500, file=io.StringIO())
    console = Console(record=True, width=wide.measure(rich).maximum, file=io.StringIO())
    console.print(rich)
    return re.sub(
        r"@font-face \{.*?\}", "", console.export_svg(title=f"opsctl report {table.name}"), flags=re.S
    )


def plan_table(plan: Plan) -> RichTable:
    """The data sets that a plan needs, and whether they are there."""
    rich = RichTable("data set", "key", "state", box=None, padding=(0, 2, 0, 0))
    for spec in plan.data:
        name = spec.name.removesuffix(f"-{spec.key}")
        rich.add_row(name, spec.key, "in the store" if spec.name in plan.ready else "[yellow]to build[/]")
    return rich
