"""Concurrent drivers with overlapping sweeps on one store run each trial and build each data set once, even if
one of them dies.

That a result exists once says little: a second run would write the same. Workers record what they are given and
what they train (record.py).
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poisons import Store
from tests.chaos.cluster import kill_all, tree
from tests.chaos.record import Diary
from tests.chaos.witness import nothing_left, tracked_whole
from tests.chaos.yard import Yard, command_line, settled
from tests.conftest import ROOT, finish
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny, write
from tests.test_sweep import finish_times

pytestmark = [
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]
BASE = {"data": {"limit": 300}, "train": {**TRAIN, "epochs": 20}}
ONE = tiny(name="one", base=BASE, grid={"data.poison": ["clean", "ops"], "seed": [0, 1, 2, 3]})
TWO = tiny(name="two", base=BASE, grid={"data.poison": ["ops", "clean"], "seed": [3, 2, 1, 0, 4]})
WORKERS = 2  # of a driver on this machine


class Race:
    """Drivers on one store, each with a Ray of its own."""

    def __init__(self, folder: Path, yard: Yard) -> None:
        self.folder, self.yard = folder, yard
        self.store, self.file = folder / "store", folder / "diary"

    def start(self, sweep: dict[str, Any], who: str) -> subprocess.Popen[str]:
        """Start a driver."""
        own = {"OPSCTL_STORE": self.store, "OPSCTL_TEST_DIARY": self.file, "OPSCTL_TEST_WHO": who}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver", "sweep", str(write(self.folder, sweep))],
            env=self.yard.started({**own, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def wait(self, *drivers: subprocess.Popen[str]) -> list[str]:
        """Wait for drivers that must succeed; the output of each."""
        outs = [finish(driver) for driver in drivers]
        assert [code for code, _ in outs] == [0] * len(drivers), outs
        return [out for _, out in outs]

    def verify(self, reports: dict[str, tuple[dict[str, Any], str]]) -> Diary:
        """Check that every trial is done, was completed once, and is in MLflow and in the report of each sweep.
        `reports` has the sweep and the output of each driver."""
        done = finish_times(self.store)
        assert len(done) == 10
        for sweep, out in reports.values():
            tracked_whole(plan_of(sweep, Store(self.store)), self.store, f"sqlite:///{self.store}/mlflow.db")
            assert " - " not in out.rpartition("Does it run?")[2], "every cell has its number"
        diary = Diary.read(self.file)
        assert diary.together() == []
        assert diary.times("trained") <= Counter(dict.fromkeys(done, 1))
        nothing_left(self.store)
        return diary


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Race]:
    with Yard() as yard:
        yield Race(tmp_path, yard)
        left = settled(
            yard.processes, seconds=90
        )  # Ray's agents take a minute to notice that no cluster is left
        assert [command_line(process) for process in left] == [], "processes are left"
        assert yard.files() == []


def test_two_drivers_on_one_store_share_the_work(race: Race) -> None:
    first, second = race.wait(race.start(ONE, "one"), race.start(TWO, "two"))
    diary = race.verify({"one": (ONE, first), "two": (TWO, second)})
    once = Counter(dict.fromkeys(finish_times(race.store), 1))
    assert diary.times("given") == diary.times("trains") == diary.times("trained") == once
    assert {line["who"] for line in diary.lines} == {"one", "two"}, "both drivers ran trials"
    built = re.findall(r"data +(\S+): building", first + second)
    assert sorted(built) == sorted(set(built)), "no data set was built twice"


@pytest.mark.parametrize("run", range(2))
def test_the_work_of_a_killed_driver_is_taken_over_by_the_other(race: Race, run: int) -> None:
    """It is also started again while the other still runs."""
    seed = time.time_ns() % 2**31
    print(f"seed {seed}")
    chance, victim, other = random.Random(seed), race.start(ONE, "one"), race.start(TWO, "two")
    results = chance.randint(1, 4)
    while len(finish_times(race.store)) < results:
        assert victim.poll() is None
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 1))
    kill_all(tree(victim.pid)[:1])  # its Ray must end by itself
    victim.communicate()
    second, again = race.wait(other, race.start(ONE, "one again"))
    diary = race.verify({"one again": (ONE, again), "two": (TWO, second)})
    given, lost = diary.times("given"), diary.unended("one")
    assert len(lost) <= WORKERS
    assert {key for key, times in given.items() if times > 1} <= lost, "only lost trials were given out again"
    assert max(given.values()) <= 2
