"""The content of a store cannot reach files outside it and is used only if it is consistent."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.execution.trial import run_trial
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import open_storage
from orchestrator.storage.records import digest_of
from orchestrator.storage.stores import open_store
from poisons import DataSpec, Store
from poisons.store.cached import CachedStore
from poisons.store.local_cache import remote_name
from tests.conftest import Opsctl
from tests.orchestrator.storage.earlier import merge
from tests.orchestrator.sweeps import plan_of, tiny, write

CPU = torch.device("cpu")
CLEAN = DataSpec.parse({"limit": 20}, "test").pinned()
ONE = tiny(grid={"data.poison": ["clean"], "seed": [0, 1]})


@pytest.mark.parametrize(
    "name", ["../../victim/new", "/{victim}/new", "..", "a/../../../victim/new", "data.arrow\0"]
)
def test_a_record_of_a_url_store_cannot_name_files_outside_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission to write to a bucket must not allow writing to the machines that read it."""
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "cache"))
    victim = tmp_path / "victim"
    victim.mkdir()
    store = open_store(f"memory://{tmp_path.name}/x")
    store.ensure(CLEAN)
    assert isinstance(store, CachedStore)
    place, payload = f"data/{CLEAN.name}", b"alias ls='echo owned'\n"
    target, digest = name.format(victim=victim), hashlib.sha256(payload).hexdigest()
    record = json.loads(store.remote.read(f"{place}/record.json") or b"")
    record["files"][target] = {"sha256": digest, "bytes": len(payload), "mtime_ns": 0}
    store.remote.write(f"{place}/record.json", json.dumps(record).encode())
    store.remote.fs.pipe_file(f"{store.remote.root}/{remote_name(place, target, digest)}", payload)  # type: ignore[attr-defined]
    shutil.rmtree(store.root)
    again = open_store(f"memory://{tmp_path.name}/x")
    assert again.load(CLEAN) is None, "the record is invalid"
    assert len(again.ensure(CLEAN)) == 20, "and the data set is rebuilt"
    assert list(victim.iterdir()) == []


def finished(store: Store) -> tuple[Ledger, list[str]]:
    """The ledger of a sweep with two finished trials, and their keys."""
    plan = plan_of(ONE, store)
    for task in plan.tasks:
        run_trial(task.trial, store, device=CPU)
    return Ledger(store.where), [task.key for task in plan.tasks]


def rewritten(ledger: Ledger, trial: str, *, digests: str, changes: dict[str, Any]) -> None:
    """Change the file of a result: its digests stay as they `were`, are `none` as in early versions, or one is
    computed `anew`."""
    name = f"trials/{trial}/result.json"
    if digests == "none":
        merge(ledger.storage, name)
    record = json.loads(ledger.storage.read(name) or b"") | changes
    if digests != "were":
        del record["digest"]
    if digests == "none":
        del record["digests"]
    record |= {"digest": digest_of(record)} if digests == "anew" else {}
    ledger.storage.write(name, json.dumps(record).encode())


@pytest.mark.parametrize(
    ("digests", "changes", "why"),
    [
        ("were", {"metrics": {"test/clean_acc": 0.93}}, "digest"),
        ("were", {"seconds": 3.25}, "digest"),
        ("were", {"metrics": {"test/clean_acc": 7.5}}, "in [0, 1], found 7.5"),
        ("none", {"metrics": {"test/clean_acc": 7.5}}, "in [0, 1], found 7.5"),
        ("anew", {"metrics": {"test/clean_acc": -1.0}}, "in [0, 1], found -1"),
        ("anew", {"metrics": "many"}, "metrics"),
        ("anew", {"metrics": None}, "metrics"),
        ("anew", {"warnings": 3}, "warnings"),
        ("anew", {"needs": ["../../x"]}, "needs"),
        ("anew", {"key": "0" * 16}, "it is of 0000000000000000"),
        ("none", {"spec": {}}, "its settings are those of trial"),
        ("none", {"spec": {"seed": "x"}}, "its settings are none of a trial"),
    ],
)
def test_a_result_that_is_not_consistent_counts_as_missing(
    digests: str, changes: dict[str, Any], why: str, opsctl: Opsctl, store: Store, tmp_path: Path
) -> None:
    ledger, (key, other) = finished(store)
    rewritten(ledger, key, digests=digests, changes=changes)
    assert ledger.results([key, other]).keys() == {other}
    assert why in ledger.damaged[f"trials/{key}/result.json"]
    file = write(tmp_path, ONE)
    code, out, _ = opsctl("status", file)
    assert code == 0
    assert "1 of 2 trials done" in out
    assert f"trials/{key}/result.json counts as missing" in out
    assert f"trials/{key}/result.json" in opsctl("cache", "verify")[1]
    assert opsctl("cache", "verify")[0] == 1


def test_damaged_results_in_a_bucket_are_planned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing does not show the content of a file."""
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "cache"))
    store = open_store(f"memory://{tmp_path.name}/plan")
    ledger, (key, _) = finished(store)
    assert plan_of(ONE, store).missing == ()
    rewritten(ledger, key, digests="were", changes={"seconds": 3.25})
    assert [task.key for task in plan_of(ONE, store).missing] == [key]


def test_a_result_of_a_version_without_digests_is_accepted(store: Store) -> None:
    ledger, keys = finished(store)
    for key in keys:
        rewritten(ledger, key, digests="none", changes={})
    assert ledger.results(keys).keys() == set(keys)
    assert ledger.damaged == {}


def test_the_result_of_another_trial_is_rejected(store: Store) -> None:
    ledger, (key, other) = finished(store)
    ledger.storage.write(
        f"trials/{key}/result.json", ledger.storage.read(f"trials/{other}/result.json") or b""
    )
    assert ledger.result(key) is None


@pytest.mark.parametrize("how", ["lost", "changed"])
def test_a_lost_history_is_recomputed_and_a_changed_one_is_reported(
    how: str, opsctl: Opsctl, store: Store, tmp_path: Path
) -> None:
    """Plans and `opsctl status` check that a history exists; only its readers check whether it is intact."""
    _, (key, _) = finished(store)
    file, folder = write(tmp_path, ONE), store.root / "trials" / key
    (history,) = folder.glob("history-*.json")
    whole = history.read_bytes()
    history.unlink() if how == "lost" else history.write_bytes(whole.replace(b"1", b"2"))
    done = 1 if how == "lost" else 2
    assert len(plan_of(ONE, store).missing) == 2 - done
    out = opsctl("status", file)[1]
    assert f"{done} of 2 trials done" in out
    assert (f"trials/{key}/result.json counts as missing: its {history.name} is missing" in out) == (
        done == 1
    )
    code, out, _ = opsctl("cache", "verify")
    assert code == 1
    assert f"trials/{key}/result.json: its {history.name}" in out
    run_trial(plan_of(ONE, store).tasks[0].trial, store, device=CPU)
    assert history.read_bytes() == whole
    assert opsctl("cache", "verify")[0] == 0
    assert plan_of(ONE, store).missing == ()


@pytest.mark.parametrize("name", ["acc", "em_acc", "test/clean_acc"])
def test_an_accuracy_of_a_probe_is_a_share(name: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.publish_finding("a", "b", {"metrics": {name: 7.5}})
    assert ledger.finding("a", "b") is None
    assert "in [0, 1], found 7.5" in ledger.damaged["trials/a/look-b.json"]


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_damaged_files_are_quarantined_when_they_are_rebuilt(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "cache"))
    ledger = Ledger(tmp_path if where == "folder" else f"memory://{tmp_path.name}/q")
    ledger.publish("a", {"metrics": {"test/clean_acc": 0.5}})
    ledger.storage.write("trials/a/result.json", b"{torn")
    ledger.publish("a", {"metrics": {"test/clean_acc": 0.25}})
    assert (ledger.result("a") or {})["metrics"] == {"test/clean_acc": 0.25}
    (aside,) = ledger.storage.names("quarantine")
    assert ledger.storage.read(f"quarantine/{aside}") == b"{torn"


@pytest.mark.parametrize(
    "heartbeat",
    [
        b"",
        b"{}",
        b'{"beat": 1}',
        b'{"beat": "x", "machine": [], "pid": -1}',
        b"[1]",
        b"\xff",
        b'{"id": "../x"}',
    ],
)
def test_a_malformed_heartbeat_breaks_no_command(
    heartbeat: bytes, opsctl: Opsctl, store: Store, tmp_path: Path
) -> None:
    storage = open_storage(store.where)
    storage.write("drivers/tiny-1-2.json", heartbeat)
    file = write(tmp_path, ONE)
    for command in (
        ("plan", file),
        ("status", file),
        ("stop", "--all"),
        ("cache", "ls"),
        ("cache", "gc", "--yes"),
    ):
        assert opsctl(*command)[0] in (0, 1), command
    assert "drivers/tiny-1-2.json counts as missing" in opsctl("status", file)[1]
    assert "drivers/tiny-1-2.json" in opsctl("cache", "verify")[1]
