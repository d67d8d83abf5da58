"""A driver's heartbeat exists for as long as the driver runs, and requests to stop are placed beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.monitoring.stop import stop_drivers
from orchestrator.storage import heartbeats
from orchestrator.storage.heartbeats import (
    Driver,
    Watch,
    ask_to_stop,
    live_heartbeats,
    machine,
    read_heartbeat,
    remove_dead,
)
from orchestrator.storage.storage import FolderStorage
from tests.conftest import ROOT

SLEEPER = """
import sys, threading
from pathlib import Path
from orchestrator.storage.storage import FolderStorage
from orchestrator.storage.heartbeats import Driver
with Driver(FolderStorage(Path(sys.argv[1])), "long", threading.Event()) as driver:
    print(driver.id, flush=True)
    sys.stdin.readline()
"""
FULL = """
import resource, signal, sys
from pathlib import Path
from orchestrator.storage.storage import FolderStorage
storage = FolderStorage(Path(sys.argv[1]))
storage.write("trials/a/result.json", b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
failed = 0
for call in (storage.write, storage.create):
    try:
        call("trials/a/result.json", bytes(5000))
    except OSError:
        failed += 1
print(failed)
"""


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.02)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    yield process
    process.kill()
    process.communicate()


def eventually(true: Callable[[], object]) -> bool:
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(true())


@pytest.mark.usefixtures("quick")
def test_a_heartbeat_is_created_updated_and_removed(storage: FolderStorage) -> None:
    with Driver(storage, "sweep", threading.Event()) as driver:
        (heartbeat,) = live_heartbeats(storage)
        who = {"id": driver.id, "sweep": "sweep", "pid": os.getpid(), "machine": machine()}
        assert who.items() <= heartbeat.items()
        driver.state = {"done": 3}
        assert eventually(
            lambda: (
                live_heartbeats(storage)[0]["beat"] > heartbeat["beat"]
                and live_heartbeats(storage)[0]["state"]
            )
        )
        assert live_heartbeats(storage)[0]["state"] == {"done": 3}
        assert Watch(storage).alive(driver.id)
    assert live_heartbeats(storage) == []
    assert storage.names("drivers") == []
    assert not Watch(storage).alive(driver.id)


@pytest.mark.usefixtures("quick")
def test_a_request_to_stop_reaches_one_driver_only(storage: FolderStorage) -> None:
    stop, go_on = threading.Event(), threading.Event()
    with Driver(storage, "sweep", stop) as one, Driver(storage, "sweep", go_on):
        ask_to_stop(storage, one.id)
        assert stop.wait(20)
        assert not go_on.wait(0.1)
    assert storage.names("drivers") == []


def undisturbed(folder: Path, act: Callable[[], object]) -> None:
    """Call `act` on a folder that the driver may create at any moment to write its heartbeat."""
    for _ in range(1000):
        try:
            act()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return
    raise AssertionError("the driver writes all the time")


@pytest.mark.usefixtures("quick")
def test_temporarily_unavailable_storage_does_not_stop_a_driver(tmp_path: Path) -> None:
    stop, folder = threading.Event(), tmp_path / "storage"
    with Driver(FolderStorage(folder), "sweep", stop) as driver:
        away = folder.rename(tmp_path / "away")
        undisturbed(folder, lambda: folder.write_text("no folder"))
        time.sleep(0.1)
        folder.unlink()
        undisturbed(folder, lambda: away.rename(folder))
        before = live_heartbeats(FolderStorage(folder))[0]["beat"]
        assert eventually(lambda: live_heartbeats(FolderStorage(folder))[0]["beat"] > before)
        ask_to_stop(FolderStorage(folder), driver.id)
        assert stop.wait(20)


def test_a_driver_killed_on_this_machine_is_known_to_be_dead_and_removed(
    storage: FolderStorage, other: subprocess.Popen[str]
) -> None:
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    watch = Watch(storage)
    assert watch.alive(name)
    remove_dead(storage)
    assert [heartbeat["id"] for heartbeat in live_heartbeats(storage)] == [name]
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not watch.alive(name)
    assert live_heartbeats(storage) == []
    assert read_heartbeat(storage, name) is not None, "its heartbeat still exists"
    ask_to_stop(storage, name)
    remove_dead(storage)
    remove_dead(storage)
    assert storage.names("drivers") == []


def test_process_ids_of_other_machines_are_not_compared(
    storage: FolderStorage, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    other.kill()
    other.wait()
    monkeypatch.setattr(heartbeats, "machine", lambda: "another")
    watch = Watch(storage)
    assert watch.alive(name)
    remove_dead(storage)
    assert [heartbeat["id"] for heartbeat in live_heartbeats(storage)] == [name]
    monkeypatch.setattr(heartbeats, "STALE_SECONDS", 0.05)
    assert eventually(lambda: not watch.alive(name))


def test_a_stale_heartbeat_of_another_machine_is_removed_by_any_driver(
    storage: FolderStorage, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    other.kill()
    other.wait()
    ask_to_stop(storage, name)
    monkeypatch.setattr(heartbeats, "machine", lambda: "another")
    for setting, value in (("BEAT_SECONDS", 0.02), ("ROUND_BEATS", 1), ("REMOVE_SECONDS", 0.5)):
        monkeypatch.setattr(heartbeats, setting, value)
    with Driver(storage, "sweep", threading.Event()) as driver:
        assert {heartbeat["id"] for heartbeat in live_heartbeats(storage)} == {name, driver.id}
        assert eventually(lambda: [heartbeat["id"] for heartbeat in live_heartbeats(storage)] == [driver.id])
        assert eventually(lambda: storage.names("drivers") == [f"{driver.id}.json"]), (
            "the request to stop is removed too"
        )


def test_a_dead_driver_that_was_asked_to_stop_leaves_no_heartbeat(
    storage: FolderStorage, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.stdout is not None
    other.stdout.readline()
    other.kill()
    other.wait()
    monkeypatch.setattr(heartbeats, "machine", lambda: "another")
    assert len(stop_drivers(storage, live_heartbeats(storage), wait=0)) == 1, "it may still respond"
    assert len(live_heartbeats(storage)) == 1
    monkeypatch.setattr(heartbeats, "STALE_SECONDS", 0.05)
    assert stop_drivers(storage, live_heartbeats(storage), wait=20) == []
    assert live_heartbeats(storage) == []
    remove_dead(storage)
    assert storage.names("drivers") == []


def test_a_machine_is_not_identified_by_its_hostname_alone() -> None:
    """Thousands of machines are called localhost, and the first process of every container has id 1."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        pytest.skip("this system does not number its starts")
    assert boot.read_text().strip() in machine()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"id": "x"}', b"\xff\xfe"])
def test_a_malformed_heartbeat_is_no_driver(storage: FolderStorage, damage: bytes) -> None:
    storage.write("drivers/x.json", damage)
    assert live_heartbeats(storage) == []
    assert not Watch(storage).alive("x")
    remove_dead(storage)


def test_a_full_disk_leaves_no_partial_file_and_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "2\n"
    assert [file.name for file in (tmp_path / "trials" / "a").iterdir()] == ["result.json"]
    assert (tmp_path / "trials" / "a" / "result.json").read_bytes() == b"old"


def test_concurrent_writes_of_one_name_leave_one_complete_text(storage: FolderStorage) -> None:
    texts = [bytes([i]) * 20_000 for i in range(8)]
    threads = [threading.Thread(target=storage.write, args=("a/b", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read("a/b") in texts
    assert [file.name for file in (storage.root / "a").iterdir()] == ["b"]


def test_heartbeats_are_plain_json(storage: FolderStorage) -> None:
    with Driver(storage, "sweep", threading.Event()) as driver:
        heartbeat = json.loads((storage.root / "drivers" / f"{driver.id}.json").read_bytes())
    assert {
        "id",
        "sweep",
        "host",
        "machine",
        "pid",
        "started",
        "time",
        "beat",
        "state",
        "needs",
        "starts",
        "outline",
    } == set(heartbeat)
