"""`opsctl report` prints one sweep or many, with published figures, and is fast."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.monitoring.sweep_status import SweepStatus, read_status
from orchestrator.planning.snapshot import Entry, Snapshot
from orchestrator.report import make_sheet
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.conftest import Opsctl
from tests.orchestrator.sweeps import plan_of, tiny, write

REFERENCE = {"source": "a paper", "units": "percent", "tables": {"t": {"metric": "test/clean_acc", "cells": [
    {"row": "5", "column": "clean", "value": 50.0}]}}}  # fmt: skip
GRID = {"train.epochs": [5], "data.poison": ["clean", "ops"], "seed": [0, 1]}
CLAIM = {"says": "Ops hurts", "lower": {"data.poison": "ops"}, "higher": {"data.poison": "clean"}}


def sweep(folder: Path, store: Store, name: str = "tiny", **words: Any) -> Path:
    """The file of a finished sweep: clean 0.5 and 0.52, ops 0.1 and 0.12."""
    content = tiny(name=name, grid=GRID, report={"columns": "data.poison", **words})
    file = write(folder, content)
    plan, ledger = plan_of(content, store), Ledger(store.where)
    for task, acc in zip(plan.tasks, (0.5, 0.52, 0.1, 0.12), strict=True):
        ledger.publish(task.key, {"metrics": {"test/clean_acc": acc}})
    (folder / "reference").mkdir(exist_ok=True)
    (folder / "reference" / "paper.json").write_text(json.dumps(REFERENCE))
    return file


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Store]:
    return tmp_path, Store(tmp_path / "store")


def test_a_report_has_published_figures_comparisons_and_claims(
    opsctl: Opsctl, place: tuple[Path, Store]
) -> None:
    file = sweep(*place, reference="paper/t", claims=[CLAIM])
    code, out, _ = opsctl("report", file, "--compare", "clean,ops")
    assert code == 0
    for words in (
        "51.00 ± 1.41",
        "50.00 +1.00 =",
        "below each: as published (a paper)",
        "ops minus clean, each row by itself:",
        "5: -40.00 points, 95 % from -40.00 to -40.00, p = 0.5 (2 pairs)",
        "holds: Ops hurts (2 of 2 seeds)",
    ):
        assert words in out
    code, out, _ = opsctl("status", file)
    assert "50.00 +1.00 =" in out
    assert "holds" not in out, "a status is about what runs"


def test_several_sweeps_are_printed_in_order(opsctl: Opsctl, place: tuple[Path, Store]) -> None:
    one, other = sweep(*place), sweep(*place, name="other")
    _, out, _ = opsctl("report", one, other)
    assert out.index("tiny: ") < out.index("other: ")
    _, out, _ = opsctl("report", one, other, "--format", "json")
    assert [content["name"] for content in json.loads(out)] == ["tiny", "other"]
    assert json.loads(out)[0]["file"] == str(one)
    _, out, _ = opsctl("report", one, other, "--format", "csv")
    assert [row["sweep"] for row in csv.DictReader(io.StringIO(out))] == ["tiny"] * 2 + ["other"] * 2
    _, out, _ = opsctl("report", one, other, "--format", "md")
    assert out.count("| train.epochs | clean | ops |") == 2
    _, out, _ = opsctl("report", one, other, "--format", "latex")
    assert (out.count(r"\toprule"), out.count(r"\label{tab:other}")) == (2, 1)
    code, _, err = opsctl("report", one, other, "--format", "svg")
    assert (code, "name one sweep file" in err) == (2, True)
    _, out, _ = opsctl("report", one, "--format", "svg")
    assert out.startswith("<svg")


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ({"reference": "papr/t"}, [], "no file papr.json in"),
        ({"reference": "paper/table"}, [], "no table 'table'; there is 't' in"),
        ({}, ["--compare", "clean,osp"], "no column 'osp'; did you mean 'ops'"),
        ({}, ["--compare", "clean"], "write two, as in --compare em,ops"),
    ],
)
def test_a_user_error_is_one_message_and_exit_code_2(
    opsctl: Opsctl, place: tuple[Path, Store], words: dict[str, Any], options: list[str], message: str
) -> None:
    code, out, err = opsctl("report", sweep(*place, **words), *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_missing_reference_is_only_a_note_in_a_status(opsctl: Opsctl, place: tuple[Path, Store]) -> None:
    """A cluster may have the sweep file without its reference."""
    file = sweep(*place, reference="papr/t")
    assert opsctl("status", file)[0] == 0
    status = read_status(plan_of(tiny(), place[1]).snapshot, Ledger(place[1].where))
    snapshot = Snapshot(**{**vars(status.snapshot), "report": {"reference": "papr/t"}})
    sheet = make_sheet(type(status)(**{**vars(status), "snapshot": snapshot}), file, strict=False)
    assert "no file papr.json" in sheet.notes[0]


def test_the_page_is_written_to_the_requested_file(opsctl: Opsctl, place: tuple[Path, Store]) -> None:
    file, page = sweep(*place, reference="paper/t", claims=[CLAIM]), place[0] / "page.html"
    code, out, _ = opsctl("report", file, "--html", page)
    assert (code, out) == (0, f"the report is in {page}\n")
    text = page.read_text()
    assert "51.00" in text
    assert "Ops hurts" in text


def test_a_format_of_a_page_is_refused(opsctl: Opsctl, place: tuple[Path, Store]) -> None:
    page = place[0] / "page.html"
    code, _, err = opsctl("report", sweep(*place), "--html", page, "--format", "csv")
    assert (code, "--html writes a page instead: use one of them" in err) == (2, True)
    assert not page.exists()


def test_the_help_teaches_by_example(opsctl: Opsctl) -> None:
    _, out, _ = opsctl("report", "--help")
    for words in ("--compare clean,ops", "--format latex > tables.tex", "OPSCTL_COMPARE", "Exit code 0"):
        assert words in out


def test_thousands_of_trials_are_reported_quickly(tmp_path: Path) -> None:
    """5,000 results that are already read: tables, intervals, comparisons and claims."""
    points = [(str(a), str(b), str(seed)) for a in range(500) for b in range(2) for seed in range(5)]
    entries = [
        Entry(f"{n:016x}", dict(zip(("a", "b", "seed"), point, strict=True)))
        for n, point in enumerate(points)
    ]
    claims = [{"says": "x", "lower": {"b": "0"}, "higher": {"b": "1"}}]
    words = {"claims": claims, "compare": [["0", "1"]]}
    snapshot = Snapshot(
        name="big",
        question="?",
        metric="test/clean_acc",
        row_axes=("a",),
        column_axis="b",
        stops=False,
        entries=tuple(entries),
        report=words,
    )
    results = {entry.key: {"metrics": {"test/clean_acc": n % 97 / 97}} for n, entry in enumerate(entries)}
    start = time.process_time()
    content = make_sheet(SweepStatus(snapshot, results, {}, frozenset()), tmp_path / "big.yaml").as_json()
    assert time.process_time() - start < 5, "half a second on an idle machine"
    assert (len(content["cells"]), len(content["claims"][0]["points"])) == (1000, 500)
