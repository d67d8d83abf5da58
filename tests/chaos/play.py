"""A sweep run to its end with faults at random moments, and the check that its results are those of a quiet run."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.cluster import at_work
from tests.chaos.faults import Fault, Scene
from tests.chaos.record import Diary
from tests.chaos.witness import as_if_alone, nothing_left, sweep, tracked_whole
from tests.chaos.yard import command_line, settled
from tests.conftest import finish, start
from trainers.provenance import commit

SECONDS = 900
IDLE_SECONDS = 15.0  # for which workers may be without work
RUNS = int(os.environ.get("OPSCTL_CHAOS_RUNS", "3"))
SEED = os.environ.get("OPSCTL_CHAOS_SEED")
RESULTS = "OPSCTL_CHAOS_RESULTS"  # a file that gets a line for each run
ROWS: list[dict[str, Any]] = []  # of every run of this session
WORKERS = 2  # machines, each with one worker or builder at a time


def play(scene: Scene, alone: Path, faults: Sequence[Fault], *, seeds: int, count: int, seed: int) -> None:
    """Run the sweep with `count` of these faults, each kind as often as any other, in random order, and
    verify the results. `alone` is a store for trials that run undisturbed."""
    chance, begun, passed = random.Random(seed), time.monotonic(), False
    rounds = (chance.sample(faults, len(faults)) for _ in range(1 + count // len(faults)))
    try:
        disturb(scene, chance, [fault for drawn in rounds for fault in drawn][:count])
        assert scene.driver is not None
        assert scene.driver.returncode == 0, scene.log.read_text()
        verify(scene, seeds, alone)
        passed = True
    finally:
        outcome = {"passed": passed, "seconds": round(time.monotonic() - begun), "seed": seed}
        write_down(scene, outcome | {"trials": 3 * seeds})


def disturb(scene: Scene, chance: random.Random, faults: list[Fault]) -> None:
    """Run the sweep to its end with these faults at random moments. Between two faults workers get some work;
    otherwise every fault would hit a driver that is starting."""
    scene.serve()
    scene.begin()
    seen: dict[str, int] = {}
    end, due, lines = time.monotonic() + SECONDS, time.monotonic() + chance.uniform(8, 16), 0
    while scene.driver is not None and scene.driver.poll() is None:
        assert time.monotonic() < end, scene.log.read_text()
        for key, when in scene.results().items():
            assert seen.setdefault(key, when) == when, f"the result of {key} was written twice"
        idle = scene.written() == lines and time.monotonic() < due + IDLE_SECONDS
        if faults and time.monotonic() > due and not idle:
            fault = faults.pop(0)
            if fault(scene, chance):
                scene.done[fault.__name__] += 1
            else:
                faults.append(fault)
            due, lines = time.monotonic() + chance.uniform(1, 6), scene.written()
        time.sleep(0.05)


def verify(scene: Scene, seeds: int, alone: Path) -> None:
    """Check that every trial ran once and equals an undisturbed one, MLflow is complete, and nothing is left."""
    assert [command_line(process) for process in settled(lambda: at_work(scene.cluster))] == [], (
        "workers are left"
    )
    plan = as_if_alone(sweep(seeds), scene.store, alone)
    trained_once(Diary.read(scene.diary), {task.key for task in plan.tasks}, sum(scene.done.values()))
    database = f"sqlite:///{scene.folder}/server.db"
    if scene.tracked:
        tracked_whole(plan, scene.store, database)
    again = start("track", scene.folder / "chaos.yaml", store=scene.store, OPSCTL_TRACKING_URI=database)
    code, out = finish(again, seconds=120)
    assert code == 0, out
    assert not scene.tracked or f"0 trials sent, {len(plan.tasks)} were there already" in out
    tracked_whole(plan, scene.store, database)
    nothing_left(scene.store)
    assert scene.yard.files() == []


def trained_once(diary: Diary, keys: set[str], faults: int) -> None:
    """Check that no trial was completed twice, trained by two workers at a time, or restarted without a reason."""
    assert diary.together() == []
    assert set(diary.times("trains")) == keys
    assert max(diary.times("trained").values()) == 1
    assert begun_again(diary) <= WORKERS * faults, "trainings were restarted for no reason"


def begun_again(diary: Diary) -> int:
    """How many trainings were resumed from a checkpoint or restarted after an interruption."""
    return sum(diary.times("trains").values()) - len(diary.times("trains"))


def write_down(scene: Scene, about: dict[str, Any]) -> None:
    """Print the outcome of a run, and append it to a file if one is named."""
    again = begun_again(Diary.read(scene.diary)) if scene.diary.exists() else 0
    row = about | {
        "machines": scene.machines,
        "begun_again": again,
        "faults": dict(sorted(scene.done.items())),
    }
    row |= {"time": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}
    ROWS.append(row)
    print(json.dumps(row))
    if file := os.environ.get(RESULTS):
        with Path(file).open("a") as results:
            results.write(json.dumps(row) + "\n")


def total(rows: list[dict[str, Any]]) -> str:
    """A summary of runs in one sentence."""
    kinds = sum((Counter(row["faults"]) for row in rows), Counter[str]())
    each = ", ".join(f"{name} {times}" for name, times in sorted(kinds.items()))
    spoilt, seconds = sum(not row["passed"] for row in rows), sum(row["seconds"] for row in rows)
    return f"{kinds.total()} faults over {len(rows)} runs in {seconds} s ({each}); {spoilt} runs failed"
