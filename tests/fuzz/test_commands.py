"""Each command that reads a store, given one that is damaged or hostile, ends by itself within seconds, with an
exit code of its own, and touches nothing outside the store."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import cli
from orchestrator.depots.results import HISTORY, LAST
from tests.fuzz import base
from tests.fuzz.hostile import TEXTS, changed_bytes, damaged, examples

SECONDS = 5.0
GB = 2**20  # of ru_maxrss, which is in kB
CODES = {0, 1, 2}
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
    ("show", "digits-ops", "--picture", "PAGE"),
    ("export", "digits-ops", "FOLDER", "--format", "npz"),
    ("poison", "{poison: ops, limit: 60}"),
    ("stop", "--all", "--wait", "0"),
    ("doctor",),
)


class HungError(BaseException):
    """A command took longer than anyone waits."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """HungError after so many seconds."""

    def ring(_: int, __: FrameType | None) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """A folder with a finished store to damage, and a canary beside it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.store = folder, folder / "store"
        self.original, self.file, self.plan = folder / "original", folder / "tiny.yaml", None
        _, _, plan = base.make(folder)
        self.trials = [task.key for task in plan.tasks]
        self.store.rename(self.original)
        (folder / "victim").mkdir()
        (folder / "victim" / "canary").write_text("whole")
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("OPSCTL_CACHE", str(folder / "home" / "cache"))
        patch.setenv("OPSCTL_STORE", str(self.store))
        patch.setenv("COLUMNS", "200")
        self.names = sorted(
            str(f.relative_to(self.original)) for f in self.original.rglob("*") if f.is_file()
        )
        self.outside = self.beside()
        self.seconds: list[tuple[float, str]] = []  # of every command that ended
        self.values = self.cells()

    def fresh(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.original, self.store)

    def beside(self) -> dict[str, str]:
        """What lies beside the store, by its digest."""
        ours = {"store", "home", "page", "out"}
        files = (f for f in self.folder.rglob("*") if f.relative_to(self.folder).parts[0] not in ours)
        return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}

    def run(self, command: tuple[str, ...]) -> int:
        """The exit code of a command that is run in this process; its exceptions are its failures."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        places = {
            "SWEEP": str(self.file),
            "PAGE": str(self.folder / "page"),
            "FOLDER": str(self.folder / "out"),
        }
        argv, sys.argv = sys.argv, ["opsctl", *(places.get(word, word) for word in command)]
        start = time.monotonic()
        try:
            with limited(SECONDS * float(os.environ.get("OPSCTL_FUZZ_PATIENCE", "6"))):
                cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            sys.argv = argv
            self.seconds.append((time.monotonic() - start, " ".join(command)))
        return 0

    def cells(self) -> set[str]:
        """All numbers that a report of the whole store has of single trials."""
        self.fresh()
        return set(self.values_of())

    def values_of(self) -> list[str]:
        """The accuracies of a report's trials."""
        out, sys.stdout = sys.stdout, io.StringIO()
        try:
            assert self.run(("report", str(self.file), "--format", "trials.csv")) in CODES
            text = sys.stdout.getvalue()
        finally:
            sys.stdout = out
        return [
            row["test/clean_acc"] for row in csv.DictReader(io.StringIO(text)) if row.get("test/clean_acc")
        ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        made = Bench(tmp_path_factory.mktemp("fuzz"), patch)
        yield made
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        slowest = "{:.1f} s ({})".format(*max(made.seconds))
        print(f"{len(made.seconds)} commands, the slowest took {slowest}; this process took {memory:.0f} MB")


def long_fields(name: str) -> tuple[str, ...]:
    return LAST if "/look-" in name else HISTORY if name.startswith("trials/") else ()


@pytest.fixture
def quiet(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was printed since."""
    return lambda: capsys.readouterr().out


def check_outcome(bench: Bench, code: int, printed: str) -> None:
    assert code in CODES, code
    assert bench.beside() == bench.outside, "something beside the store was touched"
    assert not [c for c in printed if ord(c) < 32 and c not in "\n\t\r"], "a control character was printed"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 * GB  # of all that ran in this process


def test_damaged_files(bench: Bench, quiet: Callable[[], str]) -> None:
    """One to three files of the store are changed, and a command is run."""

    @given(st.data())
    @examples(250)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        for name in data.draw(st.lists(st.sampled_from(bench.names), min_size=1, max_size=3, unique=True)):
            file = bench.store / name
            before = file.read_bytes()
            is_json = name.endswith(".json") and before.startswith((b"{", b"["))
            file.write_bytes(
                data.draw(damaged(before, long_fields(name)) if is_json else changed_bytes(before))
            )
        code = bench.run(data.draw(st.sampled_from(COMMANDS)))
        check_outcome(bench, code, quiet())

    check()


def test_no_number_of_a_damaged_result_is_reported(bench: Bench, quiet: Callable[[], str]) -> None:
    """Whatever bytes of results are changed, a report has only numbers that a trial published."""
    results = [name for name in bench.names if name.endswith("result.json")]

    @given(st.data())
    @examples(100)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        name = data.draw(st.sampled_from(results))
        file = bench.store / name
        file.write_bytes(data.draw(changed_bytes(file.read_bytes())))
        assert set(bench.values_of()) <= bench.values
        check_outcome(bench, 0, quiet())

    check()


def put_in_place(file: Path, kind: str, other: bytes, canary: Path) -> None:
    """Have something else where a file was."""
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


def test_files_that_are_none(bench: Bench, quiet: Callable[[], str]) -> None:
    """In the place of a file there is a folder, a link, a named pipe, another file of the store, or nothing."""

    @given(st.data())
    @examples(150)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        file, other = (bench.store / data.draw(st.sampled_from(bench.names)) for _ in range(2))
        kind = data.draw(st.sampled_from(["folder", "link", "loop", "pipe", "another", "nothing"]))
        put_in_place(file, kind, other.read_bytes(), bench.folder / "victim" / "canary")
        code = bench.run(data.draw(st.sampled_from(COMMANDS)))
        check_outcome(bench, code, quiet())

    check()


NAMES = [
    text
    for text in TEXTS
    if 2 < len(text.encode(errors="replace")) < 100 and not {*text} & {"\0", "/", "\ud800"}
]


def test_files_of_hostile_names(bench: Bench, quiet: Callable[[], str]) -> None:
    """Beside the files of the store lie others whose names are not those of any."""

    @given(st.data())
    @examples(100)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        file = bench.store / data.draw(st.sampled_from(bench.names))
        (file.parent / data.draw(st.sampled_from(NAMES))).write_bytes(file.read_bytes())
        code = bench.run(data.draw(st.sampled_from(COMMANDS)))
        check_outcome(bench, code, quiet())

    check()
