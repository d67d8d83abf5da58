"""A running sweep can be inspected, watched and stopped remotely; trials that failed through their own fault wait
for retry."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import status_display
from orchestrator.cli.display import Lines, Screen
from orchestrator.cli.tables import ROWS, at_work
from orchestrator.cli.terminal import Terminal
from orchestrator.execution.trial import run_trial
from orchestrator.monitoring import driver_status, watch
from orchestrator.monitoring.driver_status import Building, Running
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.snapshot import version_of
from orchestrator.storage.heartbeats import live_heartbeats
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import SEALS, sealed
from poisons import Store
from tests.conftest import CPU, Opsctl, start
from tests.orchestrator.driving import driving, run
from tests.orchestrator.sweeps import plan_of, tiny, write

DONE = {"metrics": {"test/clean_acc": 0.5}, "seconds": 60.0}


def text_of(renderable: Any) -> str:
    console = Terminal(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_status_lists_the_drivers_of_a_sweep_and_other_running_sweeps(opsctl: Opsctl, tmp_path: Path) -> None:
    file, where = write(tmp_path, tiny()), str(tmp_path / "store")
    runs = [run("data.poison=ops, seed=1", epoch=3.0, **{"train/acc": 0.5, "test/clean_acc": 0.25})]
    build = [{"name": "digits-em-train-1", "word": "round 3"}]
    version = version_of(file) or ""
    with (
        driving(where, "tiny", snapshot=version, running=runs, building=build, faults={"machine": 2}),
        driving(where, "other"),
    ):
        code, out, _ = opsctl("status", file)
    assert code == 0
    assert "0 of 4 trials done, 0 failed, 4 missing" in out
    assert "1 trials running, 3 waiting, 1 data sets being built; faults so far: 2 machine" in out
    assert "data.poison=ops, seed=1" in out
    assert "3/9    50.00 %    25.00 %" in out
    assert "digits-em-train-1 round 3" in out
    assert "other sweeps running in this store: other on " in out
    assert "it started with" not in out
    assert "runs" not in opsctl("status", file)[1]


def test_status_reports_that_the_file_was_edited(opsctl: Opsctl, tmp_path: Path) -> None:
    file, where = write(tmp_path, tiny()), str(tmp_path / "store")
    with driving(where, "tiny", snapshot=version_of(file) or ""):
        file.write_text(file.read_text() + "# more\n")
        assert "it started with another text of the sweep file" in opsctl("status", file)[1]
    with driving(where, "tiny", snapshot=version_of(file, ["seed=[0]"]) or ""):
        assert "it started with other --set options" in opsctl("status", file)[1]


def test_status_reports_a_driver_without_a_recent_heartbeat(store: Store) -> None:
    with driving(store.where, "tiny"):
        (heartbeat,) = live_heartbeats(Ledger(store.where).storage)
    silent = heartbeat | {"state": heartbeat["state"] | {"silent": "it is full", "resting": 1}}
    assert "the store does not answer: it is full" in driver_status.driver_line(silent, None)
    assert "1 machines paused" in driver_status.driver_line(silent, None)
    assert "NO HEARTBEAT" not in driver_status.driver_line(heartbeat, None)
    assert "NO HEARTBEAT for" in driver_status.driver_line(
        heartbeat | {"time": "2026-01-01T00:00:00+00:00"}, None
    )


def test_status_reads_the_snapshot_of_a_planned_sweep_and_plans_an_edited_file(
    opsctl: Opsctl, tmp_path: Path
) -> None:
    file = write(tmp_path, tiny())
    assert opsctl("status", file)[0] == 0
    (kept,) = (tmp_path / "store" / "sweeps").glob("*.json")
    content = {name: value for name, value in json.loads(kept.read_text()).items() if name not in SEALS}
    kept.write_text(json.dumps(sealed(content | {"question": "Is this read?"})))
    assert "Is this read?" in opsctl("status", file)[1]
    kept.write_text(kept.read_text().replace("Is this read?", "Was it changed?"))
    assert "Does it run?" in opsctl("status", file)[1], "it is planned again"
    write(tmp_path, tiny(grid={"seed": [0, 1, 2]}))
    assert "0 of 3 trials done" in opsctl("status", file)[1]
    assert "0 of 1 trials done" in opsctl("status", file, "--set", "seed=[7]")[1]
    code, _, err = opsctl("status", tmp_path / "none.yaml")
    assert (code, "no file" in err) == (2, True)


@pytest.mark.parametrize("options", [["tiny.yaml", "--all"], []])
def test_stop_requires_either_a_file_or_all(opsctl: Opsctl, options: list[str]) -> None:
    code, _, err = opsctl("stop", *options)
    assert (code, "either a sweep file or --all" in err) == (2, True)


def test_stop_ends_the_named_sweep_and_waits_for_it(opsctl: Opsctl, tmp_path: Path) -> None:
    file, where = write(tmp_path, tiny()), str(tmp_path / "store")
    code, out, _ = opsctl("stop", file)
    assert (code, out) == (0, "tiny is not running\n")
    with driving(where, "tiny") as one, driving(where, "tiny") as two, driving(where, "other") as other:
        code, out, _ = opsctl("stop", file)
        assert code == 0
        assert out.count("has stopped") == 2
        assert one.stop.is_set()
        assert two.stop.is_set()
        assert not other.stop.is_set()
        code, out, _ = opsctl("stop", "--all")
        assert (code, other.stop.is_set(), "other on" in out) == (0, True, True)
    code, out, _ = opsctl("stop", "--all")
    assert (code, "no sweep is running in" in out) == (0, True)


def test_stop_reports_drivers_that_do_not_respond(opsctl: Opsctl, tmp_path: Path) -> None:
    with driving(str(tmp_path / "store"), "other") as driver:
        driver.stop = threading.Event()  # as of a driver that hangs: it hears of it, and does nothing
        code, out, _ = opsctl("stop", "--all", "--wait", "0.2")
    assert (code, "has not responded within 0.2 s" in out) == (1, True)


def failed(tmp_path: Path, kinds: list[str]) -> tuple[Path, Ledger, list[str]]:
    """A sweep of four trials: the first ones failed with these errors, the others are done."""
    store = Store(tmp_path / "store")
    tasks, ledger = plan_of(tiny(), store).tasks, Ledger(store.where)
    for task in tasks[len(kinds) :]:
        run_trial(task.trial, store, device=CPU)
    for task, kind in zip(tasks, kinds, strict=False):
        ledger.fail(task.key, {"error": "Boom: no", "traceback": None, "kind": kind})
    return write(tmp_path, tiny()), ledger, [task.key for task in tasks]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_sweep_does_not_repeat_trials_that_failed_through_their_own_fault(
    opsctl: Opsctl, tmp_path: Path
) -> None:
    file, ledger, keys = failed(tmp_path, ["trial", "trial"])
    code, out, _ = opsctl("sweep", file)
    assert code == 1
    assert "2 trials failed before and were not run again; opsctl retry" in out
    assert ledger.failed() == set(keys[:2])


def test_retry_makes_failed_trials_missing_again(opsctl: Opsctl, tmp_path: Path) -> None:
    file, ledger, keys = failed(tmp_path, ["trial", "trial"])
    code, out, _ = opsctl("retry", file, "no such key")
    assert (code, "no trial with these keys has failed" in out) == (0, True)
    code, out, _ = opsctl("retry", file, "--dry-run")
    assert (code, ledger.failed()) == (0, set(keys[:2])), "a dry run changes nothing"
    nowhere = ("--set", "report.reference=nowhere/t")
    process = start("retry", file, keys[1][:10], *nowhere, store=tmp_path / "store")
    out, _ = process.communicate(timeout=300)
    assert out.index("warning: report.reference: 'nowhere/t'") < out.index("trial  1/1"), "said at once"
    assert "tiny: 1 failed trials are run again" in out
    assert process.returncode == 1, "the other has failed still"
    assert ledger.failed() == {keys[0]}
    assert ledger.done() == set(keys[1:])
    assert "trial  1/1" in out
    ledger.forget(keys[0])
    assert "no trial has failed" in opsctl("retry", file)[1]


def test_retry_keeps_the_failure_of_a_trial_that_cannot_run_here(opsctl: Opsctl, tmp_path: Path) -> None:
    file, ledger, keys = failed(tmp_path, ["trial"])
    code, _, err = opsctl("retry", file, "--gpus-per-trial", 64)
    assert (code, "64 GPU asked for" in err) == (2, True)
    assert ledger.failed() == {keys[0]}
    code, _, err = opsctl("retry", file, "--set", "train.no_such=1")
    assert (code, ledger.failed()) == (2, {keys[0]})
    code, out, _ = opsctl("retry", file, "--dry-run")
    assert (code, "1 trials to run" in out, ledger.failed()) == (0, True, {keys[0]})


def test_watch_in_a_pipe_prints_a_line_per_change_and_ends_with_the_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plan, ledger = plan_of(tiny(), store), Ledger(store.where)
    console, stop = Terminal(file=io.StringIO(), width=200), threading.Event()
    view = status_display.Lines(console)
    watching = threading.Thread(
        target=watch.watch, args=(plan.snapshot, ledger, view), kwargs={"every": 0.02, "stop": stop}
    )
    with driving(store.where, "tiny", running=[run("seed=0")], building=[{"name": "em", "word": ""}]):
        watching.start()
        for task in plan.tasks[:3]:
            ledger.publish(task.key, DONE)
        ledger.fail(plan.tasks[3].key, {"error": "Boom: [no]", "traceback": None})
        while "3 of 4 trials done, 1 failed" not in view.last:
            assert watching.is_alive()
        assert watching.is_alive(), "its driver may still continue"
    watching.join(10)
    assert not watching.is_alive()
    lines = [line[12:].strip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert "3 of 4 trials done, 1 failed, 0 missing; 1 running, em is being built" in lines
    assert f"failed {plan.tasks[3].key} (data.poison=ops, seed=1): Boom: [no]" in lines
    assert lines[-1] == "3 of 4 trials done, 1 failed, 0 missing; no driver is running"
    assert len(set(lines)) == len(lines)


def test_watch_of_a_finished_sweep_shows_it_and_ends(opsctl: Opsctl, tmp_path: Path) -> None:
    file, _, _ = failed(tmp_path, [])
    code, out, _ = opsctl("status", file, "--watch")
    assert code == 0
    assert "4 of 4 trials done, 0 failed, 0 missing; no driver is running" in out
    assert "Does it run?" in out.replace("\n", " "), "the report is printed"


def test_the_watch_screen_shows_everything(store: Store) -> None:
    plan, ledger = plan_of(tiny(), store), Ledger(store.where)
    ledger.publish(plan.tasks[0].key, DONE)
    ledger.fail(plan.tasks[1].key, {"error": "Boom: [no]", "traceback": None})
    with driving(store.where, "tiny", running=[run("seed=0"), run("seed=1")]):
        found = text_of(
            status_display.picture(read_status(plan.snapshot, ledger), live_heartbeats(ledger.storage), None)
        )
    for word in (
        "1 of 4 trials done, 1 failed, 2 missing",
        "120 an hour, 0:01:00 left",
        "seed=1",
        "-/9",
        "Boom: [no]",
        "50.00",
    ):
        assert word in found


def test_hundreds_of_running_trials_fit_a_screen() -> None:
    table = at_work([Building("em", "round 1")], [Running(f"seed={i}", 5, 9) for i in range(200)])
    assert table.row_count == ROWS + 1
    assert "... and 181 more" in text_of(table)
    assert at_work([], [Running("seed=0", 5, 9)]).row_count == 1


@pytest.mark.parametrize("kind", [Lines, Screen])
def test_a_display_accepts_trials_of_other_drivers_and_stopped_trials(store: Store, kind: Any) -> None:
    plan, console = plan_of(tiny(), store), Terminal(file=io.StringIO(), width=200, force_terminal=True)
    view = kind(console)
    view.sweep_started(plan)
    one, two, three, four = plan.tasks
    view.trial_started(one)
    view.trial_retried(one, "a machine failed")
    view.trial_done(two, DONE)
    view.trial_started(three)
    view.trial_stopped(three, {"epoch": 1})
    view.trial_failed(four, "Boom: [no]")
    if isinstance(view, Screen):
        assert not view.running
        assert "3/4" in text_of(view.picture())
    view.sweep_ended()
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "a machine failed" in output
    assert "Boom" in output


def test_a_url_that_cannot_be_opened_is_a_user_error(opsctl: Opsctl, tmp_path: Path) -> None:
    code, _, err = opsctl("status", write(tmp_path, tiny()), "--store", "s3:/half")
    assert (code, "neither a path nor a URL" in err) == (2, True)


def test_a_warning_shared_by_many_trials_is_one_line(opsctl: Opsctl, tmp_path: Path, store: Store) -> None:
    file, why = write(tmp_path, tiny()), "float32 in place of bfloat16: conv2d is wrong here"
    plan = plan_of(tiny(), store)
    for task, warnings in zip(plan.tasks, ([why], [why], [why], ["another"]), strict=True):
        Ledger(store.where).publish(task.key, {**DONE, "warnings": warnings})
    out = " ".join(opsctl("status", file)[1].split())
    assert out.count(why) == 1
    assert f"doubt {plan.tasks[0].key} ({plan.tasks[0].point.name}) and 2 more: {why}" in out
    assert f"doubt {plan.tasks[3].key} ({plan.tasks[3].point.name}): another" in out
