"""Nodes that share only an object store build, train and resume as on one disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem

from orchestrator.execution.trial import run_trial
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.garbage import find_garbage
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import open_storage
from orchestrator.storage.stores import open_store
from poisons import CraftContext, DataSpec, Store
from poisons.durable import StoreError
from poisons.store.local_cache import remote_name
from tests import s3
from tests.conftest import CPU, Opsctl
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny, write
from trainers import InputError

OPS = DataSpec.parse({"poison": "ops", "limit": 50}, "test").pinned()
EM = {"kind": "em", "generator": "lenet5", "steps": 2, "max_rounds": 6, "stop_error": 0, "batch_size": 10}
NOISE = DataSpec.parse({"poison": {**EM, "precision": "float32"}, "limit": 40}, "test").pinned()
BUILD = """
import json, sys
from orchestrator.storage.stores import open_store
from poisons import DataSpec
open_store(sys.argv[1]).ensure(DataSpec.parse(json.loads(sys.argv[2]), "test").pinned())
"""


class Nodes:
    """Machines that share a store, each with its own local cache."""

    def __init__(self, where: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.where, self.folder, self.patch = where, folder, patch

    def __call__(self, name: str) -> Store:
        self.patch.setenv("OPSCTL_CACHE", str(self.folder / name))
        return open_store(self.where)


@pytest.fixture
def node(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(f"{bucket}/mine", tmp_path / "nodes", monkeypatch)


@pytest.fixture
def connection(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Connection]:
    """The connection for all requests to the server."""
    connection = s3.Connection(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", connection.address)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # or a cut connection is retried for a minute
    S3FileSystem.clear_instance_cache()
    yield connection
    connection.close()


def remote_file(store: Store, spec: DataSpec) -> str:
    """The name of a data set's images on the server."""
    record = store.record(spec)
    assert record is not None
    return remote_name(f"data/{spec.name}", "data.arrow", record["files"]["data.arrow"]["sha256"])


def rows_of(store: Store, spec: DataSpec) -> list[dict[str, Any]]:
    """The rows that a build reports; none if nothing had to be crafted."""
    rows: list[dict[str, Any]] = []
    store.ensure(spec, CraftContext(report=rows.append))
    return rows


def test_a_data_set_built_on_one_node_is_mapped_on_another(node: Nodes) -> None:
    a = node("a")
    built = a.ensure(OPS)
    b = node("b")
    assert b.root != a.root
    assert b.where == a.where == node.where
    assert not b.path(OPS).exists()
    assert b.has(OPS)
    pulled = b.load(OPS)
    assert pulled is not None
    assert torch.equal(pulled.x, built.x)
    assert pulled.file == b.path(OPS) / "data.arrow"
    if (maps := Path("/proc/self/maps")).exists():
        assert str(pulled.file) in maps.read_text()
    assert b.record(OPS) == a.record(OPS)
    assert b.find(OPS.key[:6]) == OPS
    assert torch.equal(b.perturbation(OPS).apply(b.ensure(OPS.clean)).x, built.x)
    assert not [path for path in b.root.rglob("*") if path.name.endswith(".tmp")]


def test_a_store_has_the_same_url_on_every_machine(node: Nodes) -> None:
    node("a").ensure(OPS)
    where = node("a").where
    assert where == node.where
    assert open_store(where + "/").where == where


def test_a_path_is_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for where in ("s", "~/s", f"file://{tmp_path}/s", tmp_path / "s"):
        store = open_store(where)
        assert (type(store), store.root, store.where) == (Store, tmp_path / "s", str(tmp_path / "s"))


def test_a_store_may_be_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path))
    store = open_store(f"memory://{tmp_path.name}")
    store.ensure(OPS)
    assert open_storage(store.where).names("data") == sorted([OPS.name, OPS.clean.name])


def test_a_build_killed_before_its_record_is_repeated(node: Nodes, connection: s3.Connection) -> None:
    node("killed")
    connection.cut_at(f"PUT /{node.where.removeprefix('s3://')}/data/{OPS.name}/record.json")
    victim = subprocess.Popen(
        [sys.executable, "-c", BUILD, node.where, json.dumps({"poison": "ops", "limit": 50})]
    )
    assert connection.cut.wait(60)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    connection.mend()
    b = node("b")
    sent = " ".join(open_storage(node.where).names(f"data/{OPS.name}"))
    assert re.search(r"\bdata-[0-9a-f]{16}\.arrow", sent), "it was killed between data and record"
    assert not b.has(OPS)
    assert b.load(OPS) is None
    assert b.record(OPS) is None
    built = b.ensure(OPS)
    pulled = node("c").load(OPS)
    assert pulled is not None
    assert torch.equal(pulled.x, built.x)


def test_a_broken_connection_loses_no_work(node: Nodes, connection: s3.Connection) -> None:
    """A data set that was built but not uploaded is uploaded when it is next needed; nothing is crafted twice."""
    a = node("a")
    a.ensure(NOISE.clean)
    connection.cut_at(f"data/{NOISE.name}/data-")
    with pytest.raises(StoreError, match=r"is on this machine, but could not be written for others"):
        a.ensure(NOISE)
    assert not node("b").has(NOISE)
    connection.mend()
    assert rows_of(a, NOISE) == []
    assert node("b").has(NOISE)
    assert rows_of(node("b"), NOISE) == []


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "no record"])
def test_damage_on_the_server_is_detected_and_rebuilt(node: Nodes, damage: str) -> None:
    good = node("a").ensure(OPS).x.clone()
    storage, name = open_storage(node.where), remote_file(node("a"), OPS)
    data = storage.read(name)
    assert data is not None
    if damage == "no record":
        storage.write(f"data/{OPS.name}/record.json", b"{")
    elif damage == "missing":
        storage.remove(name)
    else:
        storage.write(name, data[:-100] if damage == "truncated" else data[:-100] + b"\1" * 100)
    b = node("b")
    assert b.load(OPS) is None
    assert torch.equal(b.ensure(OPS).x, good)
    assert storage.read(name) == data
    pulled = node("c").load(OPS)
    assert pulled is not None
    assert torch.equal(pulled.x, good)


def test_invalid_content_with_a_valid_digest_is_rebuilt(node: Nodes) -> None:
    """The bytes match the digest in the record but hold no images."""
    good = node("a").ensure(OPS).x.clone()
    storage, record = open_storage(node.where), f"data/{OPS.name}/record.json"
    content, data = json.loads(storage.read(record) or b""), b"no Arrow file"
    digest = hashlib.sha256(data).hexdigest()
    content["files"]["data.arrow"] |= {"sha256": digest, "bytes": len(data)}
    storage.write(remote_name(f"data/{OPS.name}", "data.arrow", digest), data)
    storage.write(record, json.dumps(content).encode())
    b = node("b")
    assert b.load(OPS) is None
    assert torch.equal(b.ensure(OPS).x, good)
    pulled = node("c").load(OPS)
    assert pulled is not None
    assert torch.equal(pulled.x, good)


def test_a_damaged_local_copy_is_replaced_from_the_server(node: Nodes) -> None:
    a = node("a")
    good = a.ensure(OPS).x.clone()
    os.truncate(a.path(OPS) / "data.arrow", 1000)
    repaired = a.load(OPS)
    assert repaired is not None
    assert torch.equal(repaired.x, good)


def some(count: int) -> list[DataSpec]:
    return [DataSpec.parse({"limit": 1000, "seed": i}, "test").pinned() for i in range(count)]


def test_the_local_cache_keeps_the_most_recently_used_data_sets(
    node: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = some(4)
    for spec in specs:
        node("a").ensure(spec)
    size = sum(file.stat().st_size for file in node("a").path(specs[0]).glob("*.arrow"))
    monkeypatch.setenv("OPSCTL_CACHE_GB", str(2.5 * size / 1e9))
    b = node("b")
    for second, spec in enumerate((specs[0], specs[1], specs[0], specs[2])):
        assert b.load(spec) is not None
        os.utime(b.path(spec) / "record.json", (second, second))  # as if a second had passed
    assert sorted(f.name for f in (b.root / "data").iterdir()) == sorted(s.name for s in (specs[0], specs[2]))
    assert all(node("b").has(spec) for spec in specs), "they are evicted on this node only"


def test_data_sets_that_are_open_locked_or_only_local_are_not_evicted(
    node: Nodes, connection: s3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = some(5)
    for spec in specs[:4]:
        node("a").ensure(spec)
    monkeypatch.setenv("OPSCTL_CACHE_GB", "0.000001")
    b = node("b")
    opened = b.load(specs[0])
    assert opened is not None
    connection.cut_at(f"data/{specs[4].name}/data-")
    with pytest.raises(StoreError):
        b.ensure(specs[4])
    connection.mend()
    with b.lock(specs[1]):
        b.load(specs[1])
        b.load(specs[2])
        b.load(specs[3])
    left = {f.name for f in (b.root / "data").iterdir()}
    assert left == {specs[i].name for i in (0, 1, 3, 4)}
    assert len(list(opened.chunks(100))) == 10


def test_an_invalid_cache_size_is_an_error(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSCTL_CACHE_GB", "many")
    with pytest.raises(InputError, match="OPSCTL_CACHE_GB=many is no size: write gigabytes"):
        node("a")


def test_crafting_resumes_from_the_checkpoint_of_another_node(node: Nodes) -> None:
    before: list[dict[str, Any]] = []

    def die(row: dict[str, Any]) -> None:
        before.append(row)
        if row["round"] == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.checkpoint.Checkpoint.due", lambda _: True)
        with pytest.raises(KeyboardInterrupt):
            node("a").ensure(NOISE, CraftContext(report=die))
    rows = rows_of(node("b"), NOISE)
    assert rows[:3] == before[:3], "earlier rounds are reported again with their seconds, not computed again"
    assert len(rows) == 6
    assert open_storage(node.where).names("checkpoints") == []


def test_a_trial_resumes_from_the_checkpoint_of_another_node(node: Nodes, tmp_path: Path) -> None:
    sweep = tiny(base={"data": {"limit": 60}, "train": {**TRAIN, "epochs": 4}})
    trial = plan_of(sweep, node("a")).tasks[0].trial
    whole = run_trial(trial, Store(tmp_path / "other"), device=CPU)
    seen: list[dict[str, Any]] = []
    run = RunSpec(checkpoint_seconds=0, keep="weights")

    def cut(row: dict[str, Any]) -> None:
        if row["epoch"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, node("a"), device=CPU, report=cut, run=run)
    storage = open_storage(node.where)
    assert storage.names(f"trials/{trial.key}") == ["checkpoint.pt", "checkpoint.pt.sha256"]
    b = node("b")
    (b.root / "trials" / trial.key).mkdir(parents=True)
    (b.root / "trials" / trial.key / "checkpoint.pt").write_bytes(b"of an earlier try here")
    record = run_trial(trial, b, device=CPU, report=seen.append, run=run)
    assert record["history"] == whole["history"]
    assert record["metrics"] == whole["metrics"]
    assert not record["warnings"], "a damaged checkpoint would have restarted the training"
    history, *others = storage.names(f"trials/{trial.key}")
    assert history.startswith("history-")
    assert others == ["result.json", "weights.pt"]
    assert list((b.root / "trials" / trial.key).iterdir()) == []
    assert Ledger(node.where).done() == {trial.key}


def test_a_perturbation_imported_on_one_node_is_used_on_another(
    node: Nodes, tmp_path: Path, opsctl: Opsctl
) -> None:
    noise = np.random.default_rng(0).integers(-8, 9, (60, 3, 32, 32), dtype=np.int8)
    np.save(tmp_path / "noise.npy", noise)
    node("a")
    code, out, err = opsctl("import", tmp_path / "noise.npy", "--clean", "{limit: 60}", "--store", node.where)
    assert code == 0, err
    (fingerprint,) = re.findall("imported, fingerprint: '?([0-9a-f]{16})", out)
    spec = DataSpec.parse(
        {"poison": {"kind": "imported", "fingerprint": fingerprint}, "limit": 60, "ratio": 0.5}, "test"
    ).pinned()
    storage = open_storage(node.where)
    storage.remove_all(f"data/{spec.crafted[0].name}")  # so that it is crafted on the other node
    b = node("b")
    poisoned, clean = b.ensure(spec), b.ensure(spec.clean)
    assert 29 <= (poisoned.x != clean.x).flatten(1).any(1).sum() <= 30


def test_nodes_that_build_one_data_set_concurrently_end_with_one(node: Nodes) -> None:
    stores = [node(name) for name in "abc"]
    threads = [threading.Thread(target=store.ensure, args=(OPS,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pulled, made = node("d").load(OPS), stores[0].load(OPS)
    assert pulled is not None
    assert made is not None
    assert torch.equal(pulled.x, made.x)


def test_a_remote_store_of_a_newer_version_is_not_changed(node: Nodes) -> None:
    open_storage(node.where).write("store.json", b'{"format": 99}')
    with pytest.raises(
        InputError, match=rf"the store {node.where} has format 99, this opsctl supports 1: upgrade"
    ):
        node("a")
    assert open_storage(node.where).read("store.json") == b'{"format": 99}'


def test_a_location_that_is_no_store_is_an_error(node: Nodes) -> None:
    open_storage(node.where).write("store.json", b"[]")
    with pytest.raises(InputError, match=r"is damaged \(.*\); is s3://.* a store\?"):
        node("a")


def error_of(opsctl: Opsctl, where: str) -> str:
    code, out, err = opsctl("cache", "ls", "--store", where)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    return err


def test_an_unreachable_server_is_one_message(
    node: Nodes, opsctl: Opsctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.free_port()}")
    S3FileSystem.clear_instance_cache()
    assert re.search(
        rf"the store {node.where} cannot be written .*[Cc]ould not connect", error_of(opsctl, node.where)
    )


def test_a_missing_bucket_is_one_message(bucket: str, opsctl: Opsctl) -> None:
    assert "there is no such bucket" in error_of(opsctl, f"{bucket}-not/x")
    assert "write s3://bucket" in error_of(opsctl, "s3:/bucket")
    assert "Protocol not known: nope" in error_of(opsctl, "nope://bucket")


def test_wrong_or_missing_credentials_are_one_message(
    tmp_path: Path, opsctl: Opsctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with s3.served(INITIAL_NO_AUTH_ACTION_COUNT="1") as address:
        where = s3.bucket(address, "strict")
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for name in s3.KEYS:
            monkeypatch.delenv(name, raising=False)
        S3FileSystem.clear_instance_cache()
        assert "Unable to locate credentials" in error_of(opsctl, where)
        for name, value in s3.KEYS.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        assert re.search("(?i)access key", error_of(opsctl, where))


def test_the_commands_on_data_sets_work_on_a_remote_store(
    node: Nodes, opsctl: Opsctl, tmp_path: Path
) -> None:
    node("a")

    def run(*words: object) -> str:
        code, out, err = opsctl(*words, "--store", node.where)
        assert code == 0, out + err
        return out

    out = run("poison", "{poison: ops, limit: 50}")
    assert f"{node.where}/data/{OPS.name}" in out
    assert "in the store already" in run("poison", "{poison: ops, limit: 50}")
    node("b")
    assert "changed" in run("show", OPS.key)
    assert "50 images" in run("export", OPS.key, "--to", tmp_path / "out", "--format", "npz")
    assert OPS.key in run("cache", "ls")
    assert "2 data sets read, 0 files damaged" in run("cache", "verify")
    storage = open_storage(node.where)
    with Driver(storage, "mine", threading.Event(), needs=[OPS.name]):
        assert "nothing to remove" in run("cache", "gc", "--yes")
    storage.write(remote_file(node("b"), OPS), b"short")
    code, out, _ = opsctl("cache", "verify", OPS.key, "--store", node.where)
    assert (code, f"damaged {node.where}/data/{OPS.name}/data.arrow" in out) == (1, True)
    Ledger(node.where).publish("a" * 16, {"metrics": {}, "needs": [OPS.clean.name]})
    storage.write("data/digits-clean-train-0123456789abcdef/data.arrow", b"being sent just now")
    assert "removed 1 of 1" in run("cache", "gc", "--yes")
    assert storage.names(f"data/{OPS.name}") == []
    assert not open_store(node.where).path(OPS).exists()
    assert open_store(node.where).has(OPS.clean)
    assert find_garbage(open_store(node.where)) == []


def test_plan_and_doctor_work_from_a_node_without_local_files(
    node: Nodes, opsctl: Opsctl, tmp_path: Path
) -> None:
    a = node("a")
    file = write(tmp_path, tiny())
    for task in plan_of(tiny(), a).tasks[:3]:
        run_trial(task.trial, a, device=CPU)
    node("b")
    code, out, err = opsctl("plan", file, "--store", node.where)
    assert code == 0, err
    assert "0 data sets to build, 1 trials to run, 3 trials already done" in out
    assert opsctl("doctor", "--store", node.where)[1].count(node.where) == 1
