"""Two nodes that build one folder at once end with the same bytes; what a node holds is bounded."""

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
from poisons.store.local_cache import NodeCopy
from trainers.stored import OBJECT

CLEAN = DataSpec.parse({"limit": 50}, "test").pinned()


class Meanwhile(FolderStorage):
    """A shelf on which something else happens between a node's last file and its record."""

    then: Callable[[], object] | None = None

    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        if self.then is not None and name.endswith("/record.json"):
            now, self.then = self.then, None
            now()
        return super().create(name, data, lasting=lasting)


def made(root: Path, name: str, data: bytes) -> None:
    """A folder as a node builds it."""
    folder = root / name
    folder.mkdir(parents=True)
    (root / "locks").mkdir(exist_ok=True)
    (folder / "perturbation.arrow").write_bytes(data)
    write_whole(folder / "record.json", {"file": stamp(folder / "perturbation.arrow")})


def differ(store: Store) -> None:
    """Have other pixels in a data set, as a builder has that does not repeat bit for bit."""
    file, record = store.path(CLEAN) / "data.arrow", store.path(CLEAN) / "record.json"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    file.write_bytes(data)
    told = store.record(CLEAN)
    assert told is not None
    write_whole(record, told | {"files": {"data.arrow": stamp(file)}})


def test_a_record_need_not_tell_when_its_files_were_written(tmp_path: Path) -> None:
    shelf = FolderStorage(tmp_path / "shelf")
    one, other = (NodeCopy(tmp_path / name, shelf) for name in "ab")
    made(tmp_path / "a", "imports/x", b"a")
    assert one.push("imports/x")
    record = OBJECT.read(shelf.read("imports/x/record.json") or b"")
    del record["file"]["mtime_ns"]
    shelf.write("imports/x/record.json", json.dumps(record).encode())
    assert other.pull("imports/x")
    assert (tmp_path / "b/imports/x/perturbation.arrow").read_bytes() == b"a"


@pytest.mark.parametrize("last", ["a", "b"])
def test_of_two_who_push_other_bytes_the_first_record_stays_with_its_bytes(tmp_path: Path, last: str) -> None:
    shelf = Meanwhile(tmp_path / "shelf")
    nodes = {name: NodeCopy(tmp_path / name, shelf) for name in "abc"}
    for name in "ab":
        made(tmp_path / name, "imports/x", name.encode())
    first = "b" if last == "a" else "a"
    shelf.then = lambda: nodes[first].push("imports/x")
    assert not nodes[last].push("imports/x"), "another came first"
    assert not (tmp_path / last / "imports/x").exists(), "what nobody else has is not used"
    assert nodes[first].push("imports/x")
    assert nodes["c"].pull("imports/x")
    assert nodes[last].pull("imports/x")
    for name in "abc":
        assert (tmp_path / name / "imports/x/perturbation.arrow").read_bytes() == first.encode()
    assert len(shelf.names("imports/x")) == 2, "nothing of the other is left"


def test_a_record_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    shelf = FolderStorage(tmp_path / "shelf")
    made(tmp_path / "a", "imports/x", b"a")
    shelf.write("imports/x/record.json", b"{")
    assert NodeCopy(tmp_path / "a", shelf).push("imports/x")
    (tmp_path / "b" / "locks").mkdir(parents=True)
    assert NodeCopy(tmp_path / "b", shelf).pull("imports/x")


def test_a_node_whose_bytes_are_not_those_of_the_shelf_takes_these(tmp_path: Path) -> None:
    shelf = FolderStorage(tmp_path / "shelf")
    for name in "ab":
        Store(tmp_path / name).ensure(CLEAN)  # both on their own, when the line was down
    differ(Store(tmp_path / "b"))
    first = Store(tmp_path / "a", shelf, "there").ensure(CLEAN)
    other = Store(tmp_path / "b").load(CLEAN)
    assert other is not None
    assert not torch.equal(other.x, first.x)
    second = Store(tmp_path / "b", shelf, "there").ensure(CLEAN)
    assert torch.equal(second.x, first.x)


def test_imports_count_against_the_bound_and_go_when_they_are_not_used(tmp_path: Path) -> None:
    shelf = FolderStorage(tmp_path / "shelf")
    names = [f"imports/{i}" for i in range(3)]
    for name in names:
        made(tmp_path / "a", name, bytes(1000))
        NodeCopy(tmp_path / "a", shelf).push(name)
    (tmp_path / "b" / "locks").mkdir(parents=True)
    node = NodeCopy(tmp_path / "b", shelf, bound=2500)
    for second, name in enumerate(names[:2]):
        node.pull(name)
        os.utime(tmp_path / "b" / name / "record.json", (second, second))
    with node.held(names[0]):
        node.pull(names[2])
    left = {f"imports/{folder.name}" for folder in (tmp_path / "b" / "imports").iterdir()}
    assert left == {names[0], names[2]}, "the one that is held stays, though it was pulled first"
