"""Checks of what this machine has and lacks for running sweeps."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import poisons  # noqa: F401  (its members join their families)
from orchestrator.storage.stores import open_store, storage_of
from poisons.sources.base import Source
from poisons.store.cached import CachedStore
from trainers import InputError
from trainers.numerical_platform import cpu_isa, cpu_model
from trainers.provenance import OPTIONAL, PACKAGES, commit, installed, opsctl_version
from trainers.recipe import native_bfloat16


@dataclass(frozen=True)
class Finding:
    """The result of one check. `missing`: some command will not work without it."""

    what: str
    state: Literal["ok", "note", "missing"]
    text: str


def findings(store: str | Path) -> Iterator[Finding]:
    """Check everything that matters before a long sweep. Changes nothing, except that it creates a missing
    store."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    found = opsctl_version()
    yield Finding("opsctl", "ok" if found else "note", found or "run from its source, not installed")
    for name in PACKAGES:
        found = installed(name)
        yield Finding(name, "ok" if found else "missing", found or f"not installed: pip install {name}")
    for name in OPTIONAL:
        found = installed(name)
        yield Finding(name, "ok" if found else "note", found or f"for auto_attack: pip install {name}")
    yield Finding(
        "commit",
        "ok" if commit() else "note",
        commit() or "not a git checkout: results will not name a commit",
    )
    yield Finding(
        "processors",
        "ok",
        f"{os.cpu_count()} of {cpu_model()}, {cpu_isa()}; "
        f"bfloat16 {'native' if native_bfloat16(torch.device('cpu')) else 'perhaps slow'}",
    )
    yield from _gpus()
    yield from _space(store)
    yield from _sources()


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding(
            "gpu", "note", "none: trainings run on the CPU; keep networks narrow or data sets small"
        )
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield Finding(f"gpu {i}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _space(where: str | Path) -> Iterator[Finding]:
    try:
        store = open_store(where)
        storage = storage_of(store)
        data, trials = (len(storage.names(name)) for name in ("data", "trials"))
    except (InputError, OSError) as error:
        yield Finding("store", "missing", str(error))
        return
    root = store.root
    yield Finding("store", "ok", f"{store.where}: {data} data sets, {trials} trials")
    if isinstance(store, CachedStore):
        yield Finding("this node's copy", "ok", str(root))
    for what, place in (("disk", root), ("temporary disk", Path("/tmp"))):
        if place.exists():
            free = shutil.disk_usage(place).free / 2**30
            yield Finding(what, "ok" if free > 10 else "note", f"{free:.0f} GiB free at {place}")


def _sources() -> Iterator[Finding]:
    for kind, member in sorted(Source.registry.items()):
        if any(field.is_required() for field in member.model_fields.values()):
            continue  # a source that needs the path of its images
        source = Source.model_validate(kind)
        try:
            there = source.present()
        except InputError as error:
            yield Finding(f"data {kind}", "missing", str(error))
        else:
            yield Finding(
                f"data {kind}",
                "ok" if there else "note",
                "here" if there else "will be downloaded on first use",
            )
