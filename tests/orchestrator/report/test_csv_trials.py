"""Comma-separated values equal those of the ledger to the last bit and are safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.monitoring.sweep_status import SweepStatus, read_status
from orchestrator.planning.snapshot import Entry, Snapshot
from orchestrator.report.csv_text import csv_text, neutralised
from orchestrator.report.csv_trials import trials_csv
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.conftest import Opsctl
from tests.orchestrator.sweeps import plan_of, tiny, write

pandas = pytest.importorskip("pandas")

# as --help says it
READ: dict[str, Any] = {"keep_default_na": False, "na_values": ""}
SWEEP = tiny(
    grid={"data.poison": ["clean", "ops"], "train.label_smoothing": [0, 0.1], "seed": [0, 1]},
    probes=["distance"],
    report={"rows": ["data.poison", "train.label_smoothing"]},
)


def a_sheet(content: dict[str, Any], store: Store) -> report.Sheet:
    """A sweep whose trials are done, except the last three: one failed, one was stopped, one is missing."""
    plan, ledger = plan_of(content, store), Ledger(store.where)
    for i, task in enumerate(plan.tasks[:-3]):
        metrics = {"test/clean_acc": 1 / (3 + i), "train/loss": math.exp(-20 * i), "test/peak_epoch": 2.0}
        warnings = ["a, b", 'the "training set" was not learnt'] if i == 1 else []
        ledger.publish(task.key, {"metrics": metrics, "seconds": 0.1 + 0.2 + i, "warnings": warnings})
        for planned in task.probes:
            ledger.publish_finding(task.key, planned.key, {"metrics": {"relative": math.pi / (i + 1)}})
    ledger.fail(plan.tasks[-3].key, {"error": "=HYPERLINK(1)\nmore", "traceback": None})
    ledger.stop(plan.tasks[-2].key, {"epoch": 1})
    return report.make_sheet(read_status(plan.snapshot, ledger), Path("tiny.yaml"))


def frame(text: str, **options: Any) -> Any:
    return pandas.read_csv(io.StringIO(text), **READ, **options)


def test_each_trial_equals_its_ledger_record(store: Store) -> None:
    sheet = a_sheet(SWEEP | {"run": {"scheduler": "asha"}}, store)
    found = frame(trials_csv(sheet))
    entries = sheet.status.snapshot.entries
    assert list(found.columns) == [
        *("sweep", "key", "data.poison", "train.label_smoothing", "seed"),
        *("test/clean_acc", "train/loss", "test/peak_epoch", "distance/relative"),
        *("seconds", "state", "platform", "precision", "warnings", "sweep_warnings"),
    ]
    assert found["key"].tolist() == [entry.key for entry in entries]
    assert found["data.poison"].tolist() == [entry.labels["data.poison"] for entry in entries]
    assert found["train.label_smoothing"].tolist() == [0.0, 0.0, 0.1, 0.1] * 2
    ledger = Ledger(store.where)
    for (_, line), entry in zip(found.iterrows(), entries, strict=True):
        record = ledger.complete(entry.key, entry.probe_keys)
        assert (record is None) == (line["state"] != "done")
        for name, value in {**record["metrics"], "seconds": record["seconds"]}.items() if record else ():
            assert line[name] == value, "the same number, not a near one"
    assert found["state"].tolist() == ["done"] * 5 + ["failed", "stopped", "missing"]
    assert found["test/clean_acc"].iloc[5:].isna().all()
    assert found["warnings"][1] == 'doubt: a, b; doubt: the "training set" was not learnt'
    assert found["warnings"][5] == "failed: =HYPERLINK(1)"
    assert pandas.isna(found["warnings"][0])


def test_a_trial_has_the_warnings_of_its_cell_and_of_the_sweep(store: Store) -> None:
    content = tiny(
        grid={"data.poison": ["clean", "ops"], "seed": [0, 1]},
        report={"columns": "data.poison", "compare": [["clean", "em"]]},
    )
    plan, ledger = plan_of(content, store), Ledger(store.where)
    for task, precision in zip(plan.tasks, ("float32", "bfloat16", "float32", "float32"), strict=True):
        record = {"metrics": {"test/clean_acc": 0.5}, "precision": precision, "platform": {"name": "torch 9"}}
        ledger.publish(task.key, record)
    sheet = report.make_sheet(read_status(plan.snapshot, ledger), Path("tiny.yaml"))
    found = frame(trials_csv(sheet))
    assert found["platform"].tolist() == ["torch 9"] * 4
    assert found["precision"].tolist() == ["float32", "bfloat16", "float32", "float32"]
    assert found["warnings"].str.startswith("platform: its trials ").tolist()[:2] == [True, True]
    assert found["warnings"].isna().tolist()[2:] == [True, True]
    assert found["sweep_warnings"].str.contains("the sweep has no column em").all()


def test_several_sweeps_are_one_table(store: Store) -> None:
    one, other = (
        a_sheet(SWEEP, store),
        a_sheet(tiny(name="other", grid={"train.epochs": [3, 4, 5, 6]}), store),
    )
    found = frame(trials_csv(one, other))
    assert found["sweep"].tolist() == ["tiny"] * 8 + ["other"] * 4
    assert found["train.epochs"].tolist()[8:] == [3, 4, 5, 6]
    assert found["data.poison"].isna().tolist() == [False] * 8 + [True] * 4
    assert found["distance/relative"][8:].isna().all()


def by_hand(labels: dict[str, str], metrics: dict[str, float], **record: Any) -> report.Sheet:
    entry = Entry("0123456789abcdef", labels)
    snapshot = Snapshot(
        name="by_hand",
        question="?",
        metric="test/clean_acc",
        row_axes=tuple(labels),
        column_axis=None,
        stops=False,
        entries=(entry,),
    )
    results = {entry.key: {"metrics": metrics, **record}}
    return report.make_sheet(SweepStatus(snapshot, results, {}, frozenset()), Path("x.yaml"))


def test_an_axis_named_like_another_column_gets_a_prefix() -> None:
    labels = {"key": "a", "train/loss": "b", "seconds": "c", "seed": "0"}
    found = frame(trials_csv(by_hand(labels, {"train/loss": 0.5, "state": 0.25}, seconds=7.0)))
    assert len(set(found.columns)) == len(found.columns)
    (line,) = found.to_dict("records")
    assert (line["axis:key"], line["axis:train/loss"], line["axis:seconds"], line["seed"]) == (
        "a",
        "b",
        "c",
        0,
    )
    assert (line["key"], line["train/loss"], line["seconds"]) == ("0123456789abcdef", 0.5, 7.0)
    assert (line["state"], line["metric:state"]) == ("done", 0.25)


@pytest.mark.parametrize(
    "label",
    [
        "plain",
        "a,b",
        'say "x"',
        "two\nlines",
        "null",
        "None",
        "NA",
        "nan",
        " x ",
        "ε ≤ 8/255",
        "'",
    ],
)
def test_a_label_is_read_back_unchanged(label: str) -> None:
    text = trials_csv(by_hand({"axis": label}, {"test/clean_acc": 0.5}))
    assert frame(text)["axis"].tolist() == [label]
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["axis"] == label


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "\t=1", " =1", "\n=1", "-resnet", "=", "＝1"],
)
def test_no_cell_is_a_formula(text: str) -> None:
    sheet = by_hand({text: text}, {"test/clean_acc": 0.5}, warnings=[text])
    for form in (trials_csv(sheet), report.comma_separated(sheet)):
        for row in csv.reader(io.StringIO(form, newline="")):
            assert [cell for cell in row if cell.startswith(tuple("=+-@\t\r\n＝"))] == []
    assert neutralised(text) == f"'{text}"


def test_control_characters_are_spelt_out() -> None:
    assert neutralised("\r=1") == r"\x0d=1"
    assert neutralised("a\x1b[2J\0") == r"a\x1b[2J\x00"


@pytest.mark.parametrize("number", ["-0.5", "+3", "-1e-05", "-.5", "-7", "+2.E+3"])
def test_numbers_stay_numbers(number: str) -> None:
    assert neutralised(number) == number
    found = frame(trials_csv(by_hand({"axis": number}, {"train/loss": float(number)})))
    assert found["axis"][0] == found["train/loss"][0] == float(number)


def test_pandas_reads_values_that_are_not_finite() -> None:
    text = csv_text(["a"], [[-math.inf], [math.inf], [math.nan], [None], [-1.5]])
    found = pandas.read_csv(io.StringIO(text))["a"].tolist()
    assert found[:2] == [-math.inf, math.inf]
    assert [math.isnan(value) for value in found] == [False, False, True, True, False]


def test_the_command_writes_the_csv_and_its_help_describes_it(opsctl: Opsctl, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    content = tiny(grid={"data.poison": ["clean", "ops"], "seed": [0, 1]})
    sheet, file = a_sheet(content, store), write(tmp_path, content)
    code, out, err = opsctl("report", file, "--format", "trials.csv")
    assert (code, err) == (0, "")
    assert out == trials_csv(sheet)
    _, out, _ = opsctl("report", "--help")
    words = " ".join(out.replace("│", " ").split())
    for promise in (
        "trials.csv has a line per trial",
        "accuracies are fractions",
        'keep_default_na=False, na_values=""',
    ):
        assert promise in words
