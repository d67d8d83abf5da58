"""A report's warnings are one list, and no format leaves any of them out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from orchestrator import report
from orchestrator.cli.tables import below, picture
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.report.html.document import document_of
from orchestrator.report.html.render import page_of
from orchestrator.report.latex import escaped
from orchestrator.report.warning import MOST, SheetWarning, warning_lines
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

DOUBT = "gradients may be masked: 3 of 50 images"
TOLD = (DOUBT, "no space left", "ended early by the sweep", "1 of 6 trials have not run yet", "no column em")


@pytest.fixture
def sheet(store: Store) -> report.Sheet:
    """Six trials: two done, one of them in doubt, one without the metric, one failed, one stopped, one missing."""
    told = tiny(
        grid={"data.poison": ["clean", "ops"], "seed": [0, 1, 2]},
        report={"columns": "data.poison", "compare": [["clean", "em"]]},
        run={"scheduler": "asha"},
    )
    plan, ledger = plan_of(told, store), Ledger(store.where)
    keys = [task.key for task in plan.tasks]
    ledger.publish(keys[0], {"metrics": {"test/clean_acc": 0.5}})
    ledger.publish(keys[1], {"metrics": {"test/clean_acc": 0.25}, "warnings": [DOUBT]})
    ledger.publish(keys[2], {"metrics": {"train/loss": 1.0}})
    ledger.fail(keys[3], {"error": "no space left\nmore", "traceback": None, "kind": "trial"})
    ledger.stop(keys[4], {"epoch": 1})
    return report.make_sheet(read_status(plan.snapshot, ledger), Path("tiny.yaml"))


def test_each_warning_is_about_a_trial_or_about_the_sweep(sheet: report.Sheet) -> None:
    found = [(one.kind, one.name) for one in sheet.warnings]
    assert found == [
        ("failed", "data.poison=ops, seed=0"),
        ("stopped", "data.poison=ops, seed=1"),
        ("missing", None),
        ("missing", "data.poison=clean, seed=2"),
        ("doubt", "data.poison=clean, seed=1"),
        ("note", None),
    ]
    keys = {entry.key for entry in sheet.status.snapshot.entries}
    assert {one.key for one in sheet.warnings if one.name} < keys


def test_every_format_has_every_warning(sheet: report.Sheet) -> None:
    terminal = "\n".join(line.plain for line in below(sheet))
    image = " ".join(picture(sheet).replace("&#160;", " ").split())
    forms = {
        "terminal": terminal,
        "md": report.sheet_markdown(sheet),
        "latex": report.latex(sheet),
        "csv": report.comma_separated(sheet),
        "json": report.as_json([sheet]),
    }
    for name, text in forms.items():
        for words in TOLD:
            assert words in text, (name, words)
    assert "doubt" in image
    assert "no space left" in image
    for words in (DOUBT, "no space left", "no column em", "it finished without test/clean_acc"):
        assert words in page_of(document_of([sheet])), words


def test_a_cell_has_the_warnings_of_its_trials_and_the_sweep_its_own(sheet: report.Sheet) -> None:
    clean, ops = csv.DictReader(io.StringIO(report.comma_separated(sheet)))
    assert clean["warnings"] == f"missing: it finished without test/clean_acc; doubt: {DOUBT}"
    assert ops["warnings"].startswith("failed: trial: no space left; stopped: ended early")
    assert clean["sweep_warnings"] == ops["sweep_warnings"]
    assert ops["sweep_warnings"].startswith("missing: 1 of 6 trials have not run yet; note: ")


def test_a_kind_of_warning_that_nobody_knew_is_rendered_like_the_others(sheet: report.Sheet) -> None:
    """It may be about a cell, which has no key."""
    mixed = SheetWarning("platform", "its trials ran on two", row="tiny", column="ops")
    more = report.Sheet(**{**vars(sheet), "warnings": (*sheet.warnings, mixed)})
    assert "platform: tiny / ops: its trials ran on two" in [line.plain for line in below(more)]
    assert "- platform: tiny / ops: its trials ran on two" in report.sheet_markdown(more)
    assert escaped("platform: tiny / ops: its trials ran on two") in report.latex(more)
    clean, ops = csv.DictReader(io.StringIO(report.comma_separated(more)))
    assert "platform" not in clean["warnings"]
    assert ops["warnings"].endswith("platform: its trials ran on two")
    told = json.loads(report.as_json([more]))["warnings"][-1]
    assert told == {
        "kind": "platform",
        "text": mixed.text,
        "key": None,
        "name": None,
        "row": "tiny",
        "column": "ops",
    }
    assert "its trials ran on two" in page_of(document_of([more]))


def test_equal_warnings_share_a_line_and_many_are_counted() -> None:
    same = [SheetWarning("doubt", "masked", key=f"{i}", name=f"seed={i}") for i in range(MOST + 2)]
    (line,) = warning_lines(same)
    assert (
        line
        == "doubt: masked (10 times: " + "; ".join(f"seed={i}" for i in range(MOST)) + "; ... and 2 more)"
    )
    other = [SheetWarning("failed", f"error {i}", key=f"{i}", name=f"seed={i}") for i in range(MOST + 2)]
    assert warning_lines(other)[-1] == "failed: ... and 2 more"
    assert len(warning_lines(other)) == MOST + 1


def test_a_document_from_before_warnings_shows_those_of_its_trials(sheet: report.Sheet) -> None:
    document = document_of([sheet])
    del document["sweeps"][0]["report"]["warnings"]
    assert DOUBT in page_of(document)
