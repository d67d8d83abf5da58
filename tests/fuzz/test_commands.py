"""Each command, given a damaged or hostile store, ends within seconds with a regular exit code and touches nothing
outside the store."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.bench import Bench
from tests.fuzz.hostile import TEXTS, changed_bytes, damaged, examples

FORMATS = ("table", "md", "latex", "csv", "json", "svg", "trials.csv")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("status", "SWEEP"),
    *(("report", "SWEEP", "--format", form) for form in FORMATS),
    ("report", "SWEEP", "--html", "PAGE"),
    ("plan", "SWEEP"),
    ("retry", "SWEEP", "--dry-run"),
    ("cache", "ls"),
    ("cache", "verify"),
    ("cache", "gc", "--yes"),
    ("show", "digits-ops-train", "--picture", "PAGE"),
    ("export", "digits-ops-train", "--to", "FOLDER", "--format", "npz"),
    ("poison", "{poison: ops, limit: 60}"),
    ("stop", "--all", "--wait", "0"),
    ("doctor",),
)
KINDS = ("folder", "link", "loop", "pipe", "another", "nothing")
NAMES = [
    text
    for text in TEXTS
    if 2 < len(text.encode(errors="replace")) < 100 and not {*text} & {"\0", "/", "\ud800"}
]


def some(names: list[str]) -> st.SearchStrategy[list[str]]:
    """One to three of them."""
    return st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)


def damage(store: Path, names: list[str], data: st.DataObject) -> None:
    """Damage these files of a store."""
    for name in names:
        file = store / name
        before = file.read_bytes()
        is_json = name.endswith(".json") and before.startswith((b"{", b"["))
        file.write_bytes(data.draw(damaged(before) if is_json else changed_bytes(before)))


def test_commands_survive_damaged_files(bench: Bench) -> None:
    """One to three files of the store are changed, and a command is run."""

    @given(st.data())
    @examples(120)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        damage(bench.store, data.draw(some(bench.names)), data)
        bench.run(data.draw(st.sampled_from(COMMANDS)))

    check()


def test_no_number_of_a_damaged_result_is_reported(bench: Bench) -> None:
    """Whichever bytes of results are changed, a report has only numbers that a trial published."""
    results = [name for name in bench.names if name.startswith("trials/") and name.endswith(".json")]

    @given(st.data())
    @examples(50)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        name = data.draw(st.sampled_from(results))
        file = bench.store / name
        file.write_bytes(data.draw(changed_bytes(file.read_bytes())))
        assert bench.values().items() <= bench.published.items()

    check()


def put_in_place(file: Path, kind: str, other: bytes, canary: Path) -> None:
    """Replace a file by something else."""
    file.unlink()
    match kind:
        case "folder":
            file.mkdir()
        case "link":
            file.symlink_to(canary)
        case "loop":
            file.symlink_to(file)
        case "pipe":
            os.mkfifo(file)
        case "another":
            file.write_bytes(other)


def test_commands_survive_links_pipes_and_folders_in_place_of_files(bench: Bench) -> None:
    """A file is replaced by a folder, a link, a named pipe, another file of the store, or nothing."""

    @given(st.data())
    @examples(75)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        file, other = (bench.store / data.draw(st.sampled_from(bench.names)) for _ in range(2))
        kind = data.draw(st.sampled_from(KINDS))
        put_in_place(file, kind, other.read_bytes(), bench.folder / "victim" / "canary")
        bench.run(data.draw(st.sampled_from(COMMANDS)))

    check()


def test_commands_survive_files_with_hostile_names(bench: Bench) -> None:
    """The store has additional files with hostile names."""

    @given(st.data())
    @examples(50)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        file = bench.store / data.draw(st.sampled_from(bench.names))
        (file.parent / data.draw(st.sampled_from(NAMES))).write_bytes(file.read_bytes())
        bench.run(data.draw(st.sampled_from(COMMANDS)))

    check()
