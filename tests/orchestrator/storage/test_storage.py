"""A folder, an object store and memory behave alike."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import as_url, local_folder, open_storage
from orchestrator.storage.process import this_process
from orchestrator.storage.storage import FolderStorage, Storage
from tests import s3
from tests.test_fences import loaded
from trainers.errors import InputError


@pytest.fixture(params=["folder", "memory", "s3", "a part of a bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "s3":
        yield open_storage(f"{request.getfixturevalue('bucket')}/some/prefix")
    elif request.param == "a part of a bucket":
        yield open_storage(f"{request.getfixturevalue('narrow_bucket')}/some/prefix")
    else:
        yield open_storage(tmp_path if request.param == "folder" else f"memory://{secrets.token_hex(8)}/x")


def test_bytes_are_written_read_replaced_and_removed(storage: Storage) -> None:
    assert storage.read("a/b/c.json") is None
    storage.write("a/b/c.json", b"one")
    assert storage.read("a/b/c.json") == b"one"
    storage.write("a/b/c.json", b"")
    assert storage.read("a/b/c.json") == b""
    assert storage.read("a/b") is None, "a folder has no bytes"
    storage.remove("a/b/c.json")
    storage.remove("a/b/c.json")
    storage.remove("a/b/never.json")
    assert storage.read("a/b/c.json") is None
    assert open_storage(storage.where).where == storage.where


def test_changes_by_other_processes_are_visible_at_once(storage: Storage) -> None:
    """Listings are not cached: a lease that was free a moment ago may be taken now."""
    assert storage.names("leases") == []
    open_storage(storage.where).write("leases/a.0", b"x")
    assert storage.names("leases") == ["a.0"]
    assert storage.holders("trials", "result.json") == set()
    open_storage(storage.where).write("trials/k/result.json", b"x")
    assert storage.holders("trials", "result.json") == {"k"}
    open_storage(storage.where).remove("leases/a.0")
    assert storage.names("leases") == []


def test_of_concurrent_creators_one_wins_and_its_bytes_stay(storage: Storage) -> None:
    for turn in range(3):
        won: list[int] = []
        ready = threading.Barrier(8)

        def attempt(
            who: int, name: str = f"leases/a.{turn}", won: list[int] = won, ready: threading.Barrier = ready
        ) -> None:
            ready.wait()
            if storage.create(name, str(who).encode()):
                won.append(who)

        threads = [threading.Thread(target=attempt, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read(f"leases/a.{turn}") == str(won[0]).encode()
    assert not storage.create("leases/a.0", b"late")


def test_an_existing_result_is_kept_unless_it_is_damaged(storage: Storage) -> None:
    """The worker of a disconnected driver may publish after another driver has run the trial."""
    ledger = Ledger(storage.where)
    first, late = ({"metrics": {"a": n}, "history": [{"epoch": 1.0, "a": n}]} for n in (1.0, 2.0))
    assert ledger.publish("k", first) == {"key": "k", **first}
    assert ledger.publish("k", late) == {"key": "k", **first}
    assert ledger.result("k") == {"key": "k", **first}
    assert ledger.summaries(["k", "l"]) == {"k": {"key": "k", "metrics": first["metrics"]}}
    ledger.publish_finding("k", "l", {"metrics": {"a": 1.0}})
    ledger.publish_finding("k", "l", {"metrics": {"a": 2.0}})
    found = ledger.complete("k", {"probe": "l"})
    assert found is not None
    assert found["metrics"] == {"a": 1.0, "probe/a": 1.0}
    for name in ("result", "look-l"):
        storage.write(f"trials/k/{name}.json", b"{")
    ledger.publish("k", late)
    ledger.publish_finding("k", "l", {"metrics": {"a": 2.0}})
    found = ledger.complete("k", {"probe": "l"})
    assert found is not None
    assert found["metrics"] == {"a": 2.0, "probe/a": 2.0}


def test_folders_are_listed_by_their_content(storage: Storage) -> None:
    for name in (
        "trials/a/result.json",
        "trials/b/failure.json",
        "trials/c/result.json",
        "trials/c/x/result.json",
    ):
        storage.write(name, b"1234")
    assert storage.names("trials") == ["a", "b", "c"]
    assert storage.names("trials/c") == ["result.json", "x"]
    assert storage.holders("trials", "result.json") == {"a", "c"}
    found = storage.files("trials/c")
    assert {name: kept.bytes for name, kept in found.items()} == {"result.json": 4, "x/result.json": 4}
    assert all(kept.changed is not None and abs(kept.changed - time.time()) < 600 for kept in found.values())
    assert (storage.names("nowhere"), storage.holders("nowhere", "x"), storage.files("nowhere")) == (
        [],
        set(),
        {},
    )


def test_only_files_are_present(storage: Storage) -> None:
    storage.write("trials/a/result.json", b"1")
    present = storage.presence("trials")
    assert present("trials/a/result.json")
    assert not any(map(present, ("trials/a", "trials/a/result", "trials/b/result.json")))
    assert not storage.presence("nowhere")("nowhere/a")


def test_names_with_a_common_prefix_are_distinct(storage: Storage) -> None:
    storage.write("data/a/record.json", b"1")
    storage.write("data/ab/record.json", b"2")
    assert list(storage.files("data/a")) == ["record.json"]
    assert storage.remove_all("data/a")
    assert storage.names("data") == ["ab"]


def test_a_folder_is_removed_with_its_content(storage: Storage) -> None:
    for name in ("data/a/record.json", "data/a/data.arrow", "checkpoints/b.pt"):
        storage.write(name, b"1")
    assert storage.remove_all("data/a")
    assert storage.remove_all("checkpoints/b.pt")
    assert not storage.remove_all("data/a")
    assert (storage.names("data"), storage.names("checkpoints")) == ([], [])


def test_files_are_uploaded_and_downloaded(storage: Storage, tmp_path: Path) -> None:
    data = os.urandom(3 * 2**20)
    (tmp_path / "there").write_bytes(data)
    storage.upload(tmp_path / "there", "data/a/data.arrow")
    assert storage.download("data/a/data.arrow", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert not storage.download("data/a/nothing", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_storage_uses_its_own_clock(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.time()
    if not storage.where.startswith("memory"):  # which is this process's own
        monkeypatch.setattr(time, "time", lambda: before + 1e6)
    assert abs(storage.now() - before) < 600
    assert storage.files("tmp") == {}


def test_tidying_keeps_files_being_written_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, long_ago = FolderStorage(tmp_path), time.time() - 3 * 86_400
    left = {
        f"{this_process()}.a.tmp": long_ago,  # this process lives, however long it writes
        "0123abcd-7.b.tmp": time.time(),  # of another machine
        "0123abcd-7.c.tmp": long_ago,
        f"{this_process().partition('-')[0]}-{2**22 + 1}.d.tmp": time.time(),  # there is no such process
    }
    (tmp_path / "tmp").mkdir()
    for name, when in left.items():
        (tmp_path / "tmp" / name).touch()
        os.utime(tmp_path / "tmp" / name, (when, when))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)  # this machine's clock jumps
    storage.tidy()
    assert storage.names("tmp") == sorted(list(left)[:2])


def test_many_failures_are_read_in_one_call(storage: Storage) -> None:
    for i in range(40):
        storage.write(f"trials/{i}/failure.json", b'{"key": "%d", "error": "", "attempts": 1}' % i)
    storage.write("trials/41/failure.json", b'{"key"')
    ledger = Ledger(storage.where)
    found = ledger.failures(str(i) for i in range(42))
    assert set(found) == {str(i) for i in range(40)}
    assert found["7"] == {"key": "7", "error": "", "attempts": 1}
    assert list(ledger.damaged) == ["trials/41/failure.json"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("s3:/bucket", "s3:/bucket is neither a path nor a URL; write s3://bucket"),
        ("nope://bucket", "nope://bucket cannot be opened: Protocol not known"),
    ],
)
def test_an_invalid_location_is_an_error(where: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_storage(where)


def test_the_error_for_a_missing_library_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setitem(sys.modules, "gcsfs", None)  # what Python does for a package that is not there
    fsspec.registry.get("gs")
    with pytest.raises(InputError, match="pip install gcsfs"):
        open_storage("gs://bucket")


def test_a_path_is_a_folder_and_a_url_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for where in ("store", "./store", f"file://{tmp_path}/store", tmp_path / "store", "~/store"):
        storage = open_storage(where)
        assert isinstance(storage, FolderStorage)
        assert storage.where == str(local_folder(where)) == str(tmp_path / "store")
    assert as_url("s3://a/b/") == "s3://a/b"
    assert local_folder("s3://a/b").parent == tmp_path / ".cache" / "opsctl"
    assert local_folder("s3://a/b") != local_folder("s3://a-b")


def test_a_missing_bucket_is_an_error_and_not_empty(bucket: str) -> None:
    storage = open_storage(f"{bucket}-not/x")
    for read_or_write in (
        lambda: storage.read("a"),
        lambda: storage.names("a"),
        lambda: storage.write("a", b""),
    ):
        with pytest.raises(OSError, match=f"{bucket}-not/x: .*bucket"):
            read_or_write()


def test_a_prefix_without_permission_is_an_error_and_not_empty(narrow_bucket: str) -> None:
    """A role for one store has no access to others in its bucket."""
    other = open_storage(f"{narrow_bucket}/other")
    with pytest.raises(OSError, match="other"):
        other.names("trials")
    with pytest.raises(OSError, match="other"):
        other.read("trials/x/result.json")


def test_an_unreachable_server_soon_gives_an_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.free_port()}")
    S3FileSystem.clear_instance_cache()
    start = time.monotonic()
    with pytest.raises(OSError, match=r"Could not connect|connect"):
        open_storage(bucket).read("a")
    assert time.monotonic() - start < 60


def test_reading_a_folder_imports_no_fsspec() -> None:
    assert not loaded("from orchestrator.storage.ledger import Ledger\nLedger('.').done()") & {
        "fsspec",
        "torch",
        "s3fs",
    }


def test_a_symbolic_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    storage = FolderStorage(tmp_path / "store")
    (storage.root / "data").mkdir(parents=True)
    (storage.root / "data" / "a").symlink_to(secret)
    assert storage.read("data/a") is None
    assert not storage.download("data/a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert storage.remove_all("data/a")
    assert secret.read_text() == "of this machine"
