"""The display of a running sweep: a live table and progress bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from orchestrator.cli.tables import at_work
from orchestrator.cli.terminal import Terminal
from orchestrator.monitoring.driver_status import Building, Running
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Plan, Task
from orchestrator.report.wording import number
from orchestrator.storage.records import Result, Stopped
from poisons import DataSpec
from trainers.families import Metrics
from trainers.probe_view import PERCENT


@dataclass
class Lines(Observer):
    """One line per event, for logs and pipes."""

    console: Terminal
    start: float = field(default_factory=time.monotonic)
    total: int = 0
    ended: int = 0

    def say(self, message: str) -> None:
        self.console.say(f"[{time.monotonic() - self.start:7.1f} s] {message}")

    def sweep_started(self, plan: Plan) -> None:
        self.total = plan.most
        self.say(f"{plan.sweep.name}: {plan.work}")

    def data_started(self, spec: DataSpec) -> None:
        self.say(f"data   {spec.name}: building")

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None:
        self.say(f"data   {spec.name}: {progress_text(row)}")

    def data_built(self, spec: DataSpec) -> None:
        self.say(f"data   {spec.name}: built")

    def data_retried(self, spec: DataSpec, why: str) -> None:
        self.say(f"data   {spec.name}: will be retried, {why}")

    def data_failed(self, spec: DataSpec, error: str) -> None:
        self.say(f"data   {spec.name}: FAILED, {error}")

    def trial_retried(self, task: Task, why: str) -> None:
        self.say(f"trial  {task.key} ({task.point.name}): will be retried, {why}")

    def trial_done(self, task: Task, record: Result) -> None:
        self.ended += 1
        acc = number(record["metrics"]["test/clean_acc"], PERCENT)
        took = f" in {record['seconds']:.1f} s" if not task.trained else f", probed: {probes(task)}"
        result = f"{acc} %{took}"
        self.say(f"trial  {self.ended}/{self.total} {task.key} ({task.point.name}): {result}")

    def trial_stopped(self, task: Task, record: Stopped) -> None:
        self.ended += 1
        self.say(f"trial  {self.ended}/{self.total} {task.key} ({task.point.name}): stopped early")

    def trial_failed(self, task: Task, error: str) -> None:
        self.ended += 1
        self.say(f"trial  {self.ended}/{self.total} {task.key} ({task.point.name}): FAILED, {error}")

    def store_silent(self, error: str) -> None:
        self.say(f"the store does not answer: {error}; retrying")


class Screen(Observer):
    """Progress bars for data sets and trials, and a table of what is running; failures are printed above."""

    def __init__(self, console: Terminal) -> None:
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
        self.building: dict[str, tuple[float, str]] = {}  # name -> start time, latest progress
        self.running: dict[str, tuple[Task, float, Metrics]] = {}
        self.waiting = console.status("starting Ray")
        self.waiting.start()
        self.live = Live(console=console, get_renderable=self.picture, refresh_per_second=4, transient=True)

    def picture(self) -> Group:
        now = time.monotonic()
        building = [Building(name, text, now - since) for name, (since, text) in list(self.building.items())]
        running = [
            Running(
                task.point.name,
                now - since,
                task.trial.train.epochs,
                *(row.get(name) for name in ("epoch", "train/acc", "test/clean_acc")),
            )
            for task, since, row in list(self.running.values())
        ]
        return Group(self.bars, at_work(building, running))

    def sweep_started(self, plan: Plan) -> None:
        self.data_bar = self.bars.add_task("data sets", total=len(plan.to_build))
        settled = plan.done + len(plan.failed) + len(plan.stopped)
        self.trial_bar = self.bars.add_task("trials", total=settled + plan.most, completed=settled)
        self.waiting.stop()
        self.live.start()

    def sweep_ended(self) -> None:
        self.waiting.stop()
        self.live.stop()

    def data_started(self, spec: DataSpec) -> None:
        self.building[spec.name] = (time.monotonic(), "")

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None:
        since, _ = self.building.get(spec.name, (time.monotonic(), ""))
        self.building[spec.name] = (since, progress_text(row))

    def data_built(self, spec: DataSpec) -> None:
        self.building.pop(spec.name, None)
        self.bars.advance(self.data_bar)

    def data_retried(self, spec: DataSpec, why: str) -> None:
        self.building.pop(spec.name, None)
        self.console.say((f"data set {spec.name} will be retried:", "yellow"), f" {why}")

    def data_failed(self, spec: DataSpec, error: str) -> None:
        self.building.pop(spec.name, None)
        self.console.say((f"data set {spec.name} failed:", "red"), f" {error}")

    def trial_started(self, task: Task) -> None:
        self.running[task.key] = (task, time.monotonic(), {})

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None:
        _, since, _ = self.running.get(task.key, (task, time.monotonic(), {}))
        self.running[task.key] = (task, since, rows[-1])

    def trial_retried(self, task: Task, why: str) -> None:
        self.running.pop(task.key, None)
        self.console.say((f"trial {task.key} ({task.point.name}) will be retried:", "yellow"), f" {why}")

    def trial_stopped(self, task: Task, record: Stopped) -> None:
        self._ended(task)

    def trial_done(self, task: Task, record: Result) -> None:
        self._ended(task)

    def trial_failed(self, task: Task, error: str) -> None:
        self._ended(task)
        self.console.say((f"trial {task.key} ({task.point.name}) failed:", "red"), f" {error}")

    def store_silent(self, error: str) -> None:
        self.console.say(("the store does not answer:", "yellow"), f" {error}; retrying")

    def _ended(self, task: Task) -> None:
        self.running.pop(task.key, None)  # absent if another sweep ran it
        self.bars.advance(self.trial_bar)


def probes(task: Task) -> str:
    """`distance, loss_surface`: the probes that a finished trial lacked."""
    return ", ".join(probe_run.name for probe_run in task.missing_probes)


def progress_text(row: dict[str, Any]) -> str:
    """`round 3, error 0.4231, seconds 12.4`"""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
    )
