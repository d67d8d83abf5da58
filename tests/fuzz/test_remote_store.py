"""Anyone with write access to a bucket can change its records and files: a machine that reads them writes only
inside its own cache, and uses only the bytes that a record was published with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.stores import open_store
from poisons import DataSpec
from poisons.durable import StoreError
from poisons.store.cached import CachedStore
from tests.fuzz.hostile import changed_bytes, changed_json, examples
from trainers import InputError

CLEAN = DataSpec.parse({"limit": 20}, "test").pinned()


def below(folder: Path, *, without: Path) -> dict[Path, bytes]:
    """The files of a folder, except those of another."""
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file() and not f.is_relative_to(without)}


def test_a_malicious_bucket_cannot_write_outside_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("OPSCTL_CACHE", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "canary").write_bytes(b"whole")
    where = f"memory://{tmp_path.name}/fuzz"
    store = open_store(where)
    whole = store.ensure(CLEAN).x.clone()
    assert isinstance(store, CachedStore)
    remote = store.remote
    names = sorted(remote.files(f"data/{CLEAN.name}"))  # type: ignore[attr-defined]
    kept = {name: remote.read(f"data/{CLEAN.name}/{name}") or b"" for name in names}
    assert len(kept) == 2
    outside = below(tmp_path, without=cache)

    @given(st.data())
    @examples(150)
    def check(data: st.DataObject) -> None:
        for name, content in kept.items():
            remote.write(f"data/{CLEAN.name}/{name}", content)
        name = data.draw(st.sampled_from(names))
        how = changed_json if name.endswith(".json") and data.draw(st.booleans()) else changed_bytes
        remote.write(f"data/{CLEAN.name}/{name}", data.draw(how(kept[name])))
        shutil.rmtree(store.root)
        again = open_store(where)
        try:
            loaded = again.load(CLEAN)
            assert loaded is None or torch.equal(loaded.x, whole)
            again.records()
            again.having([CLEAN])
        except (InputError, StoreError):
            pass
        assert below(tmp_path, without=cache) == outside

    check()
