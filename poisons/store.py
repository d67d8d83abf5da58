"""The store of data sets: content-addressed, published whole or not at all, verified on opening.

`<root>/data/<name>-<key>/` holds `data.arrow` and, beside it, `record.json`, which says what the bytes are
and how they came about.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pydantic import PositiveInt, field_validator, model_validator

from poisons import arrow
from poisons.base import Poison, Report
from poisons.clean import Clean
from poisons.sources.base import Source, Split
from poisons.sources.digits import Digits
from trainers.images import Images
from trainers.provenance import environment
from trainers.spec import InputError, Spec, plain

CPU = torch.device("cpu")
FORMAT = 1  # of the store's layout; a store with a higher number is left alone


class DataSpec(Spec):
    """One data set: a source, of it a class-balanced subset of `limit` images, poisoned by one poison or a
    chain of them.

    Every poison of a chain is crafted from the clean images; they are applied in the order given.
    """

    source: Source = Digits()
    split: Split = "train"
    poison: tuple[Poison, ...] = (Clean(),)
    limit: PositiveInt | None = None
    seed: int = 0

    @field_validator("poison", mode="before")
    @classmethod
    def _one_is_a_chain(cls, value: Any) -> Any:
        return value if isinstance(value, tuple | list) else (value,)

    @model_validator(mode="after")
    def _sensible(self) -> DataSpec:
        kinds = [poison.kind for poison in self.poison]
        if not kinds or (len(kinds) > 1 and "clean" in kinds):
            raise ValueError("`poison` is one poison or a chain of them; `clean` stands alone")
        if self.split == "test" and kinds != ["clean"]:
            raise ValueError("test images are never poisoned: use `split: train`")
        return self

    @property
    def name(self) -> str:
        """The folder's name: readable words, then the key."""
        return "-".join([self.source.kind, *(poison.kind for poison in self.poison), self.split, self.key])

    @property
    def parents(self) -> tuple[DataSpec, ...]:
        """The data sets that this one is made from: the clean images, and the chain up to the last poison."""
        if self.poison == (Clean(),):
            return ()
        clean = self.model_copy(update={"poison": (Clean(),), "seed": 0})
        before = self.model_copy(update={"poison": self.poison[:-1]}) if len(self.poison) > 1 else clean
        return (clean,) if before == clean else (clean, before)

    def pinned(self) -> DataSpec:
        """The same with its source's fingerprint filled in, which gives it a key."""
        return self.model_copy(update={"source": self.source.pinned()})

    def _tells(self, name: str, value: Any) -> bool:
        return name == "source" or super()._tells(name, value)  # which bytes it is, the default does not say


class Store:
    """Data sets under `root`. Any number of processes may read and build at once; one key is built once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        try:
            (self.root / "data").mkdir(parents=True, exist_ok=True)
            (self.root / "locks").mkdir(exist_ok=True)
            mark = self.root / "store.json"
            if not mark.exists():
                write_whole(mark, {"format": FORMAT})
            found = json.loads(mark.read_text())["format"]
        except OSError as error:
            raise InputError(
                f"the store {self.root} cannot be written ({error}); choose another with --store"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.root / 'store.json'} is not a store's mark; is {self.root} a store?"
            ) from None
        if found > FORMAT:
            raise InputError(
                f"the store {self.root} has format {found}, this opsctl knows {FORMAT}: "
                "upgrade opsctl, or choose another store with --store"
            )

    def path(self, spec: DataSpec) -> Path:
        return self.root / "data" / spec.name

    def has(self, spec: DataSpec) -> bool:
        """Whether the data set is there and has its size; its bytes are not read."""
        record = self.record(spec)
        file = self.path(spec) / "data.arrow"
        return record is not None and file.exists() and file.stat().st_size == record["bytes"]

    def record(self, spec: DataSpec) -> dict[str, Any] | None:
        """The record beside the bytes, or None if there is no data set (or what is there is no record, or the
        bytes are laid out as an older opsctl did)."""
        try:
            record = json.loads((self.path(spec) / "record.json").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        known = isinstance(record, dict) and record.get("layout") == arrow.LAYOUT
        return record if known and "sha256" in record and "bytes" in record else None

    def load(self, spec: DataSpec) -> Images | None:
        """The images, or None if they are not there or their bytes are not those of the record."""
        record, file = self.record(spec), self.path(spec) / "data.arrow"
        try:
            return arrow.read(file) if record is not None and sha256(file) == record["sha256"] else None
        except FileNotFoundError:
            return None

    def ensure(
        self, spec: DataSpec, *, device: torch.device = CPU, report: Report = lambda _: None
    ) -> Images:
        """The images, built if they are not there (or not what they were), together with what they are made
        from.

        Builders of one key take turns, and all but the first find it done. A build that is killed leaves at
        most a folder `*.tmp`, which the next build of that key removes.
        """
        if (images := self.load(spec)) is not None:
            return images
        with FileLock(self.root / "locks" / f"data-{spec.key}.lock"):
            if (images := self.load(spec)) is not None:
                return images
            self._quarantine(self.path(spec))
            start = time.monotonic()
            images, index, facts = self._make(spec, device, report)
            seconds = round(time.monotonic() - start, 3)
            self._publish(spec, images, index, {"facts": facts, "seconds": seconds, "device": str(device)})
            return images

    def _make(
        self, spec: DataSpec, device: torch.device, report: Report
    ) -> tuple[Images, torch.Tensor, dict[str, Any]]:
        if not spec.parents:
            whole = spec.source.pinned().load(spec.split)  # the bytes are still those that the key names
            index = whole.balanced(spec.limit)
            return whole.take(index), index, {}
        clean, *rest = (self.ensure(parent, device=device, report=report) for parent in spec.parents)
        before = rest[0] if rest else clean
        index = arrow.read_index(self.path(spec.parents[0]) / "data.arrow")
        poison = spec.poison[-1]
        perturbation = poison.craft(clean, seed=spec.seed, device=device, report=report)
        return perturbation.apply(before), index, {poison.kind: perturbation.facts()}

    def _publish(self, spec: DataSpec, images: Images, index: torch.Tensor, told: dict[str, Any]) -> None:
        final = self.path(spec)
        temporary = final.with_name(final.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # ours alone: the lock is held
        try:
            temporary.mkdir()
            file = temporary / "data.arrow"
            arrow.write(file, images, index)
            _flush(file)
            if not torch.equal(arrow.read(file).x, images.x.cpu()):
                raise OSError(f"{file} does not read back as it was written")
            record = {
                "key": spec.key,
                "spec": plain(spec),
                "layout": arrow.LAYOUT,
                "sha256": sha256(file),
                "bytes": file.stat().st_size,
                "images": len(images),
                "shape": list(images.shape),
                "num_classes": images.num_classes,
                **told,
                "environment": environment(),
            }
            write_whole(temporary / "record.json", record)
            # on a file system without locks another builder may have come first: its bytes are as good
            if not final.exists():
                os.rename(temporary, final)
                _flush(final.parent)
        except OSError as error:
            free = shutil.disk_usage(self.root).free
            raise StoreError(
                f"{final} could not be written ({error}); it needs about {images.x.numel() / 1e6:.0f} MB, "
                f"{free / 1e6:.0f} MB are free"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _quarantine(self, folder: Path) -> None:
        """Put a damaged data set aside, if there is one; the lock of its key is held."""
        if folder.exists():
            (self.root / "quarantine").mkdir(exist_ok=True)
            os.rename(folder, self.root / "quarantine" / f"{folder.name}-{time.time_ns()}")


class StoreError(OSError):
    """The store could not take a file; nothing half-written is left."""


def write_whole(path: Path, value: Any) -> None:
    """Write JSON so that `path` appears whole or not at all, and stays after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False))
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have a file's bytes, or a folder's entries, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(file: Path) -> str:
    """The digest of a file's bytes, read once per process for each (path, size, time of change)."""
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _sha256(file: Path, *_: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
