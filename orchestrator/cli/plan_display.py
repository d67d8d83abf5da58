"""The terminal output of `opsctl plan`, for one sweep or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.loading import warn

if TYPE_CHECKING:
    from orchestrator.cli.terminal import Terminal
    from orchestrator.planning.plan import Plan
    from poisons import Store


def show_plan(
    todo: Plan,
    stored: Store,
    file: Path,
    console: Terminal,
    *,
    tflops: float | None = None,
    slots: int | None = None,
) -> None:
    from orchestrator.cli.plan_table import plan_table
    from orchestrator.estimates.estimate import estimate_on_this_machine, lines
    from orchestrator.estimates.kept_weights import choose_kept_weights
    from orchestrator.planning.caveats import remarks, source_remarks, warnings
    from orchestrator.report.preview import gaps

    console.say((todo.sweep.name, "bold"), f": {todo.sweep.question}")
    with console.status("estimating the cost"):
        cost = estimate_on_this_machine(todo, stored, tflops=tflops, slots=slots) if todo.missing else None
    if todo.data:
        console.print(plan_table(todo, cost.data if cost else {}))
    console.say(f"{todo.work}, {todo.finished} trials already done, {len(todo.tasks)} in all")
    for remark in (*remarks(todo), *choose_kept_weights(todo, stored).lines(), *source_remarks([todo])):
        console.say(remark)
    for warning in (*warnings(todo), *gaps(todo.snapshot, file)):
        warn(console, warning)
    if todo.failed or todo.stopped:
        console.say(
            f"{len(todo.failed)} trials failed before and will not be run again (see opsctl retry), "
            f"{len(todo.stopped)} were stopped early"
        )
    for line in lines(cost) if cost else ():
        console.say(line)


def show_batch(
    planned: list[tuple[Plan, Path]],
    stored: Store,
    console: Terminal,
    *,
    tflops: float | None,
    slots: int | None,
) -> None:
    from orchestrator.cli.plan_table import plan_table
    from orchestrator.estimates.estimate import estimate_on_this_machine, lines
    from orchestrator.estimates.kept_weights import choose_kept_weights, together
    from orchestrator.planning.batch import Batch
    from orchestrator.planning.caveats import lacking_probes, source_remarks, warnings
    from orchestrator.report.preview import gaps

    plans = [todo for todo, _ in planned]
    batch = Batch(tuple(plans))
    for todo in plans:
        console.say((todo.sweep.name, "bold"), f": {batch.of(todo)}")
    with console.status("estimating the cost"):
        runs = sum(bool(todo.missing) for todo in plans)
        cost = estimate_on_this_machine(batch.whole, stored, tflops=tflops, slots=slots, sweeps=runs)
    if batch.whole.data:
        console.print(plan_table(batch.whole, cost.data if cost else {}))
    weights = together([choose_kept_weights(todo, stored) for todo in plans])
    notes = (*source_remarks(plans), *batch.lines(), *lacking_probes(batch.whole), *weights)
    for line in (*notes, *(lines(cost) if cost else ())):
        console.say(line)
    for todo, file in planned:
        for warning in (*warnings(todo), *gaps(todo.snapshot, file)):
            warn(console, f"{todo.sweep.name}: {warning}")
