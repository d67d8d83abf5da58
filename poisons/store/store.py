"""The store of data sets: content-addressed, published whole or not at all, verified by digests.

`<root>/data/<name>-<key>/` holds `data.arrow`, the crafted perturbation as `perturbation-<i>.arrow`, and
`record.json`, which describes the bytes and how they were made. Machines that share no folder share remote
storage: see cached.py.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from filelock import FileLock
from torch import Tensor

from poisons import arrow
from poisons.base import CraftContext, Perturbation, Tensors
from poisons.data_spec import DataSpec, check_transfer
from poisons.durable import StoreError as StoreError
from poisons.durable import (
    create_whole,
    flush,
    has_size,
    intact,
    put_aside,
    stamp,
    unchanged,
    write_whole,
)
from poisons.exchange.card import Tally
from poisons.exchange.importing import store_import
from poisons.methods.clean import Identity
from poisons.perturbations.chain import Chain
from poisons.perturbations.delta import Delta
from poisons.records import (
    DATA,
    IMPORT,
    IMPORT_FILE,
    LAYOUT,
    RECORD,
    STAMP,
    STORE,
    data_record,
    folder_record,
)
from poisons.store.build import Part, by_kind, open_source, poison, read_source
from poisons.store.heap import large_blocks_go_back
from poisons.store.restore import held_out, perturbation_left, restored_parts
from trainers.checkpoint import Checkpoint
from trainers.images import Extent, Images
from trainers.numerical_platform import arithmetic_mark, numerical_platform
from trainers.provenance import environment
from trainers.redaction import redacted_data
from trainers.restoration import RestorationContext
from trainers.spec import InputError, import_members, plain
from trainers.stored import DamagedError, read_regular

CPU = torch.device("cpu")
ABOUT_SOURCE = ("class_names", "skipped", "notes")  # fields of a record that describe the source
REBUILT = "the next sweep that needs it builds it again"
FORMAT = 1  # of the store's layout; a store with a higher number is refused


class Store:
    """Data sets under `root`. Any number of processes may read and build at once; one key is built once."""

    shares_locks: ClassVar[bool] = True  # whether the locks under `root` are those of all who write to it

    def __init__(self, root: Path | str, *, where: str | None = None) -> None:
        """`where` is the address that opens the same store on another machine (default: the path of `root`).
        InputError if it is no opsctl store, StoreError if it cannot be written."""
        if re.match("[a-z][a-z0-9+.-]+:/", str(root)):
            raise InputError(f"{root} is no folder; for a store at a URL use opsctl --store")
        self.root = Path(root).expanduser().absolute()
        self.where = where or str(self.root)
        try:
            self._create()
        except OSError as error:
            raise StoreError(
                f"the store {self.where} cannot be written ({error}); choose another with --store"
            ) from error

    def _create(self) -> None:
        """Create the store unless it exists."""
        (self.root / "data").mkdir(parents=True, exist_ok=True)
        (self.root / "locks").mkdir(exist_ok=True)
        if not (self.root / "store.json").exists():
            create_whole(self.root / "store.json", {"format": FORMAT})
        check_format(read_regular(self.root / "store.json", STORE.limit), str(self.root))

    def path(self, spec: DataSpec) -> Path:
        return self.root / "data" / spec.name

    def lock(self, spec: DataSpec) -> FileLock:
        """Held while a data set is built or removed."""
        return FileLock(self.root / "locks" / f"data-{spec.key}.lock")

    def record(self, spec: DataSpec) -> dict[str, Any] | None:
        """The record beside the bytes, or None if there is no data set, its record is damaged, or an older
        opsctl laid it out."""
        return read_record(self.path(spec))

    def records(self) -> dict[str, dict[str, Any]]:
        """The records of all data sets, by name."""
        found = {name: known(name, data) for name, data in self._record_bytes("data", DATA.limit)}
        return {name: record for name, record in found.items() if record is not None}

    def damaged_records(self) -> dict[str, str]:
        """Folders of data sets and imports whose record is damaged, such as `data/<name>`, with the reason.
        They count as missing. A record that an older opsctl wrote is not damaged."""
        found = {}
        for kind, limit in (("data", DATA.limit), ("imports", IMPORT.limit)):
            for name, data in self._record_bytes(kind, limit):
                try:
                    if data is None:
                        raise DamagedError(f"it has no {RECORD}")
                    _check_settings(name, folder_record(f"{kind}/{name}", data))
                except DamagedError as error:
                    found[f"{kind}/{name}"] = str(error)
        return found

    def _record_bytes(self, kind: str, limit: int) -> Iterator[tuple[str, bytes | None]]:
        """The bytes of each record in `data` or `imports`."""
        folders = (f for f in sorted((self.root / kind).glob("[!.]*")) if f.suffix != ".tmp")
        yield from ((folder.name, read_regular(folder / RECORD, limit)) for folder in folders)

    def has(self, spec: DataSpec) -> bool:
        """Whether the data set is there for everyone who shares the store, with files of the right size. No
        bytes are read; of remote storage only the record is."""
        return bool(self.having([spec]))

    def having(self, specs: Iterable[DataSpec]) -> frozenset[str]:
        """The names of those data sets that are in the store."""
        return frozenset(spec.name for spec in specs if self._holds(spec, has_size))

    def checkpoint(self, name: str, *, every: float = 60.0, data: str = "") -> Checkpoint:
        """The checkpoint `name`, such as `trials/<key>/checkpoint.pt`, from which a killed training resumes
        on any machine that shares the store. It is saved at most once in `every` seconds; `data` says what
        it was trained on."""
        return Checkpoint(self._checkpoint_file(name), every=every, data=data)

    def _checkpoint_file(self, name: str) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def share(self, name: str) -> None:
        """Give a file under `root`, such as `trials/<key>/weights.pt`, to everyone who shares the store.
        Raises OSError."""

    @contextmanager
    def shared(self, name: str) -> Iterator[Path]:
        """The path of a shared file within the block. There may be no file. Raises OSError."""
        yield self.root / name

    def file_name(self, folder: str, file: str, sha256: str) -> str:
        """The name in storage of a file of a data set, `data/<name>/data.arrow`, with that digest."""
        return f"{folder}/{file}"

    def damage(self, folder: str, stamps: Mapping[str, Any]) -> dict[str, str]:
        """The files of a data set or import, such as those in `data/<name>`, that differ from what was
        written, with the reason. Reads every byte where the store is."""
        return damaged_files(stamps, lambda name: self.root / folder / name)

    def load(self, spec: DataSpec) -> arrow.StoredImages | None:
        """The images as a memory map, or None if they are missing or do not match the record. Only files
        modified since they were written are read to check that. Remote images are downloaded first."""
        if not self._here(spec):
            return None
        try:
            return self._opened(spec)
        except (FileNotFoundError, DamagedError):  # just removed, or no data set
            return None

    def _opened(self, spec: DataSpec) -> arrow.StoredImages:
        """The images of a data set that is here. Raises DamagedError, and OSError."""
        record = read_record(self.path(spec)) or {}
        _check_settings(spec.name, record)
        images = arrow.read_images(self.path(spec) / "data.arrow")
        found = {"images": len(images), "shape": list(images.shape), "num_classes": images.num_classes}
        for name, value in found.items():
            if record.get(name) != value:
                raise DamagedError(f"data.arrow: {name} is {value}, but its record says {record.get(name)}")
        return images

    def _here(self, spec: DataSpec) -> bool:
        """Whether the data set is in this folder, intact."""
        return self._holds(spec, unchanged)

    def _holds(self, spec: DataSpec, fits: Callable[[Path, dict[str, Any]], bool]) -> bool:
        record, folder = read_record(self.path(spec)), self.path(spec)
        return record is not None and all(
            fits(folder / name, file_stamp) for name, file_stamp in record["files"].items()
        )

    def find(self, key: str) -> DataSpec:
        """The data set whose key or folder name begins with `key`. InputError if there is none, or more than
        one."""
        there = self.records()
        found = _named(there, key)
        if not found:
            self._check_not_damaged(key)
        if len(found) != 1:
            what = "no data set" if not found else f"{len(found)} data sets"
            near = [name for name in there if key in name]
            names = ", ".join((found or near or list(there))[:8])
            raise InputError(f"{self.where} has {what} of key {key!r}; there are: {names or 'none'}")
        where = f"{self.where}/data/{found[0]}/{RECORD}"
        try:
            _check_settings(found[0], there[found[0]])
        except DamagedError as error:
            raise InputError(f"{where} is damaged: {error}; {REBUILT}") from None
        return DataSpec.parse(there[found[0]]["spec"], where)

    def _check_not_damaged(self, key: str) -> None:
        """InputError if the record of the data set that `key` names is damaged."""
        broken = {
            n.removeprefix("data/"): why for n, why in self.damaged_records().items() if n[:4] == "data"
        }
        for name in _named(broken, key):
            raise InputError(f"{self.where}/data/{name}/{RECORD} is damaged: {broken[name]}; {REBUILT}")

    def perturbation(self, spec: DataSpec) -> Perturbation:
        """The perturbation of the clean images, before any restoration; for a chain of poisons a Chain.
        InputError if it is not in the store."""
        if not spec.parents:
            return Identity()
        if spec.restored_by is not None:
            return self.perturbation(spec.restored(None))
        if not spec.crafts:
            return Chain(tuple(self.perturbation(crafted) for crafted in spec.crafted))
        if not self._here(spec):
            raise InputError(f"{self.path(spec)} is not there, or damaged: build it first")
        try:
            return self._crafted(spec)
        except (FileNotFoundError, DamagedError) as error:
            raise InputError(f"{self.path(spec)} is damaged ({error}): build it again") from None

    def _crafted(self, spec: DataSpec) -> Perturbation:
        """The perturbation that was crafted for a data set that is here. Raises DamagedError, and OSError."""
        record = read_record(self.path(spec)) or {"files": {}}
        count = sum(name != "data.arrow" for name in record["files"])
        links = []
        for file in (f"perturbation-{i}.arrow" for i in range(count)):
            try:
                links.append(restored(self.path(spec) / file))
            except DamagedError as error:
                raise DamagedError(f"{file}: {error}") from None
        if not links:
            raise DamagedError("it holds no perturbation")
        return links[0] if len(links) == 1 else Chain(tuple(links))

    def _whole(self, spec: DataSpec) -> arrow.StoredImages | None:
        """Like `load`, but None also if the perturbation crafted for it cannot be read."""
        if (images := self.load(spec)) is not None and spec.crafts:
            try:
                self._crafted(spec)
            except (FileNotFoundError, DamagedError):
                return None
        return images

    def ensure(self, spec: DataSpec, context: CraftContext = CraftContext()) -> arrow.StoredImages:
        """The images; built first, with everything they are made from, if they are missing or damaged.

        Builders of one key take turns, and all but the first find it done. A killed build leaves at most a
        folder `*.tmp`, which the next build of that key removes, and the checkpoint that it resumes from.
        """
        images = self._whole(spec)
        if images is not None and self._agrees(spec):
            return images
        with self.lock(spec):
            # it may exist only here: the push failed or is running, or the remote one has other bytes
            while (images := self._whole(spec)) is not None:
                if self._push(f"data/{spec.name}"):
                    return images
            self._put_aside(spec)
            for parent in spec.parents:
                self.ensure(parent, context)
            self._make(spec, context)
            made = self._whole(spec)
        if made is None:
            raise StoreError(f"{self.path(spec)} was modified while it was being written; try again")
        return made

    def add_import(self, delta: Delta, report: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
        """Store an imported perturbation for everyone who shares the store; returns its fingerprint."""
        fingerprint = store_import(self.root, delta, report, origin)
        self._push(f"imports/{fingerprint}")
        return fingerprint

    def _agrees(self, spec: DataSpec) -> bool:
        """Whether everyone who shares the store has the same bytes of a data set that is here."""
        return True

    def _push(self, name: str) -> bool:
        """Publish a folder for everyone who shares the store. False if another one was published before."""
        return True

    def _make(self, spec: DataSpec, context: CraftContext) -> None:
        start = time.monotonic()
        if not spec.parents:
            reading = open_source(spec)
            survey = asdict(spec.source.survey(spec.split))
            about = {"facts": {}, "device": "cpu", "class_names": list(reading.class_names), **survey}
            self._publish(spec, read_source(spec, reading), [], about, start)
            return
        clean = self.ensure(spec.clean)
        record = self.record(spec.clean) or {}
        of_source = {name: fact for name, fact in record.items() if name in ABOUT_SOURCE}
        index = arrow.read_index(clean.file)
        if spec.restoration is not None:
            self._restore(spec, context, clean, of_source, start)
            return
        if not spec.crafts:
            self._check_classes(spec, clean)
            facts = by_kind(spec, [self._facts(crafted) for crafted in spec.crafted])
            parts = poison(spec, clean, index, self.perturbation(spec))
            self._publish(spec, parts, [], {"facts": facts, "device": "cpu", **of_source}, start)
            return
        checkpoint = self.checkpoint(f"checkpoints/data-{spec.key}.pt", data=spec.clean.key)
        own_context = replace(
            context, checkpoint=checkpoint, cache=self._cache(spec.clean), imports=self.root / "imports"
        )
        with self._import_of(spec):
            perturbation = spec.poison[0].craft(clean, seed=spec.seed, context=own_context)
        links = perturbation.flat()
        about = {"facts": by_kind(spec, [perturbation.facts()]), "device": str(context.device), **of_source}
        about["platform"] = numerical_platform(context.device).to_json()
        about |= {"warnings": checkpoint.warnings} if checkpoint.warnings else {}
        self._publish(spec, poison(spec, clean, index, perturbation), links, about, start)
        checkpoint.remove()

    def _restore(
        self,
        spec: DataSpec,
        context: CraftContext,
        clean: arrow.StoredImages,
        of_source: dict[str, Any],
        start: float,
    ) -> None:
        """Build a data set that a defense restores."""
        if spec.restoration is None:
            raise ValueError(f"{spec.name} is restored by nothing")
        before_spec, kind = spec.restored(None), spec.restoration.kind
        before = self.ensure(before_spec)
        checkpoint = self.checkpoint(f"checkpoints/data-{spec.key}.pt", data=before_spec.key)
        kept = self._cache(spec.references or before_spec)
        name = f"{spec.shares}-{arithmetic_mark(context.device)}"

        def cache(_: str, make: Callable[[], Tensor]) -> Tensor:
            return kept(name, lambda: {"weights": make()})["weights"]

        own_context = RestorationContext(context.device, spec.seed, context.report, checkpoint, cache)
        found = spec.restoration.restore(before, self._clean_images(spec, clean), own_context)
        facts = {**found.facts, **perturbation_left(spec, clean, before, found.images)}
        earlier = (self.record(before_spec) or {}).get("facts", {})
        about = {"facts": {**earlier, kind: facts}, "device": str(context.device), **of_source}
        about["platform"] = numerical_platform(context.device).to_json()
        about |= {"warnings": checkpoint.warnings} if checkpoint.warnings else {}
        parts = restored_parts(spec, clean, arrow.read_index(before.file), found.images)
        self._publish(spec, parts, [], about, start)
        checkpoint.remove()

    def _clean_images(self, spec: DataSpec, clean: arrow.StoredImages) -> Images | None:
        """The clean images that the restoration of a data set learns from. InputError if there are too
        few."""
        wanted = None if spec.restoration is None else spec.restoration.clean_images
        if spec.restoration is None or wanted is None or spec.references is None:
            return None
        if wanted.origin == "clean":
            return clean
        larger = self.ensure(spec.references)
        found = held_out(larger, arrow.read_index(larger.file), arrow.read_index(clean.file))
        if len(found) < (wanted.number or 1):
            raise InputError(
                f"{spec.restoration.kind} learns from {wanted.number} images that are not trained on, and "
                f"{len(found)} are left: write a smaller data.limit, or let it learn from others"
            )
        return found

    def _check_classes(self, spec: DataSpec, clean: Images) -> None:
        """InputError if the images that a poison was crafted on have other classes or another shape."""
        for crafted in spec.crafted:
            record = self.record(crafted) or {}
            shape: tuple[int, int, int] = tuple(record["shape"])
            check_transfer(Extent(record["images"], shape, record["num_classes"]), clean.extent)

    def _facts(self, crafted: DataSpec) -> dict[str, Any]:
        record = self.record(crafted) or {}
        return dict(record.get("facts", {}).get(crafted.poison[0].kind, {}))

    def _publish(
        self,
        spec: DataSpec,
        parts: Iterable[Part],
        links: Sequence[Perturbation],
        about: dict[str, Any],
        start: float,
    ) -> None:
        final = self.path(spec)
        temporary = final.with_name(final.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # no other process uses it: the lock is held
        needed = crafted = sum(column.nbytes for link in links for column in link.columns().values())
        try:
            temporary.mkdir()
            for i, link in enumerate(links):
                arrow.write(
                    temporary / f"perturbation-{i}.arrow",
                    link.columns(),
                    {"kind": link.kind, **link.to_json()},
                )
            tally = Tally()
            with large_blocks_go_back(), arrow.Writer(temporary / "data.arrow") as writer:
                for part in parts:
                    needed = crafted + 2 * part.of * part.images.x[0].numel()
                    writer.append(part.images, part.index)
                    if part.before is not None:
                        tally.add(part.before, part.images)
                writer.close()
            record = self._described(spec, writer, tally, temporary)
            seconds = round(time.monotonic() - start, 3)
            write_whole(temporary / RECORD, {**record, **about, "seconds": seconds})
            # without file locks another builder may have been first: its bytes are as good
            if not final.exists():
                os.rename(temporary, final)
                flush(final.parent)
        except OSError as error:
            free = shutil.disk_usage(self.root).free
            raise StoreError(
                f"{final} could not be written ({error}); it needs about {max(needed, 1e6) / 1e6:.0f} MB, "
                f"{free / 1e6:.0f} MB are free"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._push(f"data/{spec.name}")

    def _described(self, spec: DataSpec, writer: arrow.Writer, tally: Tally, folder: Path) -> dict[str, Any]:
        files = sorted(folder.glob("*.arrow"))
        for file in files:
            flush(file)
        return {
            "key": spec.key,
            "spec": redacted_data(plain(spec)),  # a password is no part of the data's description
            "parents": [parent.name for parent in spec.parents],
            "layout": LAYOUT,
            "files": {file.name: stamp(file) for file in files},
            "images": sum(map(len, writer.labels)),
            "shape": list(writer.shape or ()),
            "num_classes": writer.num_classes,
            "change": tally.summary(),
            "environment": environment(),
            "platform": numerical_platform(CPU).to_json(),
        }

    def _cache(self, clean: DataSpec) -> Callable[[str, Callable[[], Tensors]], Tensors]:
        """Keeps statistics of a data set, and networks that learnt from it, under
        `<root>/statistics/<its name>/`."""
        folder = self.root / "statistics" / clean.name

        def cached(name: str, make: Callable[[], Tensors]) -> Tensors:
            with FileLock(self.root / "locks" / f"{clean.key}-{name}.lock"):  # others may want it too
                return there(name) or keep(name, make())

        def there(name: str) -> Tensors | None:
            file, mark = folder / f"{name}.arrow", folder / f"{name}.json"
            with suppress(DamagedError, OSError):
                if (data := read_regular(mark, STAMP.limit)) and unchanged(file, STAMP.read(data)):
                    return arrow.read(file)[0]
            return None

        def keep(name: str, made: Tensors) -> Tensors:
            file, mark = folder / f"{name}.arrow", folder / f"{name}.json"
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                arrow.write(temporary, made, {})
                flush(temporary)
                os.replace(temporary, file)
                write_whole(mark, stamp(file))
            except OSError:  # the file only saves a pass next time
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            return made

        return cached

    def _import_of(self, spec: DataSpec) -> AbstractContextManager[None]:
        """Keep the import that a data set is made from, if any, on this machine for the length of the
        block."""
        fingerprint = spec.poison[0].imports
        return nullcontext() if fingerprint is None else self._held(f"imports/{fingerprint}")

    def _held(self, name: str) -> AbstractContextManager[None]:
        """Keep a folder on this machine for the length of the block."""
        return nullcontext()

    def _put_aside(self, spec: DataSpec) -> None:
        """Quarantine a damaged data set, if there is one; the caller holds the lock of its key."""
        put_aside(self.path(spec), self.root / "quarantine")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the data set in `folder`, or None if there is none, it has another layout, or it is
    damaged."""
    return known(folder.name, read_regular(folder / RECORD, DATA.limit))


def known(name: str, data: bytes | None) -> dict[str, Any] | None:
    """The record of the data set `name` parsed from these bytes; None if it has another layout or is
    damaged."""
    with suppress(DamagedError):
        return None if data is None else data_record(name, data)
    return None


def _named(names: Iterable[str], key: str) -> list[str]:
    """The names that begin with `key`, or whose key does."""
    return [name for name in names if name.startswith(key) or name.rpartition("-")[2].startswith(key)]


def _check_settings(name: str, record: dict[str, Any] | None) -> None:
    """Raises DamagedError if the settings in a record do not belong to the data set `name`."""
    if record is None or "spec" not in record:
        return
    try:
        found = DataSpec.parse(record["spec"], "spec").name
    except InputError:  # settings of another version are not damaged
        return
    except ValueError as error:
        raise DamagedError(f"its settings have no key: {error}") from None
    if found != name:
        raise DamagedError(f"its settings are those of {found}")


def damaged(folder: Path) -> dict[str, str]:
    """The damaged files of the data set in `folder`, with the reason. Every byte is read."""
    record = read_record(folder) or {"files": {}}
    return damaged_files(record["files"], lambda name: folder / name)


def damaged_files(stamps: Mapping[str, Any], at: Callable[[str], Path]) -> dict[str, str]:
    """The files that do not match their stamps or do not hold what such a file must, with the reason; `at`
    gives the path of each."""
    found = {}
    for name, file_stamp in stamps.items():
        if not intact(at(name), file_stamp):
            found[name] = "its bytes are not those of its record" if at(name).exists() else "it is missing"
            continue
        try:
            if name == "data.arrow":
                arrow.read_images(at(name))
            else:
                restored(at(name), default="delta" if name == IMPORT_FILE else None)
        except (DamagedError, OSError) as error:
            found[name] = str(error)
    return found


def restored(file: Path, *, default: str | None = None) -> Perturbation:
    """The perturbation in a file of a data set, of the kind stored there. Raises DamagedError, and
    OSError."""
    for package in ("poisons.perturbations", "poisons.methods"):  # so that every kind is registered
        import_members(package)
    columns, values = arrow.read(file)
    kind = values.pop("kind", default)
    if not isinstance(kind, str) or kind not in Perturbation.kinds:
        raise DamagedError(f"there is no perturbation of the kind {str(kind)[:40]!r}")
    return Perturbation.kinds[kind].restore(columns, values)


def check_format(mark: bytes | None, where: str) -> None:
    """InputError unless this is the `store.json` of a store that this opsctl can read."""
    try:
        found = STORE.read(mark or b"")["format"]
    except DamagedError as error:
        raise InputError(f"{where}/store.json is damaged ({error}); is {where} a store?") from None
    if found > FORMAT:
        raise InputError(
            f"the store {where} has format {found}, this opsctl supports {FORMAT}: "
            "upgrade opsctl, or choose another store with --store"
        )
