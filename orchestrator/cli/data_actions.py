"""The implementation of the commands on data sets: build, show, export, import, list, verify, collect."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track
from rich.table import Table
from rich.text import Text

from orchestrator.cli.display import progress_text
from orchestrator.cli.terminal import Terminal
from orchestrator.storage import garbage
from orchestrator.storage.damage import damaged_files, in_quarantine
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.stores import storage_of
from poisons import CraftContext, DataSpec, Store
from poisons.arrow import read_index
from poisons.base import Report
from poisons.durable import write_output
from poisons.exchange.card import card
from poisons.exchange.export import Form, export
from poisons.exchange.importing import read_foreign
from poisons.exchange.stored_picture import picture_of
from poisons.perturbations.delta import Application
from poisons.records import RECORD, files_of
from trainers import InputError
from trainers.bare import device_named
from trainers.spec import plain

Build = Callable[[DataSpec, Store, Report], None]


def make(spec: DataSpec, store: Store, console: Terminal, build: Build | None, device: str) -> None:
    """Build a data set unless the store has it, and show its card. By default it is built in this process;
    `build` builds it elsewhere."""
    start, there = time.monotonic(), store.load(spec) is not None

    def report(row: dict[str, Any]) -> None:
        console.say(f"[{time.monotonic() - start:7.1f} s] {progress_text(row)}")

    if not there:
        console.say(f"{spec.name}: building")
        if build is None:
            store.ensure(spec, CraftContext(device=device_named(device), report=report))
        else:
            build(spec, store, report)
    show(spec, store, console, picture=None)
    if there:
        console.print("it was in the store already")


def show(spec: DataSpec, store: Store, console: Terminal, *, picture: Path | None) -> None:
    """Print a data set's card and write its picture."""
    record = store.record(spec) or {}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, text in card(record):
        table.add_row(Text(label, "bold"), text)
    console.print(table)
    file = picture or store.root / "pictures" / f"{spec.name}.png"
    try:
        write_output(file, picture_of(spec, store))
    except (InputError, OSError) as error:
        if picture is not None:
            raise InputError(f"--picture {picture}: {error}") from None
        console.say(("no picture:", "yellow"), f" {error}")
    else:
        console.say(("picture", "bold"), f"  {file}")
    console.say(("folder", "bold"), f"   {store.where}/data/{spec.name}")


def give(spec: DataSpec, store: Store, console: Terminal, *, form: Form, to: Path) -> None:
    """Export a data set."""
    images = store.load(spec)
    if images is None:
        raise InputError(f"{store.path(spec)} is damaged; build it again before you export it")
    with console.status(f"writing {len(images)} images to {to}"):
        index = read_index(images.file)
        place = export(images, index, to, form, split=spec.split, record=store.record(spec) or {})
    console.say(f"{len(images)} images are in {place}")


def take(
    path: Path,
    clean: DataSpec,
    store: Store,
    console: Terminal,
    *,
    application: Application,
    eps: Fraction | None,
) -> None:
    """Check a foreign poison against the clean images, and import it."""
    with console.status("reading the clean images"):
        images = store.ensure(clean)
    with console.status(f"reading {path}"):
        index = read_index(images.file)
        reading = clean.source.open(clean.split) if path.expanduser().is_dir() else None
        delta, facts = read_foreign(
            path, images, index=index, reading=reading, application=application, eps=eps
        )
    fingerprint = store.add_import(delta, facts, {"from": path.name, "clean": clean.name})
    for warning in facts.get("warnings", ()):
        console.say(("warning:", "yellow"), f" {warning}")
    poison = {"kind": "imported", "fingerprint": fingerprint}
    poison |= {"per": delta.per} if delta.per != "image" else {}
    spec = DataSpec.parse(plain(clean) | {"poison": poison}, "import")
    store.ensure(spec)
    show(spec, store, console, picture=None)
    inline = yaml.safe_dump(poison, default_flow_style=True, sort_keys=False).strip()  # quotes what needs it
    console.say(f"\nTo use it in a sweep:  data.poison: {inline}")


def list_all(store: Store, console: Terminal) -> None:
    """Print a table of all data sets and what needs them."""
    known = garbage.entries(store)
    table = Table("key", "data set", "images", "MB", "made", "needed by", box=None, padding=(0, 2, 0, 0))
    for column in (2, 3):
        table.columns[column].justify = "right"
    for entry in known:
        name, _, key = entry.name.rpartition("-")
        made = entry.record.get("environment", {}).get("time", "?")[:16].replace("T", " ")
        needed = ", ".join(entry.needed_by) or Text("nobody", "yellow")
        table.add_row(key, name, f"{entry.record['images']:,}", f"{entry.bytes / 1e6:.1f}", made, needed)
    console.print(table)
    whole = sum(entry.bytes for entry in known)
    console.say(f"{len(known)} data sets, {whole / 1e6:.1f} MB, in {store.where}")
    for name, why in store.damaged_records().items():
        console.say(("damaged", "red"), f" {store.where}/{name}: {why}")
    trials, kept = garbage.kept_weights(store)
    if trials:
        console.say(f"and the weights of {trials} trials, {kept / 1e6:.1f} MB")


def verify(store: Store, console: Terminal, key: str | None) -> bool:
    """Read every byte of the data sets and imports, or of one data set; False if any is damaged."""
    wanted = None if key is None else store.find(key).name
    known = [entry for entry in garbage.entries(store) if wanted in (None, entry.name)]
    imports = garbage.imports(store) if wanted is None else []
    damaged = {f"{name}/{RECORD}": why for name, why in store.damaged_records().items()} if not wanted else {}
    files: dict[str, Mapping[str, Any]] = {f"data/{entry.name}": entry.record["files"] for entry in known}
    files |= {f"imports/{name}": files_of(record) for name, record in imports}
    folders = track(
        files.items(), "verifying", console=console, transient=True, disable=not console.is_terminal
    )
    for folder, stamps in folders:
        found = store.damage(folder, stamps)
        damaged |= {f"{folder}/{name}": why for name, why in found.items()}
    for name, why in damaged.items():
        console.say(("damaged", "red"), f" {store.where}/{name}: {why}")
    read = f"{len(known)} data sets" + (f" and {len(imports)} imports" if imports else "")
    console.say(
        f"{read} read, {len(damaged)} files damaged"
        + ("; data sets are built again when a sweep needs them" if damaged else "")
    )
    return not damaged


def verify_ledger(store: Store, console: Terminal) -> bool:
    """Read every file of the ledger and every heartbeat; False if any is damaged."""
    ledger = Ledger(storage_of(store))
    bad = damaged_files(ledger)
    for name, why in bad.items():
        console.say(("damaged", "red"), f" {store.where}/{name}: {why}")
    again = "are made again when a sweep needs them (a damaged history or curve: once you removed its file)"
    hint = f"; they count as missing, and {again}" if bad else ""
    console.say(f"{len(ledger.done())} results read, {len(bad)} files damaged{hint}")
    if aside := in_quarantine(ledger):
        console.say(f"{aside} files or data sets were damaged before and are in quarantine/")
    return not bad


def collect(store: Store, console: Terminal, confirm: Callable[[], bool], *, weights: bool = False) -> None:
    """List what can be removed and why, and remove it after confirmation. Kept weights are included only with
    `weights`."""
    items = garbage.find_garbage(store, weights=weights)
    trials, kept = (0, 0) if weights else garbage.kept_weights(store)
    if trials:
        summary = f"{trials} trial{'s' * (trials > 1)} keep weights, {kept / 1e6:.1f} MB in all"
        console.say(f"{summary}; opsctl cache gc --weights removes them")
    for item in items:
        console.say(f"{item.bytes / 1e6:10.1f} MB  {item.name}  ({item.why})")
    if not items:
        console.print("nothing to remove: every data set is needed by a trial or a running sweep")
        return
    console.print(f"{len(items)} places, {sum(item.bytes for item in items) / 1e6:.1f} MB")
    if not confirm():
        console.print("nothing was removed")
        return
    gone = [item for item in items if garbage.remove(store, item)]
    console.print(f"removed {len(gone)} of {len(items)}, {sum(item.bytes for item in gone) / 1e6:.1f} MB")
    if len(gone) < len(items):
        console.print(
            "the rest may be in use: a data set is being built, or a sweep started; try again later"
        )
