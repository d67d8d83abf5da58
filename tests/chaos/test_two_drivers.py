"""Drivers that share a store, with sweeps that overlap, at the same time: each trial and each data set once,
whoever of them dies.

That a result is there once says little: a second run would write the same. Lanes write down what they are
given and what they train (record.py).
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
from tests.chaos.yard import Yard, settled, told
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
LANES = 2  # of a driver on this machine


class Race:
    """Drivers on one store, each with a Ray of its own."""

    def __init__(self, folder: Path, yard: Yard) -> None:
        self.folder, self.yard = folder, yard
        self.store, self.file = folder / "store", folder / "diary"

    def enters(self, sweep: dict[str, Any], who: str) -> subprocess.Popen[str]:
        """A driver begins."""
        own = {"OPSCTL_STORE": self.store, "OPSCTL_TEST_DIARY": self.file, "OPSCTL_TEST_WHO": who}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver", "sweep", str(write(self.folder, sweep))],
            env=self.yard.started({**own, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def ends(self, *drivers: subprocess.Popen[str]) -> list[str]:
        """Wait for drivers that have all that they want; what each said."""
        outs = [finish(driver) for driver in drivers]
        assert [code for code, _ in outs] == [0] * len(drivers), outs
        return [out for _, out in outs]

    def verify(self, reports: dict[str, tuple[dict[str, Any], str]]) -> Diary:
        """Every trial is there, was trained to its end once, and stands in MLflow and in the report of each
        sweep (by its driver: the sweep and what was said)."""
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
        left = settled(yard.processes, seconds=90)  # Ray's agents take a minute to see that nobody is there
        assert [told(process) for process in left] == [], "processes are left"
        assert yard.files() == []


def test_two_drivers_on_one_store_share_the_work(race: Race) -> None:
    first, second = race.ends(race.enters(ONE, "one"), race.enters(TWO, "two"))
    diary = race.verify({"one": (ONE, first), "two": (TWO, second)})
    once = Counter(dict.fromkeys(finish_times(race.store), 1))
    assert diary.times("given") == diary.times("trains") == diary.times("trained") == once
    assert {line["who"] for line in diary.lines} == {"one", "two"}, "it was no race"
    built = re.findall(r"data +(\S+): building", first + second)
    assert sorted(built) == sorted(set(built)), "no data set was built twice"


@pytest.mark.parametrize("run", range(2))
def test_one_of_two_drivers_is_killed_and_the_other_takes_its_work(race: Race, run: int) -> None:
    """It comes back, too, while the other is still at work."""
    seed = time.time_ns() % 2**31
    print(f"seed {seed}")
    chance, victim, other = random.Random(seed), race.enters(ONE, "one"), race.enters(TWO, "two")
    results = chance.randint(1, 4)
    while len(finish_times(race.store)) < results:
        assert victim.poll() is None
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 1))
    kill_all(tree(victim.pid)[:1])  # its Ray must end by itself
    victim.communicate()
    second, again = race.ends(other, race.enters(ONE, "one again"))
    diary = race.verify({"one again": (ONE, again), "two": (TWO, second)})
    given, lost = diary.times("given"), diary.unended("one")
    assert len(lost) <= LANES
    assert {key for key, times in given.items() if times > 1} <= lost, "given to nobody else without a reason"
    assert max(given.values()) <= 2
