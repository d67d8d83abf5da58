"""Each piece of work is done by one of the drivers that share storage, despite races, deaths and wrong clocks."""

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
    return steady() + random.uniform(-9, 9) * 3600  # another hour at every reading
class Jumpy(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(jumpy(), tz)
time.time, heartbeats.datetime = jumpy, Jumpy
heartbeats.BEAT_SECONDS, heartbeats.STALE_SECONDS = 0.1, 1.5
heartbeats.machine = lambda: {machine!r}  # processes of other machines cannot be checked, so that heartbeats decide
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
    """A driver in a process of its own that waits for a line before each step; it is ready when this returns."""
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


def heartbeat_file(storage: Path) -> Path:
    (heartbeat,) = (storage / "drivers").glob("*.json")
    return heartbeat


def test_eight_racing_processes_take_each_of_two_hundred_leases_once(tmp_path: Path) -> None:
    racers = [process(TAKE, tmp_path) for _ in range(8)]
    go(racers)
    taken = Counter(int(n) for racer in racers for n in line(racer).split())
    assert taken == Counter(range(200))
    end(racers)
    assert list((tmp_path / "drivers").iterdir()) == []


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    victim = process("    leases.take('work'); print('has it', flush=True); sys.stdin.readline()", tmp_path)
    go([victim])
    assert line(victim) == "has it"
    leases = Leases(FolderStorage(tmp_path), "me")
    assert not leases.take("work")
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert leases.take("work")
    assert leases.take("work"), "this driver still holds it"
    leases.release("work", done=True)
    assert list((tmp_path / "leases").iterdir()) == []


def test_one_of_eight_takes_over_the_lease_of_an_unreachable_machine(tmp_path: Path) -> None:
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


def test_a_lease_left_empty_by_a_power_failure_can_be_taken(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    assert storage.create("leases/work.0", b"", lasting=False)
    assert Leases(storage, "me").take("work")


def test_a_heartbeat_keeps_a_lease_and_silence_loses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_clocks_that_are_years_off_make_no_difference(tmp_path: Path, year: int) -> None:
    storage = FolderStorage(tmp_path)
    with Driver(storage, "sweep", threading.Event()) as other:
        assert Leases(storage, other.id).take("work")
        heartbeat = heartbeat_file(tmp_path)
        content = json.loads(heartbeat.read_bytes()) | {
            "time": f"{year}-01-01T00:00:00+00:00",
            "machine": "another",
        }
        heartbeat.write_text(json.dumps(content))
        for file in (heartbeat, tmp_path / "leases" / "work.0"):
            os.utime(file, (0, (year - 1970) * 365 * 86400))
        assert not Leases(storage, "me").take("work")
    assert Leases(storage, "me").take("work"), "the other driver has ended and its heartbeat is gone"


def test_clocks_that_jump_by_hours_neither_lose_nor_prolong_a_lease(tmp_path: Path) -> None:
    """The clocks of the holder and of those that want the lease jump while they run."""
    holder = process(HOLD, tmp_path, setup=JUMPY.format(machine="one"))
    go([holder])
    assert line(holder) == "True"
    times = {json.loads(heartbeat_file(tmp_path).read_bytes())["time"][:13]}
    others = [process(TRY, tmp_path, setup=JUMPY.format(machine=name)) for name in ("two", "three")]
    owner = (tmp_path / "leases" / "work.0").read_text()
    go(others)
    while not all(other.stdout and select([other.stdout], [], [], 0)[0] for other in others):
        times.add(json.loads((tmp_path / "drivers" / f"{owner}.json").read_bytes())["time"][:13])
        time.sleep(0.02)
    for other in others:
        tries, taken = line(other).split()
        assert (int(tries) > 50, int(taken)) == (True, 0)
    assert len(times) > 3, "the clock did not jump"
    assert [file.name for file in (tmp_path / "leases").iterdir()] == ["work.0"]
    assert (tmp_path / "leases" / "work.0").read_text() == owner

    thief, bystander = others
    for one in (holder, bystander):
        one.send_signal(signal.SIGKILL)
        one.communicate()
    go([thief])
    assert 0.5 < float(line(thief)) < 10, "it is taken over after a while without heartbeats, and not before"
    end([thief])


def test_a_released_lease_is_free_and_finished_work_leaves_no_file(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    with (
        Driver(storage, "sweep", threading.Event()) as a,
        Driver(storage, "sweep", threading.Event()) as b,
    ):
        mine, theirs = Leases(storage, a.id), Leases(storage, b.id)
        assert mine.take("work")
        assert mine.take("work")
        assert not theirs.take("work")
        theirs.release("work", done=False)  # it never held it
        assert not theirs.take("work")
        mine.release("work", done=False)
        assert theirs.take("work")
        assert not mine.take("work")
        assert mine.take("work.1"), "a name may look like the lease file of another"
        theirs.release("work", done=True)
        assert storage.names("leases") == ["work.1.0"]


def test_a_driver_presumed_dead_does_not_release_a_lease_that_was_taken_over(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    slow = Leases(storage, "slow")  # without a heartbeat, others presume it dead
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
    """A storage that replays past answers and ends its driver at the first step beyond them."""

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
    """The next step of a driver after these answers: it takes the lease if it can, releases it, and ends."""
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
    """The whole system between two steps."""

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


STALE = (
    False,
    ("x.0",),
    b"gone",
    None,
)  # a slow driver's last answers: x.0 existed and its owner had no heartbeat


def begun(count: int, *, deaths: int, left: tuple[str, ...] = (), slow: bool = False) -> State:
    """`count` drivers, of which `deaths` may die; `left` names leases of dead drivers, and a slow driver has read
    the storage before they were left."""
    files = {f"drivers/{i}.json": heartbeat(str(i)) for i in range(count)} | {
        f"leases/{name}": b"gone" for name in left
    }
    return State(frozenset(files.items()), (STALE if slow else (), *[()] * (count - 1)), deaths=deaths)


def reached(start: State) -> Iterator[State]:
    """Every state reachable by any order of steps and deaths."""
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
def test_two_live_drivers_never_hold_one_lease_and_dead_ones_block_none(start: State) -> None:
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
    """Whether a new driver gets the lease once all others are gone."""
    number = str(len(state.pasts))
    new = f"drivers/{number}.json"
    state = replace(state, files=state.files | {(new, heartbeat(number))}, pasts=(*state.pasts, ()), deaths=0)
    return any(after.holding for after in reached(state))
