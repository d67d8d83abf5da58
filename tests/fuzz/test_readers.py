"""Each reader, given damaged and hostile files, returns a value of its type or an error with the reason."""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.estimates.flops_kept import FLOPS
from orchestrator.estimates.kept_weights import WEIGHTS
from orchestrator.estimates.packing import SHARE
from orchestrator.estimates.rates import RATES
from orchestrator.planning.extents import EXTENT
from orchestrator.planning.snapshot import Entry, Snapshot, kept_snapshot
from orchestrator.planning.trial_budget import Quota
from orchestrator.report.html.document import load_document, save_document
from orchestrator.storage.heartbeats import (
    Driver,
    Watch,
    damaged_heartbeats,
    live_heartbeats,
    read_heartbeat,
    remove_dead,
)
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import open_storage
from orchestrator.storage.records import ACCURACY, HEARTBEAT
from orchestrator.storage.storage import (
    FolderStorage,
    Storage,
    UnsafeNameError,
    check_safe,
    safe,
)
from poisons.records import DATA, IMPORT, STAMP, STORE, data_record
from tests.fuzz.hostile import TEXTS, damaged, examples
from tests.orchestrator.storage.earlier import merge
from trainers import InputError
from trainers.precision import VERDICT
from trainers.stored import DamagedError

KEY, NAME = "0123456789abcdef", "digits-ops-train-0123456789abcdef"
STAMPED = {"sha256": "0" * 64, "bytes": 3, "mtime_ns": 1}
METRICS = {"test/clean_acc": 0.5, "train/loss": 2.0}
ROWS = [{"epoch": 1.0, "test/clean_acc": 0.5, "train/loss": 2.0}]
PLATFORM = {"name": "torch 2.15, avx2", "cpu": "a cpu", "threads": 1}
RESULT = {
    "metrics": METRICS,
    "spec": {"seed": 0},
    "warnings": ["a"],
    "needs": [NAME],
    "seconds": 1.5,
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
    "platform": PLATFORM,
    "platforms_before": [],
    "data_sets": {NAME: {"sha256": "0" * 64, "platform": "x"}},
    "environment": {"time": "2026-01-01T00:00:00+00:00", "host": "h", "commit": None},
    "history": ROWS,
}
PROBED = {"metrics": {"acc": 0.5}, "sets": {"em": NAME}, "curves": {"x": [1.0, 2.0]}, "fields": {"y": [[1]]}}
DATA_SET = {
    "key": KEY,
    "spec": {
        "source": {"kind": "digits", "fingerprint": "0" * 32},
        "split": "train",
        "poison": [{"kind": "ops", "pixels": 1}],
        "limit": None,
        "crafted_on": None,
        "ratio": 1.0,
        "seed": 0,
    },
    "parents": [NAME],
    "layout": 3,
    "files": {"data.arrow": STAMPED, "perturbation-0.arrow": STAMPED},
    "images": 10,
    "shape": [3, 8, 8],
    "num_classes": 10,
    "facts": {"ops": {"pixels": 1}},
    "skipped": [{"reason": "hidden", "count": 1, "examples": [".a"]}],
    "change": {
        "images": 10,
        "changed": 1.0,
        **{name: dict.fromkeys(("mean", "p5", "p50", "p95", "max"), 1.0) for name in ("L0", "L2", "Linf")},
        "psnr": {"mean": 30.0, "min": 20.0, "over": 10},
        "ssim": None,
    },
    "environment": {
        "time": "2026-01-01T00:00:00+00:00",
        "host": "h",
        "python": "3.11",
        "commit": None,
        "versions": {"torch": "2.15"},
    },
    "platform": PLATFORM,
}


def ledger_with(folder: str) -> Ledger:
    """A ledger with a file of each kind."""
    ledger = Ledger(f"memory://{folder}/x")
    ledger.publish(KEY, RESULT)
    ledger.publish_finding(KEY, KEY, PROBED)
    ledger.fail(KEY, {"kind": "trial", "error": "no", "needs": [NAME], "history": ROWS})
    ledger.stop(KEY, {"epoch": 1, "metric": "test/clean_acc", "value": 0.5, "history": ROWS})
    return ledger


READ: dict[str, Callable[[Ledger], Any]] = {
    "result": lambda ledger: ledger.result(KEY),
    "history": lambda ledger: ledger.result(KEY),
    "look": lambda ledger: ledger.finding(KEY, KEY),
    "curves": lambda ledger: ledger.finding(KEY, KEY),
    "failure": lambda ledger: ledger.failure(KEY),
    "stopped": lambda ledger: ledger.stopped(KEY),
}


def in_range(metrics: dict[str, Any]) -> bool:
    return all(
        isinstance(value, float) and math.isfinite(value) and (not ACCURACY.search(name) or 0 <= value <= 1)
        for name, value in metrics.items()
    )


@pytest.mark.parametrize(
    ("name", "merged"),
    [*((name, False) for name in READ), ("result", True), ("look", True)],
    ids=[*READ, "result of an earlier version", "look of an earlier version"],
)
def test_the_ledger_survives_damaged_files(name: str, merged: bool) -> None:
    ledger = ledger_with(secrets.token_hex(8))
    storage, read = ledger.storage, READ[name]
    (file,) = (f"trials/{KEY}/{n}" for n in storage.names(f"trials/{KEY}") if n.startswith(name))
    if merged:
        merge(storage, file)
    data, whole = storage.read(file) or b"", read(ledger)
    assert whole

    @given(damaged(data))
    @examples(400)
    def check(changed: bytes) -> None:
        ledger.damaged.clear()
        storage.write(file, changed)
        record = read(ledger)
        assert (record is None) == bool(ledger.damaged)
        if record is None:
            return
        assert record["key"] == KEY
        assert in_range(record.get("metrics", {}))
        if name in ("history", "curves") or (
            b'"digest"' in changed and json.loads(changed)["digest"] == json.loads(data).get("digest")
        ):
            assert record == whole, "a record with the digest of another was accepted"

    check()


OTHERS: dict[str, tuple[Callable[[bytes], Any], Any]] = {
    "data set": (lambda data: data_record(NAME, data), DATA_SET),
    "data set, bare": (DATA.read, DATA_SET),
    "import": (IMPORT.read, {"file": STAMPED, "per": "class", "labels_sha256": "0" * 16}),
    "store": (STORE.read, {"format": 1}),
    "stamp": (STAMP.read, STAMPED),
    "extent": (EXTENT.read, {"images": 10, "shape": [3, 8, 8], "num_classes": 10}),
    "weights": (WEIGHTS.read, {"bytes": 10}),
    "share": (SHARE.read, {"share": 0.5, "device": "x", "grown": True, "peak_bytes": 1, "busy": 0.5}),
    "rates": (
        RATES.read,
        {"device": "x", "speeds": {"float32": {"flops": 1.0, "values": 1.0, "kernels": 1.0}}},
    ),
    "flops": (
        FLOPS.read,
        {n: 1.0 for n in ("forward", "backward", "inputs")}
        | {n: {"forward": 1.0, "backward": 1.0, "inputs": 1.0} for n in ("values", "kernels")},
    ),
    "verdict": (VERDICT.read, {"layer": "conv", "error": None, "part": "weight", "platform": {"name": "x"}}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_readers_survive_damaged_files(kind: str) -> None:
    read, value = OTHERS[kind]
    data = json.dumps(value).encode()
    assert read(data)

    @given(damaged(data))
    @examples(300)
    def check(changed: bytes) -> None:
        with suppress(DamagedError):
            read(changed)

    check()


def driver(storage: Storage) -> Driver:
    found = Driver(storage, "tiny", threading.Event(), needs=[NAME], snapshot="a-b")
    found.state = {
        "waiting": 1,
        "elsewhere": 0,
        "running": [{"key": KEY, "name": "a", "since": "2026-01-01T00:00:00+00:00", "epochs": 2}],
        "building": [{"name": NAME, "word": "reading"}],
        "faults": {"machine": 1},
        "resting": 0,
        "silent": "",
    }
    found.beat()
    return found


def test_heartbeats_survive_damage(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    one = driver(storage)
    data = storage.read(f"drivers/{one.id}.json") or b""
    assert HEARTBEAT.read(data)

    @given(damaged(data))
    @examples(400)
    def check(changed: bytes) -> None:
        storage.write(f"drivers/{one.id}.json", changed)
        heartbeat = read_heartbeat(storage, one.id)
        assert (heartbeat is None) == bool(damaged_heartbeats(storage))
        if heartbeat is not None:
            assert heartbeat["id"] == one.id
            assert Watch(storage).silent(one.id, heartbeat) >= 0
        live_heartbeats(storage)
        remove_dead(storage)
        for name in storage.names("quarantine"):
            storage.remove(f"quarantine/{name}")

    check()


def test_leases_and_search_claims_survive_damage(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)

    @given(st.one_of(st.binary(max_size=300), st.sampled_from([t.encode(errors="replace") for t in TEXTS])))
    @examples(300)
    def check(owner: bytes) -> None:
        storage.write("leases/a.0", owner)
        leases = Leases(storage, "me-1-0")
        assert leases.free("a")
        assert leases.take("a"), "its holder is dead"
        leases.release("a", done=True)
        assert storage.names("leases") == []
        storage.write("searches/s/0", owner)
        assert len(Quota("s", 1, {}).begun(storage)) == 1

    check()


def test_snapshots_survive_damage(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    claim = {"says": "x", "lower": {"p": "ops"}, "higher": 0.5, "where": {}, "margin": 0.0}
    report = {"metrics": {}, "reference": None, "compare": [["a", "b"]], "claims": [claim]}
    entries = (Entry(KEY, {"p": "ops", "seed": "0"}, {"distance": KEY}),)
    quota = Quota("0" * 16, 3, {KEY: "p=ops"})
    snapshot = Snapshot(
        name="tiny",
        question="q",
        metric="test/clean_acc",
        row_axes=("p",),
        column_axis=None,
        stops=False,
        entries=entries,
        best="max",
        report=report,
        quota=quota,
        probes={"distance": {"metrics": ["distance/a"], "view": {"units": {"a": "%"}, "first_epoch": 0}}},
    )
    snapshot.keep(storage, "v")
    assert kept_snapshot(storage, "v") == snapshot
    data = storage.read("sweeps/v.json") or b""

    @given(damaged(data))
    @examples(500)
    def check(changed: bytes) -> None:
        storage.write("sweeps/v.json", changed)
        found = kept_snapshot(storage, "v")
        assert found is None or {*found.row_axes} <= {*found.entries[0].labels, "metric"}

    check()


def test_page_documents_survive_damage(tmp_path: Path) -> None:
    file = tmp_path / "page.json"
    document = {"format": 2, "made": "2026-01-01T00:00:00+00:00", "sweeps": [], "data": []}
    save_document(document, file)
    data = file.read_bytes()

    @given(damaged(data))
    @examples(200)
    def check(changed: bytes) -> None:
        file.write_bytes(changed)
        with suppress(InputError):
            load_document(file)

    check()


PARTS = st.one_of(
    st.sampled_from(["..", ".", "", "a", "trials", "\0", "a\\b", "\n", " ", "é"]), st.text(max_size=6)
)


def test_hostile_names_are_handled(tmp_path: Path) -> None:
    """Whatever the name, nothing outside the folder is read, written or removed."""
    inside, outside = tmp_path / "a" / "b" / "store", tmp_path / "a" / "canary"
    storage = FolderStorage(inside)
    outside.parent.mkdir(exist_ok=True)
    outside.write_bytes(b"whole")
    (inside / "kept").mkdir(parents=True)

    @given(st.lists(PARTS, min_size=1, max_size=6).map("/".join))
    @examples(800)
    def check(name: str) -> None:
        try:
            check_safe(name)
        except UnsafeNameError:
            for act in (storage.read, storage.remove, storage.remove_all, storage.names, storage.files):
                with pytest.raises(UnsafeNameError):
                    act(name)
            with pytest.raises(UnsafeNameError):
                storage.write(name, b"x")
            with pytest.raises(UnsafeNameError):
                storage.move("kept", name)
        else:
            assert safe(name)
            assert (inside / name).resolve().is_relative_to(inside.resolve())
        assert outside.read_bytes() == b"whole"

    check()
