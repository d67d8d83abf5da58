"""Of drivers that share storage, one does each piece of work: whoever races, dies, or has another clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from select import select
from typing import Any

import pytest

from orchestrator.storage import heartbeats
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.leases import Leases
from orchestrator.storage.storage import FolderStorage
from tests.conftest import ROOT
from tests.orchestrator.driving import heartbeat

WORKER = """
import sys, threading
from pathlib import Path
from orchestrator.storage.storage import FolderStorage
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.leases import Leases
{setup}
storage = FolderStorage(Path(sys.argv[1]))
with Driver(storage, "race", threading.Event()) as driver:
    leases = Leases(storage, driver.id)
    print("ready", flush=True)
    sys.stdin.readline()
{body}
"""
TAKE = """
    print(*[n for n in range(200) if leases.take(f"work-{n}")], flush=True)
    sys.stdin.readline()
"""
STEAL = """
    print("early" if leases.take("work") else "not yet", flush=True)
    time.sleep(heartbeats.STALE_SECONDS)
    sys.stdin.readline()
    print(leases.take("work"), flush=True)
    sys.stdin.readline()
"""
JUMPY = """
import random, time
from datetime import datetime
from orchestrator.storage import heartbeats
steady = time.time
def jumpy():
    return steady() + random.uniform(-9, 9) * 3600  # every look at it finds another hour
class Jumpy(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(jumpy(), tz)
time.time, heartbeats.datetime = jumpy, Jumpy
heartbeats.BEAT_SECONDS, heartbeats.STALE_SECONDS = 0.1, 1.5
heartbeats.machine = lambda: {machine!r}  # of another's processes nobody can tell, so that beats decide
"""
HOLD = """
    print(leases.take("work"), flush=True)
    sys.stdin.readline()
"""
TRY = """
    end = time.monotonic() + 2 * heartbeats.STALE_SECONDS
    tries = [leases.take("work")]
    while time.monotonic() < end:
        time.sleep(0.01)
        tries.append(leases.take("work"))
    print(len(tries), sum(tries), flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    while not leases.take("work") and time.monotonic() < begun + 20:
        time.sleep(0.01)
    print(time.monotonic() - begun, flush=True)
    sys.stdin.readline()
"""


def process(body: str, storage: Path, *, setup: str = "") -> subprocess.Popen[str]:
    """A driver of its own that waits for a line before each step; it is ready when this returns."""
    started = subprocess.Popen(
        [sys.executable, "-c", WORKER.format(setup=setup, body=body), str(storage)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert line(started) == "ready"
    return started


def line(of: subprocess.Popen[str]) -> str:
    assert of.stdout is not None
    return of.stdout.readline().strip()


def go(processes: list[subprocess.Popen[str]]) -> None:
    for one in processes:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()


def end(processes: list[subprocess.Popen[str]]) -> None:
    go(processes)
    for one in processes:
        one.communicate()
        assert one.returncode == 0


def mark_of(storage: Path) -> Path:
    (heartbeat,) = (storage / "drivers").glob("*.json")
    return heartbeat


def test_eight_processes_that_race_for_two_hundred_leases_take_each_once(tmp_path: Path) -> None:
    racers = [process(TAKE, tmp_path) for _ in range(8)]
    go(racers)
    taken = Counter(int(n) for racer in racers for n in line(racer).split())
    assert taken == Counter(range(200))
    end(racers)
    assert list((tmp_path / "drivers").iterdir()) == []


def test_from_a_process_that_was_killed_a_lease_is_stolen_at_once(tmp_path: Path) -> None:
    victim = process("    leases.take('work'); print('has it', flush=True); sys.stdin.readline()", tmp_path)
    go([victim])
    assert line(victim) == "has it"
    leases = Leases(FolderStorage(tmp_path), "me")
    assert not leases.take("work")
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert leases.take("work")
    assert leases.take("work"), "it is this driver's still"
    leases.release("work", done=True)
    assert list((tmp_path / "leases").iterdir()) == []


def test_from_a_machine_that_fell_silent_one_of_eight_steals(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("drivers/dead.json", heartbeat("dead", beat=7))
    assert storage.create("leases/work.0", b"dead")
    setup = "import time\nfrom orchestrator.storage import heartbeats\nheartbeats.STALE_SECONDS = 1.0"
    stealers = [process(STEAL, tmp_path, setup=setup) for _ in range(8)]
    go(stealers)
    assert {line(stealer) for stealer in stealers} == {"not yet"}
    go(stealers)
    assert sorted(line(stealer) for stealer in stealers) == ["False"] * 7 + ["True"]
    end(stealers)


def test_a_lease_that_a_machine_left_empty_as_it_lost_its_power_is_anybodys(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    assert storage.create("leases/work.0", b"", lasting=False)
    assert Leases(storage, "me").take("work")


def test_a_beat_keeps_a_lease_and_silence_loses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("orchestrator.storage.heartbeats.time.monotonic", lambda: now)
    monkeypatch.setattr(heartbeats, "machine", lambda: "another")
    theirs = Driver(FolderStorage(tmp_path), "sweep", threading.Event())
    theirs.beat()
    assert Leases(FolderStorage(tmp_path), theirs.id).take("work")
    monkeypatch.setattr(heartbeats, "machine", lambda: "here")
    mine = Leases(FolderStorage(tmp_path), "me")
    for _ in range(5):
        assert not mine.take("work")
        now += heartbeats.STALE_SECONDS - 1
        theirs.beat()
    assert not mine.take("work")
    now += heartbeats.STALE_SECONDS - 1
    assert not mine.take("work")
    now += 2
    assert mine.take("work")


@pytest.mark.parametrize("year", [1971, 2999])
def test_clocks_that_are_years_off_change_nothing(tmp_path: Path, year: int) -> None:
    storage = FolderStorage(tmp_path)
    with Driver(storage, "sweep", threading.Event()) as other:
        assert Leases(storage, other.id).take("work")
        heartbeat = mark_of(tmp_path)
        told = json.loads(heartbeat.read_bytes()) | {
            "time": f"{year}-01-01T00:00:00+00:00",
            "machine": "another",
        }
        heartbeat.write_text(json.dumps(told))
        for file in (heartbeat, tmp_path / "leases" / "work.0"):
            os.utime(file, (0, (year - 1970) * 365 * 86400))
        assert not Leases(storage, "me").take("work")
    assert Leases(storage, "me").take("work"), "it ended, and its heartbeat is gone"


def test_clocks_that_jump_by_hours_neither_lose_a_lease_nor_keep_one(tmp_path: Path) -> None:
    """Of the one who has it and of those who want it, while they are at it."""
    holder = process(HOLD, tmp_path, setup=JUMPY.format(machine="one"))
    go([holder])
    assert line(holder) == "True"
    times = {json.loads(mark_of(tmp_path).read_bytes())["time"][:13]}
    others = [process(TRY, tmp_path, setup=JUMPY.format(machine=name)) for name in ("two", "three")]
    owner = (tmp_path / "leases" / "work.0").read_text()
    go(others)
    while not all(other.stdout and select([other.stdout], [], [], 0)[0] for other in others):
        times.add(json.loads((tmp_path / "drivers" / f"{owner}.json").read_bytes())["time"][:13])
        time.sleep(0.02)
    for other in others:
        tries, taken = line(other).split()
        assert (int(tries) > 50, int(taken)) == (True, 0)
    assert len(times) > 3, "its clock did not jump"
    assert [file.name for file in (tmp_path / "leases").iterdir()] == ["work.0"]
    assert (tmp_path / "leases" / "work.0").read_text() == owner

    thief, bystander = others
    for one in (holder, bystander):
        one.send_signal(signal.SIGKILL)
        one.communicate()
    go([thief])
    assert 0.5 < float(line(thief)) < 10, "it is stolen when no beat came for a while, and not before"
    end([thief])


def test_what_is_given_back_undone_is_free_and_what_is_done_leaves_nothing(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    with (
        Driver(storage, "sweep", threading.Event()) as a,
        Driver(storage, "sweep", threading.Event()) as b,
    ):
        mine, theirs = Leases(storage, a.id), Leases(storage, b.id)
        assert mine.take("work")
        assert mine.take("work")
        assert not theirs.take("work")
        theirs.release("work", done=False)  # it never had it
        assert not theirs.take("work")
        mine.release("work", done=False)
        assert theirs.take("work")
        assert not mine.take("work")
        assert mine.take("work.1"), "a name may look like another's file"
        theirs.release("work", done=True)
        assert storage.names("leases") == ["work.1.0"]


def test_who_was_thought_dead_does_not_give_back_what_is_anothers_now(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    slow = Leases(storage, "slow")  # it has no heartbeat: to others it is dead
    assert slow.take("work")
    with Driver(storage, "sweep", threading.Event()) as quick:
        thief = Leases(storage, quick.id)
        assert thief.take("work")
        slow.release("work", done=False)
        assert not slow.take("work")
        assert not Leases(storage, "third").take("work")
        thief.release("work", done=True)
    assert storage.names("leases") == []


# -- a model check: every order in which the steps of several drivers can come, each of which may die at any


class Wants(BaseException):
    """The step that a driver would do next: the storage's method, or `hold` and `free`, and its arguments."""


class Replayed(FolderStorage):
    """A storage that gives the answers of the past, and ends its driver at the first step beyond."""

    def __init__(self, past: tuple[Any, ...]) -> None:
        self.past = iter(past)

    def step(self, *wanted: Any) -> Any:
        for answer in self.past:
            return answer
        raise Wants(*wanted)

    def read(self, name: str) -> bytes | None:
        return self.step("read", name)

    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        return self.step("create", name, data)

    def remove(self, name: str) -> None:
        self.step("remove", name)

    def names(self, folder: str) -> list[str]:
        return list(self.step("names", folder))


@cache
def next_step(driver: str, past: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What a driver does after these answers: it takes the lease if it can, gives it back, and ends."""
    storage = Replayed(past)
    leases = Leases(storage, driver)
    try:
        if leases.take("x"):
            storage.step("hold")
            storage.step("free")
            leases.release("x", done=False)
        storage.remove(f"drivers/{driver}.json")
    except Wants as wanted:
        return wanted.args
    return None


@dataclass(frozen=True)
class State:
    """All there is between two steps."""

    files: frozenset[tuple[str, bytes]]
    pasts: tuple[tuple[Any, ...] | None, ...]  # of each driver; None once it is dead, or has ended
    holding: frozenset[int] = frozenset()
    deaths: int = 0

    def after(self) -> Iterator[State]:
        """Every state that can come next."""
        for i, past in enumerate(self.pasts):
            if past is None:
                continue
            if (step := next_step(str(i), past)) is None:
                yield replace(self, pasts=self._with(i, None))
                continue
            yield self._stepped(i, past, *step)
            if self.deaths:
                gone = frozenset(file for file in self.files if file[0] != f"drivers/{i}.json")
                died = replace(self, files=gone, deaths=self.deaths - 1)
                yield replace(died, holding=self.holding - {i}, pasts=self._with(i, None))

    def _with(self, i: int, past: tuple[Any, ...] | None) -> tuple[tuple[Any, ...] | None, ...]:
        return (*self.pasts[:i], past, *self.pasts[i + 1 :])

    def _stepped(self, i: int, past: tuple[Any, ...], kind: str, name: str = "", data: bytes = b"") -> State:
        files, holding, answer = dict(self.files), self.holding, None
        if kind == "hold":
            holding |= {i}
        elif kind == "free":
            holding -= {i}
        elif kind == "read":
            answer = files.get(name)
        elif kind == "names":
            answer = tuple(sorted(f.partition("/")[2] for f in files if f.startswith(f"{name}/")))
        elif kind == "remove":
            files.pop(name, None)
        else:
            answer = name not in files
            files.setdefault(name, data)
        return replace(
            self, files=frozenset(files.items()), holding=holding, pasts=self._with(i, (*past, answer))
        )


STALE = (False, ("x.0",), b"gone", None)  # what a slow one heard: x.0 was there, of a driver that is no more


def begun(count: int, *, deaths: int, left: tuple[str, ...] = (), slow: bool = False) -> State:
    """So many drivers, of which so many may die; `left` is what the dead left, and a slow driver is one that
    looked before all that."""
    files = {f"drivers/{i}.json": heartbeat(str(i)) for i in range(count)} | {
        f"leases/{name}": b"gone" for name in left
    }
    return State(frozenset(files.items()), (STALE if slow else (), *[()] * (count - 1)), deaths=deaths)


def reached(start: State) -> Iterator[State]:
    """Every state that any order of steps and deaths leads to."""
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        yield state
        new = set(state.after()) - seen
        seen |= new
        todo += new


@pytest.mark.parametrize(
    "start",
    [
        begun(2, deaths=2),
        begun(3, deaths=0),
        begun(3, deaths=1),
        begun(3, deaths=1, slow=True),
        begun(2, deaths=1, left=("x.0", "x.1")),
        begun(3, deaths=0, left=("x.0",), slow=True),
        begun(3, deaths=0, left=("x.1",)),
    ],
    ids=lambda start: f"{len(start.pasts)} drivers, {start.deaths} deaths, {len(start.files)} files",
)
def test_never_do_two_living_drivers_hold_a_lease_and_the_dead_block_nobody(start: State) -> None:
    held = ends = 0
    for state in reached(start):
        assert len(state.holding) < 2, state
        held += len(state.holding)
        if not any(past is not None for past in state.pasts):
            ends += 1
            assert taken_by_one_more(state), state
    assert held
    assert ends


def taken_by_one_more(state: State) -> bool:
    """Whether a driver that comes when all others are gone gets the lease."""
    number = str(len(state.pasts))
    new = f"drivers/{number}.json"
    state = replace(state, files=state.files | {(new, heartbeat(number))}, pasts=(*state.pasts, ()), deaths=0)
    return any(after.holding for after in reached(state))
