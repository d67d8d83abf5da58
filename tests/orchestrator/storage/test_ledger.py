"""A result and its history are two files. Whoever writes them, whenever it is killed, and however one of them is
damaged, a result is read with its own history or not at all."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.storage import garbage
from orchestrator.storage.damage import damaged_files
from orchestrator.storage.kinds import FINDINGS
from orchestrator.storage.ledger import Ledger, finding_file
from orchestrator.storage.records import Finding, Result
from poisons import Store
from tests.conftest import ROOT
from tests.orchestrator.storage.earlier import merge

FILE = "trials/k/result.json"


def result(value: float) -> Result:
    """The result of one writer: its numbers agree with each other and with no other writer's."""
    rows = [{"epoch": float(epoch), "train/loss": value * epoch} for epoch in (1, 2, 3)]
    return {"metrics": {"train/loss": 3 * value}, "history": rows}


def consistent(record: Result) -> bool:
    return record["metrics"]["train/loss"] == record["history"][-1]["train/loss"]


def finding(value: float) -> Finding:
    return {"metrics": {"a": value}, "curves": {"a": [value]}, "fields": {"a": value}}


def histories(ledger: Ledger) -> list[str]:
    return [name for name in ledger.storage.names("trials/k") if name.startswith("history-")]


@pytest.fixture(params=["folder", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path if request.param == "folder" else f"memory://{secrets.token_hex(8)}/x")


@pytest.fixture(params=["result", "finding"])
def publish(request: pytest.FixtureRequest, ledger: Ledger) -> Callable[[float], None]:
    """Publishes a result, or a finding, with a given number in all of its fields."""
    if request.param == "result":
        return lambda value: void(ledger.publish("k", result(value)))
    return lambda value: ledger.publish_finding("k", "p", finding(value))


def void(_: object) -> None:
    pass


def test_the_history_is_a_separate_file(ledger: Ledger) -> None:
    ledger.publish("k", result(1.0))
    head = json.loads(ledger.storage.read(FILE) or b"")
    assert "history" not in head
    (file,) = histories(ledger)
    assert json.loads(ledger.storage.read(f"trials/k/{file}") or b"") == {"history": result(1.0)["history"]}
    assert ledger.result("k") == {"key": "k", **result(1.0)}
    assert ledger.summaries(["k"]) == {"k": {"key": "k", "metrics": result(1.0)["metrics"]}}


@pytest.mark.parametrize("before", ["nothing", "a damaged result", "a result without its history"])
def test_one_of_several_writers_is_read_with_its_own_history(ledger: Ledger, before: str) -> None:
    if before != "nothing":
        ledger.publish("k", result(9.0))
    if before == "a damaged result":
        ledger.storage.write(FILE, b"{torn")
    elif before == "a result without its history":
        ledger.storage.remove(f"trials/k/{histories(ledger)[0]}")
    begin, counted = threading.Barrier(4), list[Result]()

    def write(value: float) -> None:
        begin.wait()
        counted.append(Ledger(ledger.storage.where).publish("k", result(value)))

    threads = [threading.Thread(target=write, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ledger.result("k")
    assert found is not None
    assert consistent(found)
    assert found in counted
    assert all(map(consistent, counted))
    if before == "nothing":
        assert counted == [found] * 4


WRITER = """
import sys
from orchestrator.storage.ledger import Ledger
from tests.orchestrator.storage.test_ledger import result
for key in range(40):
    Ledger(sys.argv[1]).publish(str(key), result(float(sys.argv[2])))
"""


def test_one_of_two_processes_is_read_with_its_own_history(tmp_path: Path) -> None:
    """Two drivers on different platforms train the same trials."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, value], cwd=ROOT) for value in ("1", "2")]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = Ledger(tmp_path).results(str(key) for key in range(40))
    assert len(found) == 40
    assert all(map(consistent, found.values()))


class Killed(BaseException):
    """The writer was killed."""


def killed(ledger: Ledger, after: int, act: Callable[[], None]) -> None:
    """Run `act` until it has changed the storage `after` times."""
    storage, left = ledger.storage, after
    changes = {name: getattr(storage, name) for name in ("write", "publish", "move", "remove")}

    def counted(name: str) -> Callable[..., object]:
        def change(*args: object) -> object:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return changes[name](*args)

        return change

    for name in changes:
        setattr(storage, name, counted(name))
    try:
        act()
    except Killed:
        pass
    finally:
        for name in changes:
            delattr(storage, name)


STEP = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 2), st.integers(0, 6)),
    st.tuples(
        st.sampled_from(["truncate", "remove"]), st.sampled_from(["result", "history"]), st.integers(0, 200)
    ),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(STEP, max_size=8))
def test_after_any_kills_and_damage_the_next_writer_is_read(steps: list[tuple[str, object, int]]) -> None:
    """Writers with three different histories are killed after any change, and files are truncated and lost
    in between: what is read is consistent, and a last writer always ends with a result that is read."""
    ledger = Ledger(f"memory://{secrets.token_hex(8)}/x")
    storage = ledger.storage
    for what, which, number in steps:
        if what == "publish":
            killed(ledger, number, lambda value=which: void(ledger.publish("k", result(float(value)))))  # type: ignore[misc]
        for name in [n for n in storage.names("trials/k") if n.startswith(str(which))]:
            data = storage.read(f"trials/k/{name}") or b""
            storage.remove(f"trials/k/{name}")
            if what == "truncate":
                storage.write(f"trials/k/{name}", data[:number])
        found = ledger.result("k")
        assert found is None or consistent(found)
        assert found is None or "k" in ledger.summaries(["k"])
    last = ledger.publish("k", result(7.0))
    assert ledger.result("k") == last


def test_a_writer_killed_between_the_files_has_published_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from orchestrator.storage.ledger import Ledger\n"
        "from tests.orchestrator.storage.test_ledger import result\n"
        "ledger = Ledger(sys.argv[1])\n"
        "ledger.storage.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ledger.publish('k', result(1.0))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    ledger = Ledger(tmp_path)
    assert os.listdir(tmp_path / "trials" / "k") == histories(ledger) != []
    assert (ledger.done(), ledger.result("k"), ledger.summaries(["k"])) == (set(), None, {})
    assert damaged_files(ledger) == {}, "an unfinished trial is not damaged"
    ledger.publish("k", result(2.0))
    assert ledger.result("k") == {"key": "k", **result(2.0)}


@pytest.mark.parametrize("damage", ["missing", "truncated", "of another trial", "empty"])
def test_a_result_without_its_history_counts_as_missing(ledger: Ledger, damage: str) -> None:
    storage = ledger.storage
    ledger.publish("k", result(1.0))
    (file,) = histories(ledger)
    data = storage.read(f"trials/k/{file}") or b""
    broken = {"truncated": data[:-9], "of another trial": data.replace(b"3.0", b"4.0"), "empty": b""}
    if damage == "missing":
        storage.remove(f"trials/k/{file}")
        assert ledger.summaries(["k"]) == {}
        assert ledger.damaged == {FILE: f"its {file} is missing"}
    else:
        storage.write(f"trials/k/{file}", broken[damage])
        assert ledger.summaries(["k"]).keys() == {"k"}, "a summary does not read it"
    assert ledger.result("k") is None
    assert f"its {file}" in ledger.damaged[FILE]
    assert damaged_files(ledger) == {FILE: ledger.damaged[FILE]}
    before = storage.read(FILE)
    assert ledger.publish("k", result(2.0)) == {"key": "k", **result(2.0)}
    assert ledger.result("k") == {"key": "k", **result(2.0)}
    (aside,) = storage.names("quarantine")
    assert storage.read(f"quarantine/{aside}") == before


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_recomputed_history_repairs_its_result(ledger: Ledger, damage: str) -> None:
    """A trial that is trained again on the same platform has the same history, bit for bit."""
    first = ledger.publish("k", {**result(1.0), "seconds": 1.0})
    file = f"trials/k/{histories(ledger)[0]}"
    if damage == "missing":
        ledger.storage.remove(file)
    else:
        ledger.storage.write(file, (ledger.storage.read(file) or b"")[:-9])
    assert ledger.publish("k", {**result(1.0), "seconds": 2.0}) == first
    assert ledger.result("k") == first
    assert ledger.storage.names("quarantine") == []


def test_a_result_of_an_earlier_version_is_kept(ledger: Ledger) -> None:
    ledger.publish("k", result(1.0))
    merge(ledger.storage, FILE)
    assert histories(ledger) == []
    assert ledger.result("k") == ledger.publish("k", result(2.0)) == {"key": "k", **result(1.0)}
    ledger.storage.write(FILE, (ledger.storage.read(FILE) or b"").replace(b'"epoch": 3.0', b'"epoch": 4.0'))
    assert ledger.result("k") is None
    assert ledger.damaged == {FILE: "history: the digest is not that of the content"}
    ledger.publish("k", result(2.0))
    assert ledger.result("k") == {"key": "k", **result(2.0)}


# -- garbage


def removed(ledger: Ledger, tmp_path: Path) -> set[str]:
    """The files of trials that garbage collection removes, after a day."""
    store = Store(tmp_path)
    found = [item for item in garbage.find_garbage(store) if item.name.startswith("trials/")]
    assert all(garbage.remove(store, item) for item in found)
    return {item.name.rpartition("/")[2] for item in found}


def test_only_unpublished_files_are_garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.publish("k", result(1.0))
    ledger.publish_finding("k", "p", finding(1.0))
    ledger.publish_finding("k", "p-2", finding(1.0))
    published = set(ledger.storage.names("trials/k"))
    assert len(published) == 6
    ledger.publish("k", result(1.0))  # a second writer of the same
    ledger.publish("k", result(2.0))
    ledger.publish_finding("k", "p", finding(2.0))
    lost = set(ledger.storage.names("trials/k")) - published
    assert len(lost) == 2
    assert removed(ledger, tmp_path) == set(), "not before a day has passed"
    monkeypatch.setattr(garbage, "DAY", -1.0)
    assert removed(ledger, tmp_path) == lost
    assert set(ledger.storage.names("trials/k")) == published
    assert ledger.complete("k", {"a": "p", "b": "p-2"}) is not None


@pytest.mark.parametrize("head", ["missing", "damaged"])
def test_without_a_result_no_history_is_garbage(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer may be about to publish the result."""
    ledger = Ledger(tmp_path)
    ledger.publish("k", result(1.0))
    ledger.publish("k", result(2.0))
    ledger.storage.remove(FILE) if head == "missing" else ledger.storage.write(FILE, b"{torn")
    monkeypatch.setattr(garbage, "DAY", -1.0)
    assert removed(ledger, tmp_path) == set()
    assert len(histories(ledger)) == 2


def test_unpublished_files_of_an_object_store_are_recognised(ledger: Ledger) -> None:
    ledger.publish("k", result(1.0))
    (kept,) = histories(ledger)
    ledger.publish("k", result(2.0))
    files = {f"trials/{name}" for name in ledger.storage.files("trials")}
    (lost,) = set(histories(ledger)) - {kept}
    assert ledger.superseded(files) == {f"trials/k/{lost}"}
    assert FINDINGS.owner(f"trials/k/{lost}") is None
    assert FINDINGS.owner(f"trials/k/curves-p-2-{'0' * 16}.json") == finding_file("k", "p-2")


def test_the_first_result_or_finding_is_kept(ledger: Ledger, publish: Callable[[float], None]) -> None:
    publish(1.0)
    before = {name: ledger.storage.read(f"trials/k/{name}") for name in ledger.storage.names("trials/k")}
    publish(2.0)
    after = {name: ledger.storage.read(f"trials/k/{name}") for name in ledger.storage.names("trials/k")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
