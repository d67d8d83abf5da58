"""The store that a user names: a folder, or a URL with a local cache on each node.

$OPSCTL_CACHE (default: ~/.cache/opsctl) contains the caches, each with at most $OPSCTL_CACHE_GB (default: 50)
of data sets and imported perturbations.
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from orchestrator.storage.heartbeats import STALE_SECONDS, shows
from orchestrator.storage.locations import as_url, local_folder, open_storage
from orchestrator.storage.storage import FolderStorage, Storage
from poisons import Store
from poisons.durable import StoreError
from poisons.store.cached import CachedStore
from trainers import InputError

BOUND = "OPSCTL_CACHE_GB"


def open_store(where: str | Path) -> Store:
    """The store at a path or an fsspec URL, created if need be. `open_store(store.where)` opens the same
    store on another machine. InputError if it cannot be used, StoreError if it does not answer."""
    if as_url(where) is None:
        return Store(local_folder(where))
    storage = open_storage(where)
    return CachedStore(local_folder(where), storage, storage.where, bound=_bound())


def open_driven(where: str, driver: str, *, patience: float = STALE_SECONDS) -> Store:
    """The store of a driver, opened by one of its workers, perhaps on another machine. InputError if
    `where` is another store on this machine: the driver would not see what is published there. StoreError
    if it does not answer."""
    storage = open_storage(where)
    try:
        same = shows(storage, driver, patience=patience)
    except OSError as error:
        raise StoreError(f"the store {where} does not answer on {platform.node()}: {error}") from error
    if not same:  # refused before anything is created there
        raise InputError(
            f"{where} on {platform.node()} is not the store of the driver: it lacks the heartbeat of {driver}"
            "; name a store that all machines share, --store s3://bucket/prefix or a folder on a shared disk"
        )
    return open_store(where)


def storage_of(store: Store) -> Storage:
    """The storage of a store: its folder, or what it is a cache of."""
    if not isinstance(store, CachedStore):
        return FolderStorage(store.root)
    assert isinstance(store.remote, Storage), "open_store opened it"
    return store.remote


def _bound() -> int:
    text = os.environ.get(BOUND) or "50"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise InputError(f"{BOUND}={text} is no size: write gigabytes, such as {BOUND}=50")
    return int(gigabytes * 1e9)
