"""The store that a user names: a folder, or a URL with this node's copy of it.

$OPSCTL_CACHE (default: ~/.cache/opsctl) holds the copies, each with at most $OPSCTL_CACHE_GB (default: 50) of
data sets and imported perturbations.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from orchestrator.depots.depot import DepotError, as_url, local_folder, open_depot
from poisons import Store
from trainers import InputError

BOUND = "OPSCTL_CACHE_GB"


def open_store(where: str | Path) -> Store:
    """The store at a path or an fsspec URL, made if it is not there. `open_store(store.where)` opens the same
    one on another machine. InputError if it cannot be."""
    try:
        if as_url(where) is None:
            return Store(local_folder(where))
        depot = open_depot(where)
    except DepotError as error:
        raise InputError(str(error)) from None
    return Store(local_folder(where), depot, depot.where, bound=_bound())


def _bound() -> int:
    text = os.environ.get(BOUND) or "50"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise InputError(f"{BOUND}={text} is no size: write gigabytes, such as {BOUND}=50")
    return int(gigabytes * 1e9)
