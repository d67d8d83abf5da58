"""Two nodes that build one folder at once end with the same bytes, and a node's cache is bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orchestrator.storage.storage import FolderStorage
from poisons import DataSpec, Store
from poisons.durable import stamp, write_whole
from poisons.store.cached import CachedStore
from poisons.store.local_cache import LocalCache
from trainers.stored import OBJECT

CLEAN = DataSpec.parse({"limit": 50}, "test").pinned()


class Meanwhile(FolderStorage):
    """Remote storage on which something else happens between a node's last file and its record."""

    then: Callable[[], object] | None = None

    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        if self.then is not None and name.endswith("/record.json"):
            now, self.then = self.then, None
            now()
        return super().create(name, data, lasting=lasting)


def build(root: Path, name: str, data: bytes) -> None:
    """A folder as a node builds it."""
    folder = root / name
    folder.mkdir(parents=True)
    (root / "locks").mkdir(exist_ok=True)
    (folder / "perturbation.arrow").write_bytes(data)
    write_whole(folder / "record.json", {"file": stamp(folder / "perturbation.arrow")})


def change_pixel(store: Store) -> None:
    """Change a pixel of a data set, as a builder does that does not repeat bit for bit."""
    file, record = store.path(CLEAN) / "data.arrow", store.path(CLEAN) / "record.json"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    file.write_bytes(data)
    found = store.record(CLEAN)
    assert found is not None
    write_whole(record, found | {"files": {"data.arrow": stamp(file)}})


def test_a_record_without_modification_times_is_accepted(tmp_path: Path) -> None:
    remote = FolderStorage(tmp_path / "remote")
    one, other = (LocalCache(tmp_path / name, remote) for name in "ab")
    build(tmp_path / "a", "imports/x", b"a")
    assert one.push("imports/x")
    record = OBJECT.read(remote.read("imports/x/record.json") or b"")
    del record["file"]["mtime_ns"]
    remote.write("imports/x/record.json", json.dumps(record).encode())
    assert other.pull("imports/x")
    assert (tmp_path / "b/imports/x/perturbation.arrow").read_bytes() == b"a"


@pytest.mark.parametrize("last", ["a", "b"])
def test_when_two_nodes_push_different_bytes_the_first_record_wins(tmp_path: Path, last: str) -> None:
    remote = Meanwhile(tmp_path / "remote")
    nodes = {name: LocalCache(tmp_path / name, remote) for name in "abc"}
    for name in "ab":
        build(tmp_path / name, "imports/x", name.encode())
    first = "b" if last == "a" else "a"
    remote.then = lambda: nodes[first].push("imports/x")
    assert not nodes[last].push("imports/x"), "another node was first"
    assert not (tmp_path / last / "imports/x").exists(), "bytes that only this node has are not used"
    assert nodes[first].push("imports/x")
    assert nodes["c"].pull("imports/x")
    assert nodes[last].pull("imports/x")
    for name in "abc":
        assert (tmp_path / name / "imports/x/perturbation.arrow").read_bytes() == first.encode()
    assert len(remote.names("imports/x")) == 2, "nothing of the loser is left"


def test_a_record_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    remote = FolderStorage(tmp_path / "remote")
    build(tmp_path / "a", "imports/x", b"a")
    remote.write("imports/x/record.json", b"{")
    assert LocalCache(tmp_path / "a", remote).push("imports/x")
    (tmp_path / "b" / "locks").mkdir(parents=True)
    assert LocalCache(tmp_path / "b", remote).pull("imports/x")


def test_a_node_whose_bytes_differ_takes_the_remote_ones(tmp_path: Path) -> None:
    remote = FolderStorage(tmp_path / "remote")
    for name in "ab":
        Store(tmp_path / name).ensure(CLEAN)  # both on their own, while the network was down
    change_pixel(Store(tmp_path / "b"))
    first = CachedStore(tmp_path / "a", remote, "there").ensure(CLEAN)
    other = Store(tmp_path / "b").load(CLEAN)
    assert other is not None
    assert not torch.equal(other.x, first.x)
    second = CachedStore(tmp_path / "b", remote, "there").ensure(CLEAN)
    assert torch.equal(second.x, first.x)


def test_imports_count_against_the_bound_and_the_least_recently_used_are_evicted(tmp_path: Path) -> None:
    remote = FolderStorage(tmp_path / "remote")
    names = [f"imports/{i}" for i in range(3)]
    for name in names:
        build(tmp_path / "a", name, bytes(1000))
        LocalCache(tmp_path / "a", remote).push(name)
    (tmp_path / "b" / "locks").mkdir(parents=True)
    node = LocalCache(tmp_path / "b", remote, bound=2500)
    for second, name in enumerate(names[:2]):
        node.pull(name)
        os.utime(tmp_path / "b" / name / "record.json", (second, second))
    with node.held(names[0]):
        node.pull(names[2])
    left = {f"imports/{folder.name}" for folder in (tmp_path / "b" / "imports").iterdir()}
    assert left == {names[0], names[2]}, "the one in use stays, although it was pulled first"
